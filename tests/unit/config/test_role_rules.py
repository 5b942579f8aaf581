"""Rules for roles: a sound document with one thing wrong, and the exact line that says so."""

import pytest

from tests.unit.config.documents import (
    ALLOW_RULE,
    CLEAR_RULE,
    CREDS_RULE,
    LONG_RULE,
    NAME_RULE,
    PATH_RULE,
    ROLE,
    ROLE_PATH,
    SERVER,
    TAKEN_RULE,
    URL_RULE,
    document,
    role_named,
    verified,
    wrong,
)

RULES: dict[str, tuple[str, str]] = {
    # -- roles: names and upstreams
    "no roles": (
        f"[postgresql]\n{SERVER}",
        'role: is missing; add a table such as [role."database/creds/app"], the name apps ask for',
    ),
    "an unknown upstream": (
        document(role='upstream = "scaivault"\ngroup = "g"'),
        f'{ROLE_PATH}.upstream: is no configured upstream; there are: "postgresql"',
    ),
    "an unknown upstream among many": (
        "".join(f"[postgresql.n{n}]\n{SERVER}\n" for n in range(9))
        + '[role."a/creds/b"]\nupstream = "postgresql.n9"\ngroup = "g"',
        'role."a/creds/b".upstream: is no configured upstream; there are: '
        + ", ".join(f'"postgresql.n{n}"' for n in range(8))
        + ", …",
    ),
    "no upstream at all": (
        f'[role."database/creds/app"]\n{ROLE}',
        f"{ROLE_PATH}.upstream: is no configured upstream; there is none; add a [postgresql] or a [vault] table",
    ),
    "a role with a leading slash": (role_named("/a/creds/b"), f'role."/a/creds/b": {NAME_RULE}'),
    "a role with a trailing slash": (role_named("a/creds/b/"), f'role."a/creds/b/": {NAME_RULE}'),
    "a role with an empty part": (role_named("a//b"), f'role."a//b": {NAME_RULE}'),
    "a role with a blank": (role_named("a/creds/b c"), f'role."a/creds/b c": {NAME_RULE}'),
    "a role with a quote": (role_named('a/creds/b\\"'), f'role."a/creds/b\\"": {NAME_RULE}'),
    "a role with a control character": (role_named("a/creds/b\\n"), f'role."a/creds/b\\u000a": {NAME_RULE}'),
    "a role with a letter of another script": (role_named("a/creds/é"), f'role."a/creds/é": {NAME_RULE}'),
    "a role without a name": (role_named(""), f'role."": {NAME_RULE}'),
    "a role of dots": (role_named("a/creds/."), f'role."a/creds/.": {NAME_RULE}'),
    "a role that climbs": (role_named("a/creds/.."), f'role."a/creds/..": {NAME_RULE}'),
    "a role with two dots": (
        role_named("a/creds/b..c"),
        'role."a/creds/b..c": is no role name; it must not contain ".."',
    ),
    "a role of 256 bytes": (role_named("a/creds/" + "b" * 248), f'role."a/creds/{"b" * 247}…": {NAME_RULE}'),
    "a role under sys": (role_named("sys/creds/b"), f'role."sys/creds/b": {TAKEN_RULE}'),
    "a role called rotate": (role_named("a/creds/rotate"), f'role."a/creds/rotate": {TAKEN_RULE}'),
    "a role on PostgreSQL without creds": (role_named("a/roles/b"), f'role."a/roles/b": {CREDS_RULE}'),
    "a role on PostgreSQL in two parts": (role_named("a/b"), f'role."a/b": {CREDS_RULE}'),
    "a role on PostgreSQL in four parts": (role_named("a/creds/b/c"), f'role."a/creds/b/c": {CREDS_RULE}'),
    # -- roles: lengths
    "a default TTL under 5 s": (
        document(more_role='default_ttl = "4.9s"'),
        f'{ROLE_PATH}.default_ttl: "4.9s" is too short; at least "5s"',
    ),
    "a default TTL of nothing": (
        document(more_role='default_ttl = "0s"'),
        f'{ROLE_PATH}.default_ttl: "0s" is too short; at least "5s"',
    ),
    "a default TTL above the max TTL": (
        document(more_role='default_ttl = "2h"\nmax_ttl = "90m"'),
        f'{ROLE_PATH}.default_ttl: default_ttl "2h" is longer than max_ttl "1h30m"; shorten one or lengthen the other',
    ),
    "a max TTL under the TTL nobody set": (
        document(more_role='max_ttl = "30m"'),
        f'{ROLE_PATH}.max_ttl: default_ttl "1h" is longer than max_ttl "30m"; shorten one or lengthen the other',
    ),
    "a max lifetime under 5 s": (
        document(more_role='default_ttl = "6s"\nmax_lifetime = "4s"'),
        f'{ROLE_PATH}.max_lifetime: "4s" is too short; at least "5s"',
    ),
    "an overlap above half the lease": (
        document(more_role='default_ttl = "1h"\noverlap = "31m"'),
        f'{ROLE_PATH}.overlap: overlap "31m" is more than half of the lease "1h"; at most "30m"',
    ),
    "an overlap above half of what max_lifetime leaves": (
        document(more_role='default_ttl = "1h"\noverlap = "20m"\nmax_lifetime = "30m"'),
        f'{ROLE_PATH}.overlap: overlap "20m" is more than half of the lease "30m"; at most "15m"',
    ),
    "an overlap under a second": (
        document(more_role='overlap = "0s"'),
        f'{ROLE_PATH}.overlap: "0s" is too short; at least "1s"',
    ),
    "a margin under a second": (
        document(more_role='margin = "0s"'),
        f'{ROLE_PATH}.margin: "0s" is too short; at least "1s"',
    ),
    "margin and overlap without room between": (
        document(more_role='overlap = "30m"\nmargin = "20m"'),
        f'{ROLE_PATH}.margin: margin "20m" and overlap "30m" leave no room in a lease of "1h"; together at most "48m"',
    ),
    "margin and a default overlap without room between": (
        document(more_role='margin = "40m"'),
        f'{ROLE_PATH}.margin: margin "40m" and overlap "15m" leave no room in a lease of "1h"; together at most "48m"',
    ),
    "a threshold of 0": (
        document(more_role="lease_renewal_threshold = 0"),
        f"{ROLE_PATH}.lease_renewal_threshold: 0 is no share of the lease; between 0 and 1",
    ),
    "a threshold of 1": (
        document(more_role="lease_renewal_threshold = 1.0"),
        f"{ROLE_PATH}.lease_renewal_threshold: 1 is no share of the lease; between 0 and 1",
    ),
    "a threshold that is no number": (
        document(more_role="lease_renewal_threshold = nan"),
        f"{ROLE_PATH}.lease_renewal_threshold: nan is no share of the lease; between 0 and 1",
    ),
    "a threshold without room for jitter": (
        document(more_role="lease_renewal_threshold = 0.1"),
        f"{ROLE_PATH}.lease_renewal_threshold: 0.1 leaves no room for jitter, which renews up to 0.1 of the lease "
        "earlier; more than 0.1",
    ),
    "room for one lease": (
        document(more_role="max_leases = 1"),
        f"{ROLE_PATH}.max_leases: 1 is out of range; 2 to 1000000",
    ),
    "fewer leases than none": (
        document(more_role="lease_warning = -1"),
        f"{ROLE_PATH}.lease_warning: -1 is out of range; 0 to 1000000",
    ),
    "no retries": (document(more_role="retries = 0"), f"{ROLE_PATH}.retries: 0 is out of range; 1 to 1000"),
    "rotate-now without a limit": (
        document(more_role='rotate_min_interval = "0s"'),
        f'{ROLE_PATH}.rotate_min_interval: "0s" is too short; at least "1s"',
    ),
    "verification all the time": (
        document(more_role='verify_every = "10ms"'),
        f'{ROLE_PATH}.verify_every: "10ms" is too short; at least "1s"',
    ),
    "a command found by search": (document(more_role='on_failed = ["page"]'), f"{ROLE_PATH}.on_failed[0]: {PATH_RULE}"),
    # -- roles: readers
    "an unknown kind of reader": (
        document(more_role='allow = ["any", "user:app"]'),
        f"{ROLE_PATH}.allow[1]: {ALLOW_RULE}",
    ),
    "a reader by name": (document(more_role='allow = ["uid:app"]'), f"{ROLE_PATH}.allow[0]: {ALLOW_RULE}"),
    "a reader with a leading zero": (document(more_role='allow = ["uid:01"]'), f"{ROLE_PATH}.allow[0]: {ALLOW_RULE}"),
    "a reader that is the overflow id": (
        document(more_role='allow = ["uid:4294967295"]'),
        f"{ROLE_PATH}.allow[0]: {ALLOW_RULE}",
    ),
    "an unknown kind of rotator": (
        document(more_role='allow_rotate = [""]'),
        f"{ROLE_PATH}.allow_rotate[0]: {ALLOW_RULE}",
    ),
    "a lazy role that readiness waits for": (
        document(more_role="lazy = true"),
        f"{ROLE_PATH}.required: readiness cannot wait for what nobody has asked for yet; write required = false beside "
        "lazy = true",
    ),
    # -- roles: connection and verification
    "a connection in clear": (
        document(more_role='connection = { host = "db", dbname = "a", sslmode = "disable" }'),
        f'{ROLE_PATH}.connection.sslmode: "disable" {CLEAR_RULE}',
    ),
    "a connection to port 0": (
        document(more_role='connection = { host = "db", dbname = "a", port = 0 }'),
        f"{ROLE_PATH}.connection.port: 0 is out of range; 1 to 65535",
    ),
    "verification in clear": (verified('sslmode = "prefer"'), f'{ROLE_PATH}.verify[0].sslmode: "prefer" {CLEAR_RULE}'),
    "verification at a URL": (verified("", host="postgresql://db"), f"{ROLE_PATH}.verify[0].host: {URL_RULE}"),
    "verification without a CA": (
        verified('sslmode = "verify-ca"'),
        f'{ROLE_PATH}.verify[0].sslrootcert: sslmode = "verify-ca" needs it: a CA file, or "system"',
    ),
    "an empty probe": (
        verified('probe = " "'),
        f"{ROLE_PATH}.verify[0].probe: is empty; write a query, or leave it out",
    ),
    # -- roles: rights and passwords
    "neither group nor creation statements": (
        document(role='upstream = "postgresql"'),
        f"{ROLE_PATH}: says nothing of the users' rights; give group, the NOLOGIN role that has them, or "
        "creation_statements",
    ),
    "an empty group": (
        document(role='upstream = "postgresql"\ngroup = ""'),
        f"{ROLE_PATH}.group: is empty; name the NOLOGIN role that holds the privileges",
    ),
    "a group of 64 bytes": (
        document(role=f'upstream = "postgresql"\ngroup = "{"é" * 32}"'),
        f"{ROLE_PATH}.group: {LONG_RULE}",
    ),
    "the marker group as the group": (
        document(role='upstream = "postgresql"\ngroup = "leasehold_lease"'),
        f"{ROLE_PATH}.group: is the upstream's marker_group, which must carry no privileges; name the role that has "
        "them",
    ),
    "an empty statement": (
        document(more_role='creation_statements = ["CREATE ROLE x", "\\n"]'),
        f"{ROLE_PATH}.creation_statements[1]: is empty; write a statement, or leave it out",
    ),
    "an empty renewal statement": (
        document(more_role='renewal_statements = [""]'),
        f"{ROLE_PATH}.renewal_statements[0]: is empty; write a statement, or leave it out",
    ),
    "NUL in a statement": (
        document(more_role='creation_statements = ["\\u0000"]'),
        f"{ROLE_PATH}.creation_statements[0]: contains NUL, which nothing accepts",
    ),
    "NUL in a group": (
        document(role='upstream = "postgresql"\ngroup = "a\\u0000"'),
        f"{ROLE_PATH}.group: contains NUL, which nothing accepts",
    ),
    "a line break in a group": (
        document(role='upstream = "postgresql"\ngroup = "a\\nb"'),
        f"{ROLE_PATH}.group: contains a control character; leave it out",
    ),
    "a short password": (
        document(more_role="password_length = 15"),
        f"{ROLE_PATH}.password_length: 15 is out of range; 16 to 128",
    ),
    "a long password": (
        document(more_role="password_length = 129"),
        f"{ROLE_PATH}.password_length: 129 is out of range; 16 to 128",
    ),
    "no sessions at all": (
        document(more_role="connection_limit = 0"),
        f"{ROLE_PATH}.connection_limit: 0 is out of range; 1 to 100000",
    ),
    "too many bits": (
        document(more_role="password_bits = 513"),
        f"{ROLE_PATH}.password_bits: 513 is out of range; 1 to 512",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]
