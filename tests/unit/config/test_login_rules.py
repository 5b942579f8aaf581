"""Rules for [auto_auth]: a sound document with one thing wrong, and the exact line that says so."""

from typing import get_args

import pytest

from agent.config import check
from agent.config.model import Method
from agent.config.upstreams import MethodType
from tests.unit.config.documents import (
    FILE,
    METHOD,
    OWNER_RULE,
    PATH_RULE,
    at_vault,
    document,
    read,
    with_method,
    with_sink,
    wrong,
)

CONFIG = "auto_auth.method.config"
URL_RULE = 'must be "https://HOST:PORT", with nothing before or behind it'
CLEAR_RULE = 'lets tokens and credentials travel in clear; only a loopback host may do without TLS: write "https"'
NEAR_RULE = f"{CONFIG}.metadata_endpoint: " + CLEAR_RULE.replace("loopback host", "loopback or link-local address")
AFAR = 'metadata_endpoint = "http://203.0.113.9"'
FALLBACKS = 'fallback_addresses = ["https://vault-1:8200", "http://127.0.0.1:8201"]'
MOUNT_RULE = 'auto_auth.method.mount_path: is no mount; write it like "auth/kubernetes" or "kubernetes"'
NAME_RULE = "is no name; letters, digits, . _ - and @, at most 255 of them"
KUBERNETES = 'role = "app"'
AWS = 'role = "app"\nrole_arn = "arn:aws:iam::1:role/a"\nweb_identity_token_file = "/t"'
AZURE = 'role = "app"\nclient_id = "c"\ntenant_id = "t"\nfederated_token_file = "/t"'

SOUND = {
    "kubernetes": (KUBERNETES, 'role = "app"\ntoken_path = "/t"'),
    "jwt": ('role = "app"\npath = "/t"',),
    "approle": (
        'role_id_file_path = "/r"',
        'role_id_file_path = "/r"\nsecret_id_file_path = "/s"\nremove_secret_id_file_after_reading = true\n'
        'secret_id_response_wrapping_path = "auth/approle/role/app/secret-id"',
    ),
    "cert": ('client_cert = "/c"\nclient_key = "/k"', 'name = "app"\nclient_cert = "/c"\nclient_key = "/k"'),
    "token_file": ('token_file_path = "/t"',),
    "aws": (
        *(KUBERNETES, AWS, f'{KUBERNETES}\nweb_identity_token_file = "/t"'),
        f'{AWS}\nregion = "eu-west-1"\nheader_value = "vault"\nsts_endpoint = "https://sts"',
    ),
    "azure": (KUBERNETES, f'{KUBERNETES}\nclient_id = "c"', f'{AZURE}\nauthority_host = "https://login.example/"'),
    "gcp": (
        KUBERNETES,
        f'{KUBERNETES}\nservice_account = "a@b.iam.gserviceaccount.com"\nmetadata_endpoint = "http://169.254.169.254"',
    ),
}


@pytest.mark.parametrize(("kind", "config"), [(kind, config) for kind, each in SOUND.items() for config in each])
def test_a_method_with_what_it_needs_is_accepted(kind: str, config: str) -> None:
    assert wrong(with_method(kind, config)) == []


def test_every_type_is_tried_here() -> None:
    assert set(SOUND) == set(get_args(MethodType))


@pytest.mark.parametrize(
    ("kind", "config", "key"),
    [
        ("kubernetes", "", "role"),
        ("jwt", 'path = "/t"', "role"),
        ("jwt", 'role = "app"', "path"),
        ("approle", "", "role_id_file_path"),
        ("token_file", "", "token_file_path"),
        ("aws", "", "role"),
        ("azure", "", "role"),
        ("gcp", 'role = ""', "role"),
    ],
)
def test_a_method_without_what_it_needs_is_refused(kind: str, config: str, key: str) -> None:
    assert wrong(with_method(kind, config)) == [f'{CONFIG}.{key}: is required by type = "{kind}"']


RULES: dict[str, tuple[str, str]] = {
    "a key of another type": (
        with_method("kubernetes", f'{KUBERNETES}\nsecret_id_file_path = "/s"'),
        f'{CONFIG}.secret_id_file_path: does not belong to type = "kubernetes", which takes role, token_path',
    ),
    "jwt's file for kubernetes": (
        with_method("kubernetes", f'{KUBERNETES}\npath = "/t"'),
        f'{CONFIG}.path: does not belong to type = "kubernetes", which takes role, token_path',
    ),
    "a role for a token file": (
        with_method("token_file", 'token_file_path = "/t"\nrole = "app"'),
        f'{CONFIG}.role: does not belong to type = "token_file", which takes token_file_path',
    ),
    "a mount for a token file": (
        with_method("token_file", 'token_file_path = "/t"', more='mount_path = "token"'),
        'auto_auth.method.mount_path: does not belong to type = "token_file", which logs in nowhere',
    ),
    "a mount with a leading slash": (with_method("kubernetes", KUBERNETES, more='mount_path = "/k8s"'), MOUNT_RULE),
    "a mount that climbs": (with_method("kubernetes", KUBERNETES, more='mount_path = "auth/../sys"'), MOUNT_RULE),
    "a mount with a query": (with_method("kubernetes", KUBERNETES, more='mount_path = "k8s?a"'), MOUNT_RULE),
    "a mount of nothing": (with_method("kubernetes", KUBERNETES, more='mount_path = "auth/"'), MOUNT_RULE),
    "a whole login": (with_method("kubernetes", KUBERNETES, more='mount_path = "auth/k8s/login"'), MOUNT_RULE),
    "a mount behind v1": (with_method("kubernetes", KUBERNETES, more='mount_path = "v1/auth/k8s"'), MOUNT_RULE),
    "a mount with auth twice": (with_method("kubernetes", KUBERNETES, more='mount_path = "auth/auth/k8s"'), MOUNT_RULE),
    "a mount's namespace with a blank": (
        with_method("kubernetes", KUBERNETES, more='namespace = "a b"'),
        "auto_auth.method.namespace: is no namespace; parts of letters, digits, . _ - between slashes, such as "
        '"team/app"',
    ),
    "a relative token": (
        with_method("kubernetes", f'{KUBERNETES}\ntoken_path = "token"'),
        f"{CONFIG}.token_path: {PATH_RULE}",
    ),
    "a relative secret id": (
        with_method("approle", 'role_id_file_path = "/r"\nsecret_id_file_path = "./s"'),
        f"{CONFIG}.secret_id_file_path: {PATH_RULE}",
    ),
    "a role with a slash": (with_method("kubernetes", 'role = "a/b"'), f"{CONFIG}.role: {NAME_RULE}"),
    "a role that climbs": (with_method("kubernetes", 'role = ".."'), f"{CONFIG}.role: {NAME_RULE}"),
    "a wrapping path without a file": (
        with_method(
            "approle", 'role_id_file_path = "/r"\nsecret_id_response_wrapping_path = "auth/a/role/b/secret-id"'
        ),
        f"{CONFIG}.secret_id_file_path: is missing; secret_id_response_wrapping_path says nothing without it",
    ),
    "a file to remove that is not there": (
        with_method("approle", 'role_id_file_path = "/r"\nremove_secret_id_file_after_reading = true'),
        f"{CONFIG}.secret_id_file_path: is missing; remove_secret_id_file_after_reading says nothing without it",
    ),
    "a role to assume without a token": (
        with_method("aws", f'{KUBERNETES}\nrole_arn = "arn:aws:iam::1:role/a"'),
        f"{CONFIG}.web_identity_token_file: is missing; role_arn says nothing without it",
    ),
    "a federation without a tenant": (
        with_method("azure", f'{KUBERNETES}\nfederated_token_file = "/t"\nclient_id = "c"'),
        f"{CONFIG}.tenant_id: is missing; federated_token_file says nothing without it",
    ),
    "a tenant without a federation": (
        with_method("azure", f'{KUBERNETES}\ntenant_id = "t"'),
        f"{CONFIG}.federated_token_file: is missing; tenant_id says nothing without it",
    ),
    "an STS in clear": (
        with_method("aws", f'{AWS}\nsts_endpoint = "http://sts.example"'),
        f"{CONFIG}.sts_endpoint: {CLEAR_RULE}",
    ),
    "an authority without a scheme": (
        with_method("azure", f'{AZURE}\nauthority_host = "login.example"'),
        f"{CONFIG}.authority_host: {URL_RULE}",
    ),
    "a certificate without its key": (
        with_method("cert", 'client_cert = "/c"'),
        f"{CONFIG}.client_key: is missing; client_cert and client_key belong together",
    ),
    "a certificate that nobody names": (
        with_method("cert", 'name = "app"'),
        'vault: has no client_cert, and its method, type = "cert", has none either; name one of them',
    ),
    "a certificate without TLS": (
        at_vault(
            vault='[vault]\naddress = "http://127.0.0.1:8200"',
            method='[auto_auth.method]\ntype = "cert"\nconfig = { client_cert = "/c", client_key = "/k" }',
        ),
        'vault.address: has no TLS, but type = "cert" shows its certificate there: write "https"',
    ),
    "a certificate without TLS at another address": (
        with_method("cert", 'client_cert = "/c"\nclient_key = "/k"', more_vault=FALLBACKS),
        'vault.fallback_addresses[1]: has no TLS, but type = "cert" shows its certificate there: write "https"',
    ),
    "AWS's metadata from anywhere": (with_method("aws", f"{KUBERNETES}\n{AFAR}"), NEAR_RULE),
    "Azure's metadata from anywhere": (with_method("azure", f"{KUBERNETES}\n{AFAR}"), NEAR_RULE),
    "Google's metadata from anywhere": (with_method("gcp", f"{KUBERNETES}\n{AFAR}"), NEAR_RULE),
    "metadata by a name": (
        with_method("gcp", f'{KUBERNETES}\nmetadata_endpoint = "http://metadata.google.internal"'),
        NEAR_RULE,
    ),
    "a method for nothing": (
        document(rest=METHOD),
        "auto_auth.method: logs in nowhere: there is no [vault]",
    ),
    "a method of a cluster's own": (
        at_vault(method='[vault.method]\ntype = "jwt"\nconfig = { role = "app" }'),
        'vault.method.config.path: is required by type = "jwt"',
    ),
    "no type": (at_vault(method="[auto_auth.method]"), "auto_auth.method.type: is required"),
    # -- sinks
    "a relative sink": (with_sink('path = "token"'), f"auto_auth.sink[0].config.path: {PATH_RULE}"),
    "a sink without a place": (with_sink(""), "auto_auth.sink[0].config.path: is required"),
    "a sink of another kind": (with_sink(more='type = "inmem"'), 'auto_auth.sink[0].type: must be "file"'),
    "a sink of no cluster": (
        with_sink(more='upstream = "vault.b"'),
        'auto_auth.sink[0].upstream: is no configured vault; there are: "vault"',
    ),
    "a sink without any cluster": (
        document(rest='[[auto_auth.sink]]\nconfig = { path = "/run/token" }'),
        "auto_auth.sink[0].upstream: is no configured vault; there is none",
    ),
    "a wrapping token that is gone at once": (
        with_sink(more='wrap_ttl = "5s"'),
        'auto_auth.sink[0].wrap_ttl: "5s" is out of range; "10s" to "1d"',
    ),
    "a sink that everybody writes": (
        with_sink('path = "/run/token"\nmode = "0666"'),
        'auto_auth.sink[0].config.mode: "0666" lets everybody write; take away the last digit\'s 2',
    ),
    "a sink that its owner cannot read": (
        with_sink('path = "/run/token"\nmode = "0040"'),
        'auto_auth.sink[0].config.mode: "0040" does not let the owner use it; at least "0400"',
    ),
    "a mode as Vault Agent has it": (
        with_sink('path = "/run/token"\nmode = 0o400'),
        'auto_auth.sink[0].config.mode: must be an octal string such as "0440", not a whole number',
    ),
    "a sink's owner with a blank": (
        with_sink('path = "/run/token"\nuser = "a b"'),
        f"auto_auth.sink[0].config.user: {OWNER_RULE}",
    ),
    "a sink's group without a name": (
        with_sink('path = "/run/token"\ngroup = ""'),
        f"auto_auth.sink[0].config.group: {OWNER_RULE}",
    ),
    "two sinks at one place": (
        with_sink('path = "/run/token"\n[[auto_auth.sink]]\nconfig = { path = "/run/token" }'),
        "auto_auth.sink[1].config.path: is the same path as auto_auth.sink[0].config.path; every file needs one of its "
        "own",
    ),
    "a credential in a sink's place": (
        with_sink(f'path = "/etc/secrets/db"\n[[template]]\n{FILE}'),
        "template[0].destination: is the same path as auto_auth.sink[0].config.path; every file needs one of its own",
    ),
    "a sink as a table": (
        at_vault(rest='[auto_auth.sink]\npath = "/run/token"'),
        "auto_auth.sink: must be an array, not a table",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]


def test_a_mistake_in_one_sink_hides_none_in_another() -> None:
    assert wrong(with_sink('[[auto_auth.sink]]\nconfig = { path = "token" }')) == [
        "auto_auth.sink[0].config.path: is required",
        f"auto_auth.sink[1].config.path: {PATH_RULE}",
    ]


@pytest.mark.parametrize("more", ["", 'mount_path = "auth/kubernetes"', 'mount_path = "kubernetes"'])
def test_a_mount_is_written_with_auth_or_without(more: str) -> None:
    method = read(with_method("kubernetes", KUBERNETES, more=more)).auto_auth.method

    assert method is not None
    assert method.mount == "kubernetes"


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9",
        "http://169.254.170.23",
        "http://[fe80::1]",
        "http://[fd00:ec2::254]",
        "https://metadata.example",
    ],
)
def test_metadata_may_come_in_clear_from_the_machine_itself(url: str) -> None:
    assert wrong(with_method("aws", f'{KUBERNETES}\nmetadata_endpoint = "{url}"')) == []


def test_a_mount_may_be_called_login() -> None:
    assert wrong(with_method("kubernetes", KUBERNETES, more='mount_path = "auth/login"')) == []


def test_a_certificate_may_be_the_clusters() -> None:
    assert wrong(with_method("cert", 'name = "app"', more_vault='client_cert = "/c"\nclient_key = "/k"')) == []


@pytest.mark.parametrize(
    ("kind", "config", "files"),
    [
        ("kubernetes", KUBERNETES, {"token_path": "/var/run/secrets/kubernetes.io/serviceaccount/token"}),
        ("approle", 'role_id_file_path = "/r"', {"role_id_file_path": "/r"}),
        ("gcp", KUBERNETES, {}),
    ],
)
def test_a_method_tells_what_it_reads(kind: str, config: str, files: dict[str, str]) -> None:
    method = read(with_method(kind, config)).auto_auth.method

    assert isinstance(method, Method)
    assert method.files == files


SOCKET = '[listener.unix]\naddress = "/run/a"'
SHARED_RULE = (
    "is what every container of the pod may have, the app too: it could log in as the agent; project a token with an "
    "audience of its own into the sidecar alone"
)
WARNINGS = {
    "a sink that everybody reads": (
        with_sink(f'path = "/run/token"\nmode = "0444"\n{SOCKET}'),
        'auto_auth.sink[0].config.mode: "0444" lets everybody read the agent\'s login',
    ),
    "a sink that nobody reads": (
        with_sink(f'path = "/run/token"\n{SOCKET}'),
        'auto_auth.sink[0].config.mode: "0400" lets nobody but the agent read it; write "0440" with a group, or a user',
    ),
    "the pod's own token": (with_method("kubernetes", KUBERNETES) + SOCKET, f"{CONFIG}.token_path: {SHARED_RULE}"),
    "the pod's own token as a JWT, by its other path": (
        with_method("jwt", 'role = "a"\npath = "/run/secrets/kubernetes.io/serviceaccount/token"') + SOCKET,
        f"{CONFIG}.path: {SHARED_RULE}",
    ),
    "the pod's own token for one cluster": (
        at_vault(method='[vault.method]\ntype = "kubernetes"\nconfig = { role = "a" }', rest=SOCKET),
        f"vault.method.config.token_path: {SHARED_RULE}",
    ),
}


@pytest.mark.parametrize(("text", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_may_surprise_is_named(text: str, expected: str) -> None:
    assert check.warnings(read(text)) == [expected]


@pytest.mark.parametrize("readers", ['mode = "0440"', 'user = "1000"', 'mode = "0440"\ngroup = "2000"'])
def test_a_sink_for_an_app_is_not_worth_a_word(readers: str) -> None:
    assert check.warnings(read(with_sink(f'path = "/run/token"\n{readers}\n{SOCKET}'))) == []
