"""Nothing that the agent writes stands where it reads: a document with one thing wrong, and the line that says so."""

import pytest

from tests.unit.config.documents import (
    FILE,
    ROLE_PATH,
    at_vault,
    document,
    verified,
    with_file,
    with_method,
    with_sink,
    wrong,
)

SINK = "[[auto_auth.sink]]\n[auto_auth.sink.config]\n"
SINK_PATH = "auto_auth.sink[0].config.path"
DESTINATION = "template[0].destination"
METHOD_CONFIG = "auto_auth.method.config"
STATE_RULE = "is in agent.state_dir, which is for the agent's records alone; write to another directory"


def own(key: str) -> str:
    """What is said of a path that stands at `key` as well."""
    return f"is what the agent reads as {key}; write to another path"


def logging_in(kind: str, config: str, rest: str) -> str:
    """A configuration that logs in like this, and writes something."""
    return f"{with_method(kind, config)}\n{rest}"


def sink(path: str) -> str:
    """A token's file."""
    return f'{SINK}path = "{path}"\n'


def file(path: str) -> str:
    """A credential's file."""
    return f"[[template]]\n{FILE}".replace("/etc/secrets/db", path)


APPROLE = 'role_id_file_path = "/id/role"\nsecret_id_file_path = "/id/secret"'
PAIR = 'client_cert = "/tls/crt"\nclient_key = "/tls/key"'

RULES: dict[str, tuple[str, str]] = {
    "a sink over the token file": (
        logging_in("token_file", 'token_file_path = "/id/token"', sink("/id/token")),
        f"{SINK_PATH}: {own(f'{METHOD_CONFIG}.token_file_path')}",
    ),
    "a sink over the projected token": (
        logging_in("kubernetes", 'role = "a"\ntoken_path = "/id/token"', sink("/id/token")),
        f"{SINK_PATH}: {own(f'{METHOD_CONFIG}.token_path')}",
    ),
    "a sink over a JWT": (
        logging_in("jwt", 'role = "a"\npath = "/id/token"', sink("/id/token")),
        f"{SINK_PATH}: {own(f'{METHOD_CONFIG}.path')}",
    ),
    "a file over the role id": (
        logging_in("approle", APPROLE, file("/id/role")),
        f"{DESTINATION}: {own(f'{METHOD_CONFIG}.role_id_file_path')}",
    ),
    "a file over the secret id": (
        logging_in("approle", APPROLE, file("/id/secret")),
        f"{DESTINATION}: {own(f'{METHOD_CONFIG}.secret_id_file_path')}",
    ),
    "a file over a login's certificate": (
        logging_in("cert", PAIR, file("/tls/crt")),
        f"{DESTINATION}: {own(f'{METHOD_CONFIG}.client_cert')}",
    ),
    "a file over a federated token": (
        logging_in("aws", 'role = "a"\nweb_identity_token_file = "/id/t"', file("/id/t")),
        f"{DESTINATION}: {own(f'{METHOD_CONFIG}.web_identity_token_file')}",
    ),
    "a sink over the token of a cluster's own method": (
        at_vault(
            method='[vault.method]\ntype = "token_file"\nconfig = { token_file_path = "/id/token" }',
            rest=sink("/id/token"),
        ),
        f"{SINK_PATH}: {own('vault.method.config.token_file_path')}",
    ),
    "a sink over the CA": (
        at_vault(more_vault='ca_cert = "/tls/ca"', rest=sink("/tls/ca")),
        f"{SINK_PATH}: {own('vault.ca_cert')}",
    ),
    "a file over the client's key": (
        at_vault(more_vault=PAIR, rest=file("/tls/key")),
        f"{DESTINATION}: {own('vault.client_key')}",
    ),
    "a file over the password": (
        with_file(file=FILE.replace("/etc/secrets/db", "/etc/leasehold/admin")),
        f"{DESTINATION}: {own('postgresql.password_file')}",
    ),
    "a file over a CA to verify with": (
        verified(f'sslmode = "verify-ca"\nsslrootcert = "/tls/ca"\n{file("/tls/ca")}'),
        f"{DESTINATION}: {own(ROLE_PATH + '.verify[0].sslrootcert')}",
    ),
    "a file over its template": (
        document(
            rest='[[template]]\ndestination = "/etc/t"\nsource = "/etc/t"\nroles = ["database/creds/app"]',
        ),
        f"{DESTINATION}: {own('template[0].source')}",
    ),
    "a file over a command": (
        with_file(more_role='on_failed = ["/etc/secrets/db"]'),
        f"{DESTINATION}: {own(ROLE_PATH + '.on_failed[0]')}",
    ),
    "an audit log over the token": (
        logging_in("token_file", 'token_file_path = "/id/token"', '[audit]\nfile = "/id/token"'),
        f"audit.file: {own(f'{METHOD_CONFIG}.token_file_path')}",
    ),
    "a socket over the token": (
        logging_in("token_file", 'token_file_path = "/id/token"', '[listener.unix]\naddress = "/id/token"'),
        f"listener.unix.address: {own(f'{METHOD_CONFIG}.token_file_path')}",
    ),
    "the same place by its link": (
        logging_in("token_file", 'token_file_path = "/var/run/id/token"', sink("/run/id/token")),
        f"{SINK_PATH}: {own(f'{METHOD_CONFIG}.token_file_path')}",
    ),
    "a sink among the records": (
        with_sink('path = "/run/state/token"\n[agent]\nstate_dir = "/run/state"'),
        f"{SINK_PATH}: {STATE_RULE}",
    ),
    "a file in place of the records": (
        with_file('[agent]\nstate_dir = "/etc/secrets/db"'),
        f"{DESTINATION}: {STATE_RULE}",
    ),
    "a file below the records, by a link": (
        with_file('[agent]\nstate_dir = "/run/state"', file=FILE.replace("/etc/secrets", "/var/run/state/files")),
        f"{DESTINATION}: {STATE_RULE}",
    ),
    "one file for both ids": (
        with_method("approle", 'role_id_file_path = "/id/x"\nsecret_id_file_path = "/id/x"'),
        f"{METHOD_CONFIG}.secret_id_file_path: is role_id_file_path as well; each is a file of its own",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_the_agent_reads_is_never_written(text: str, expected: str) -> None:
    assert wrong(text) == [expected]


SOUND = {
    "beside what is read": logging_in("token_file", 'token_file_path = "/id/token"', sink("/id/token-2")),
    "a key of another type's default": logging_in(
        "token_file",
        'token_file_path = "/id/token"',
        sink("/var/run/secrets/kubernetes.io/serviceaccount/token"),
    ),
    "a file called like the public CAs": verified('sslmode = "verify-full"\nsslrootcert = "system"'),
    "beside the records": with_sink('path = "/run/state-of-the-app/token"\n[agent]\nstate_dir = "/run/state"'),
    "the records beside a file": with_file('[agent]\nstate_dir = "/etc/secrets/state"'),
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND.keys())
def test_what_stands_elsewhere_is_accepted(text: str) -> None:
    assert wrong(text) == []
