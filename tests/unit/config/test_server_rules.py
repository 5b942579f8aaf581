"""Rules for servers: a sound document with one thing wrong, and the exact line that says so."""

import pytest

from tests.unit.config.documents import (
    CLEAR_RULE,
    HOST_RULE,
    LONG_RULE,
    PATH_RULE,
    SERVER,
    URL_RULE,
    document,
    server_with,
    wrong,
)

LABEL_RULE = "has a part between dots that is empty or longer than 63 characters"

RULES: dict[str, tuple[str, str]] = {
    # -- servers
    "an empty host": (
        server_with(host=""),
        "postgresql.host: is empty; name the server's host, or the directory of its Unix socket",
    ),
    "a URL as a host": (server_with(host="postgresql://db/app"), f"postgresql.host: {URL_RULE}"),
    "a connection string as a host": (server_with(host="host=db port=5"), f"postgresql.host: {URL_RULE}"),
    "a user in a host": (server_with(host="me@db"), f"postgresql.host: {URL_RULE}"),
    "two hosts": (server_with(host="db1,db2"), f"postgresql.host: {HOST_RULE}"),
    "a host with an empty label": (server_with(host="db..example.com"), f"postgresql.host: {LABEL_RULE}"),
    "a host that begins with a dot": (server_with(host=".db"), f"postgresql.host: {LABEL_RULE}"),
    "a host of nothing but a dot": (server_with(host="."), f"postgresql.host: {LABEL_RULE}"),
    "a label of 64 characters": (server_with(host="d" * 64 + ".example.com"), f"postgresql.host: {LABEL_RULE}"),
    "a relative directory as a host": (server_with(host="run/db"), f"postgresql.host: {HOST_RULE}"),
    "a directory with dots as a host": (server_with(host="/run/../db"), f"postgresql.host: {PATH_RULE}"),
    "a URL as a database": (
        server_with(dbname="postgresql://db/app"),
        "postgresql.dbname: is a URL or a connection string; write the database's name alone",
    ),
    "an empty database": (server_with(dbname=""), "postgresql.dbname: is empty; name the database"),
    "an empty user": (server_with(user=""), "postgresql.user: is empty; name the agent's own role"),
    "a user of 64 bytes": (server_with(user="u" * 64), f"postgresql.user: {LONG_RULE}"),
    "port 0": (server_with(more="port = 0"), "postgresql.port: 0 is out of range; 1 to 65535"),
    "port 65536": (server_with(more="port = 65536"), "postgresql.port: 65536 is out of range; 1 to 65535"),
    "a huge port": (
        server_with(more=f"port = 0x{'f' * 4000}"),
        "postgresql.port: a huge number is out of range; 1 to 65535",
    ),
    "plain TCP": (server_with(more='sslmode = "disable"'), f'postgresql.sslmode: "disable" {CLEAR_RULE}'),
    "TLS if it happens": (server_with(more='sslmode = "prefer"'), f'postgresql.sslmode: "prefer" {CLEAR_RULE}'),
    "plain TCP to what only sounds like loopback": (
        server_with(host="localhost.example", more='sslmode = "disable"'),
        f'postgresql.sslmode: "disable" {CLEAR_RULE}',
    ),
    "a CA that is not named": (
        server_with(more='sslmode = "verify-full"'),
        'postgresql.sslrootcert: sslmode = "verify-full" needs it: a CA file, or "system"',
    ),
    "every public CA for any host": (
        server_with(more='sslmode = "verify-ca"\nsslrootcert = "system"'),
        'postgresql.sslrootcert: "system" trusts every public CA, so it needs sslmode = "verify-full"',
    ),
    "a relative CA": (server_with(more='sslrootcert = "ca.pem"'), f"postgresql.sslrootcert: {PATH_RULE}"),
    "a certificate without its key": (
        server_with(more='sslcert = "/c"'),
        "postgresql.sslkey: is missing; sslcert and sslkey belong together",
    ),
    "a key without its certificate": (
        server_with(more='sslkey = "/k"'),
        "postgresql.sslcert: is missing; sslcert and sslkey belong together",
    ),
    "a relative password file": (
        document(server='host = "db"\ndbname = "a"\nuser = "u"\npassword_file = "pw"'),
        f"postgresql.password_file: {PATH_RULE}",
    ),
    "an empty schema": (server_with(more='schema = ""'), "postgresql.schema: is empty; name the journal's schema"),
    "a long schema": (server_with(more=f'schema = "{"s" * 64}"'), f"postgresql.schema: {LONG_RULE}"),
    "a system schema": (
        server_with(more='schema = "pg_catalog"'),
        "postgresql.schema: is reserved by PostgreSQL; choose another name",
    ),
    "everybody's schema": (
        server_with(more='schema = "public"'),
        "postgresql.schema: is reserved by PostgreSQL; choose another name",
    ),
    "a system group": (
        server_with(more='marker_group = "PG_monitor"'),
        "postgresql.marker_group: is reserved by PostgreSQL; choose another name",
    ),
    "an empty marker group": (
        server_with(more='marker_group = ""'),
        "postgresql.marker_group: is empty; name the group that marks our users",
    ),
    "the agent as the marker group": (
        server_with(user="me", more='marker_group = "me"'),
        "postgresql.marker_group: is the agent's own role; it must be a NOLOGIN group of its own",
    ),
    "a prefix in capitals": (
        server_with(more='username_prefix = "App"'),
        "postgresql.username_prefix: must be 1 to 12 lower-case letters and digits, the first a letter",
    ),
    "a prefix of 13 letters": (
        server_with(more=f'username_prefix = "{"a" * 13}"'),
        "postgresql.username_prefix: must be 1 to 12 lower-case letters and digits, the first a letter",
    ),
    "a sweep without pause": (
        server_with(more='cleanup_interval = "0s"'),
        'postgresql.cleanup_interval: "0s" is out of range; "1s" to "1d"',
    ),
    "a journal that forgets": (
        server_with(more='journal_retention = "10m"'),
        'postgresql.journal_retention: "10m" is too short; at least "1h"',
    ),
    "no calls": (server_with(more="max_calls = 0"), "postgresql.max_calls: 0 is out of range; 1 to 64"),
    "an endless login": (
        server_with(more='connect_timeout = "2m"'),
        'postgresql.connect_timeout: "2m" is out of range; "1s" to "1m"',
    ),
    "a server with a dot in its name": (
        f'[postgresql."a.b"]\n{SERVER}\n[role."x/creds/y"]\nupstream = "postgresql.a.b"\ngroup = "g"',
        'postgresql."a.b": is no name for an upstream; letters, digits, _ and -, at most 63 of them',
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]


@pytest.mark.parametrize("host", ["db", "db.example.com.", "d" * 63 + ".example.com", "10.0.0.7", "::ffff:10.0.0.7"])
def test_a_host_that_a_resolver_takes_is_fine(host: str) -> None:
    assert wrong(server_with(host=host)) == []
