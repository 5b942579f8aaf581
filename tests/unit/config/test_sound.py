"""What the rules let pass, and how they are asked."""

import pytest

from agent.config import check
from tests.unit.config.documents import (
    ROLE_PATH,
    document,
    read,
    role_named,
    server_with,
    verified,
    with_file,
    with_socket,
    wrong,
)

SOUND = {
    "the least": document(),
    "creation statements alone": document(role='upstream = "postgresql"\ncreation_statements = ["CREATE ROLE x"]'),
    "half the lease as the overlap": document(more_role='default_ttl = "1h"\noverlap = "30m"'),
    "the shortest lease": document(more_role='default_ttl = "5s"'),
    "one TTL for both": document(more_role='default_ttl = "2h"\nmax_ttl = "2h"'),
    "a lazy role": document(more_role="lazy = true\nrequired = false"),
    "plain on a Unix socket": server_with(host="/run/postgresql", more='sslmode = "disable"'),
    "plain on localhost": server_with(host="localhost", more='sslmode = "disable"'),
    "plain on 127.0.0.2": server_with(host="127.0.0.2", more='sslmode = "prefer"'),
    "plain on ::1": server_with(host="::1", more='sslmode = "disable"'),
    "an IPv6 address": server_with(host="fe80::1%eth0"),
    "public CAs": server_with(more='sslmode = "verify-full"\nsslrootcert = "system"'),
    "a CA file": verified('sslmode = "verify-ca"\nsslrootcert = "/ca.pem"'),
    "a certificate": server_with(more='sslcert = "/c"\nsslkey = "/k"'),
    "a name of 63 bytes": server_with(user="u" * 63),
    "a role of 255 bytes": role_named("a/creds/" + "b" * 247),
    "a predefined role as the group": document(role='upstream = "postgresql"\ngroup = "pg_read_all_data"'),
    "the largest id": document(more_role='allow = ["uid:4294967294"]'),
    "no prefix": with_file('prefix = ""'),
    "an owner by number": with_file('user = "1000"\ngroup = "app-data"'),
    "a socket of 100 bytes": with_socket(address=f'address = "/{"s" * 99}"'),
    "a description in another script": document(more_role='description = "読み取り\u3000専用"'),
    "SQL over several lines": document(more_role="creation_statements = ['''\nCREATE ROLE \"{{name}}\"\n''']"),
    "a command over several lines": document(more_role='on_failed = ["/bin/sh", "-c", "a\\nb"]'),
    "a role called token": role_named("a/creds/token"),
    "a role called sys": role_named("a/creds/sys"),
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND.keys())
def test_what_makes_sense_is_accepted(text: str) -> None:
    assert wrong(text) == []


def test_the_rules_can_be_asked_without_a_file() -> None:
    config = read(document(more_role='default_ttl = "2s"'), allow_short=True)

    assert check.mistakes(config, allow_short=True) == []
    assert check.mistakes(config) == [f'{ROLE_PATH}.default_ttl: "2s" is too short; at least "5s"']


def test_several_mistakes_are_several_lines() -> None:
    text = document(more_server="port = 0", more_role="retries = 0\npassword_length = 1")

    assert wrong(text) == [
        "postgresql.port: 0 is out of range; 1 to 65535",
        f"{ROLE_PATH}.retries: 0 is out of range; 1 to 1000",
        f"{ROLE_PATH}.password_length: 1 is out of range; 16 to 128",
    ]
