"""Rules for the process, its socket and its files: a document with one thing wrong, and the line that says so."""

import pytest

from tests.unit.config.documents import (
    ALLOW_RULE,
    FILE,
    OWNER_RULE,
    PATH_RULE,
    ROLE,
    document,
    with_file,
    with_socket,
    wrong,
)

BITS_RULE = 'has setuid, setgid or sticky bits; write nothing but permissions, such as "0440"'
OWN_RULE = "every file needs one of its own"
ADDRESS_RULE = 'must be an address and a port, such as "127.0.0.1:8210", "[::1]:8210" or "${POD_IP}:8210"'


def health(more: str) -> str:
    """A configuration with a health port."""
    return document(rest=f"[listener.health]\n{more}")


def audit(more: str) -> str:
    """A configuration with an audit log."""
    return document(rest=f"[audit]\n{more}")


RULES: dict[str, tuple[str, str]] = {
    # -- the audit log
    "an audit log without a place": (audit("keep = 3"), "audit.file: is required"),
    "a relative audit log": (audit('file = "audit.jsonl"'), f"audit.file: {PATH_RULE}"),
    "an audit log of a few lines": (
        audit('file = "stdout"\nmax_size = 1000'),
        "audit.max_size: 1000 is out of range; 65536 to 1099511627776",
    ),
    "an audit log that keeps nothing": (
        audit('file = "/var/log/audit"\nkeep = 0'),
        "audit.keep: 0 is out of range; 1 to 1000",
    ),
    "an audit log in place of a credential": (
        with_file('\n[audit]\nfile = "/etc/secrets/db"'),
        f"template[0].destination: is the same path as audit.file; {OWN_RULE}",
    ),
    # -- the socket
    "a relative socket": (with_socket(address='address = "agent.sock"'), f"listener.unix.address: {PATH_RULE}"),
    "the root as a socket": (with_socket(address='address = "/"'), f"listener.unix.address: {PATH_RULE}"),
    "a socket of 101 bytes": (
        with_socket(address=f'address = "/{"s" * 100}"'),
        "listener.unix.address: is longer than 100 bytes; the system allows a socket little more",
    ),
    "a sticky socket": (
        with_socket('socket_mode = "1660"'),
        f'listener.unix.socket_mode: "1660" {BITS_RULE}',
    ),
    "a socket its owner cannot use": (
        with_socket('socket_mode = "0060"'),
        'listener.unix.socket_mode: "0060" does not let the owner use it; at least "0600"',
    ),
    "a socket's owner with a blank": (with_socket('socket_user = "a b"'), f"listener.unix.socket_user: {OWNER_RULE}"),
    "a socket's group without a name": (with_socket('socket_group = ""'), f"listener.unix.socket_group: {OWNER_RULE}"),
    "an unknown kind of operator": (
        with_socket('allow_admin = ["root"]'),
        f"listener.unix.allow_admin[0]: {ALLOW_RULE}",
    ),
    "no connections": (
        with_socket("max_connections = 0"),
        "listener.unix.max_connections: 0 is out of range; 1 to 65536",
    ),
    "no connections of one uid": (
        with_socket("max_connections_per_uid = -1"),
        "listener.unix.max_connections_per_uid: -1 is out of range; 1 to 65536",
    ),
    "no idle time": (
        with_socket('idle_timeout = "0s"'),
        'listener.unix.idle_timeout: "0s" is out of range; "50ms" to "1d"',
    ),
    "a request that takes all day": (
        with_socket('request_timeout = "1d"'),
        'listener.unix.request_timeout: "1d" is out of range; "50ms" to "5m"',
    ),
    "no head": (with_socket("max_header = 0"), "listener.unix.max_header: 0 is out of range; 1024 to 1048576"),
    "a negative body": (with_socket("max_body = -1"), "listener.unix.max_body: -1 is out of range; 0 to 16777216"),
    "a health port by name": (health('address = "db.internal:8210"'), f"listener.health.address: {ADDRESS_RULE}"),
    "a health port without a port": (health('address = "127.0.0.1"'), f"listener.health.address: {ADDRESS_RULE}"),
    "a health port of a bare v6 address": (health('address = "::1:8210"'), f"listener.health.address: {ADDRESS_RULE}"),
    "a health port beyond the last": (health('address = "[::1]:65536"'), f"listener.health.address: {ADDRESS_RULE}"),
    "a health port at no address": (health('address = "127.0.0.256:80"'), f"listener.health.address: {ADDRESS_RULE}"),
    "no connections of probes": (
        health('address = "[::1]:8210"\nmax_connections = 0'),
        "listener.health.max_connections: 0 is out of range; 1 to 65536",
    ),
    # -- files
    "nothing to write": (
        with_file(file='destination = "/a"\nroles = ["database/creds/app"]'),
        "template[0]: says nothing to write; give one of source, contents and format",
    ),
    "two things to write": (
        with_file('source = "/a"\ncontents = ""'),
        "template[0]: has source and contents and format; give only one of them",
    ),
    "a relative source": (
        with_file(file='destination = "/a"\nroles = ["database/creds/app"]\nsource = "a.j2"'),
        f"template[0].source: {PATH_RULE}",
    ),
    "a relative destination": (
        with_file(file=FILE.replace('"/etc', '"etc')),
        f"template[0].destination: {PATH_RULE}",
    ),
    "a destination that climbs": (
        with_file(file=FILE.replace("/etc/", "/etc/../")),
        f"template[0].destination: {PATH_RULE}",
    ),
    "a directory as a destination": (with_file(file=FILE.replace("/db", "/")), f"template[0].destination: {PATH_RULE}"),
    "two files at one place": (
        with_file(f"[[template]]\n{FILE}"),
        f"template[1].destination: is the same path as template[0].destination; {OWN_RULE}",
    ),
    "a file in the socket's place": (
        with_file('[listener.unix]\naddress = "/etc/secrets/db"'),
        f"template[0].destination: is the same path as the socket, listener.unix.address; {OWN_RULE}",
    ),
    "no roles in a file": (
        with_file(file='destination = "/a"\ncontents = "x"'),
        "template[0].roles: is empty; list the roles this file may use",
    ),
    "two roles in a ready-made format": (
        with_file(
            file=FILE.replace('app"]', 'app", "database/creds/b"]'), more_role=f'[role."database/creds/b"]\n{ROLE}'
        ),
        'template[0].roles: format = "json" takes exactly one role',
    ),
    "a role twice in a file": (
        with_file(file='destination = "/a"\ncontents = "x"\nroles = ["database/creds/app", "database/creds/app"]'),
        "template[0].roles[1]: is listed twice",
    ),
    "an unknown role in a file": (
        with_file(file=FILE.replace("app", "ap")),
        'template[0].roles[0]: is no configured role; there are: "database/creds/app"',
    ),
    "a lazy role in a file": (
        with_file(more_role="lazy = true\nrequired = false"),
        "template[0].roles[0]: is lazy, but a file is always a reader; write lazy = false in the role",
    ),
    "a prefix with a hyphen": (
        with_file('prefix = "DB-"'),
        "template[0].prefix: must be letters, digits and _, the first no digit",
    ),
    "a file for everybody to write": (
        with_file('perms = "0442"'),
        'template[0].perms: "0442" lets everybody write; take away the last digit\'s 2',
    ),
    "a setuid file": (
        with_file('perms = "4440"'),
        f'template[0].perms: "4440" {BITS_RULE}',
    ),
    "a file its owner cannot read": (
        with_file('perms = "0040"'),
        'template[0].perms: "0040" does not let the owner use it; at least "0400"',
    ),
    "a file's owner with a colon": (with_file('user = "a:b"'), f"template[0].user: {OWNER_RULE}"),
    "a file's group with a minus": (with_file('group = "-1"'), f"template[0].group: {OWNER_RULE}"),
    "rendering without pause": (
        document(rest='[template_config]\nrender_interval = "0s"'),
        'template_config.render_interval: "0s" is out of range; "1s" to "1d"',
    ),
    "files without bytes": (
        document(rest="[template_config]\nmax_size = 0"),
        "template_config.max_size: 0 is out of range; 1 to 16777216",
    ),
    # -- the process
    "no time to stop": (
        document(rest='[agent]\nstop_timeout = "999ms"'),
        'agent.stop_timeout: "999ms" is out of range; "1s" to "1h"',
    ),
    "a grace of two days": (
        document(rest='[agent]\nstop_grace = "2d"'),
        'agent.stop_grace: "2d" is out of range; "0s" to "1d"',
    ),
    "a splay of two hours": (
        document(rest='[agent]\nstart_splay = "2h"'),
        'agent.start_splay: "2h" is out of range; "0s" to "1h"',
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]
