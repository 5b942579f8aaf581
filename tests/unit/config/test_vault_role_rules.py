"""Rules for roles at a Vault: a sound document with one thing wrong, and the exact line that says so."""

import pytest

from agent.config import check
from tests.unit.config.documents import (
    AT_VAULT,
    METHOD,
    PATH_RULE,
    ROLE_PATH,
    TAKEN_RULE,
    VAULT,
    at_vault,
    document,
    read,
    wrong,
)

SOCKET = '[listener.unix]\naddress = "/run/a"\n'
MINTED = "is for users that the agent makes itself; at a Vault, the role there says it"
QUOTA = "is counted in the journal of a [postgresql]; a Vault has lease-count quotas for it"
HERE = "is for roles at a [vault]; the agent makes users at a [postgresql] itself"
FORM_RULE = "is no path; parts between slashes, without a query, at most 512 bytes"
OWN_RULE = "is where the server manages itself and its logins; for the agent's own there is [[auto_auth.sink]]"
KV = 'kind = "kv"\npath = "secret/data/app"'
STATIC = 'kind = "static"\npath = "database/static-creds/app"'
LEASED_RULE = 'is not for …/creds/…, which is leased; write kind = "lease"'
STATIC_RULE = 'is not for …/static-creds/…, which nobody leases; write kind = "static"'
POOLED = "is shorter than a pooled connection lives; some pools (HikariCP) keep one at least 30s"


def role_at(name: str) -> str:
    """A configuration whose role at a Vault has this name."""
    return at_vault(role=AT_VAULT.replace("database/creds/app", name))


def path(text: str) -> str:
    """A configuration whose role has this path."""
    return at_vault(more_role=f'path = "{text}"')


RULES: dict[str, tuple[str, str]] = {
    # -- paths
    "a path with v1": (
        path("v1/database/creds/app"),
        f'{ROLE_PATH}.path: is written as behind /v1/: "database/creds/app"',
    ),
    "a path from the root": (
        path("/database/creds/app"),
        f'{ROLE_PATH}.path: is written as behind /v1/: "database/creds/app"',
    ),
    "an empty path": (path(""), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path with a query": (path("database/creds/app?ttl=1h"), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path with a fragment": (path("database/creds/app#a"), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path in percent signs": (path("database/creds/%2e%2e/a"), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path with an empty part": (path("database//app"), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path with a trailing slash": (path("database/creds/"), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path without end": (path("a" * 513), f"{ROLE_PATH}.path: {FORM_RULE}"),
    "a path that climbs": (path("database/../sys"), f'{ROLE_PATH}.path: is no path; no part is "." or ".."'),
    "a path that stays": (path("database/./creds"), f'{ROLE_PATH}.path: is no path; no part is "." or ".."'),
    "the agent's own login": (path("auth/token/lookup-self"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a token of one's own": (path("auth/token/create"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "what only the login may see": (path("cubbyhole/a"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "the server's own paths": (path("sys/leases/lookup"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a secret id for somebody else": (
        at_vault(more_role='kind = "write"\npath = "auth/approle/role/b/secret-id"'),
        f"{ROLE_PATH}.path: {OWN_RULE}",
    ),
    "a login": (path("auth/approle/login"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a namespace's own paths": (path("team/sys/raw/core"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a token in a namespace": (path("team/auth/token/create"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a login in a namespace of a namespace": (path("a/b/auth/jwt/login"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a namespace's cubbyhole": (path("team/cubbyhole/a"), f"{ROLE_PATH}.path: {OWN_RULE}"),
    "a name that is the agent's own login": (
        role_at("auth/token/lookup-self"),
        f'role."auth/token/lookup-self": {OWN_RULE}',
    ),
    "a name under sys": (role_at("sys/creds/b") + '\npath = "a"', f'role."sys/creds/b": {TAKEN_RULE}'),
    # -- kinds
    "an unknown kind": (
        at_vault(more_role='kind = "dynamic"'),
        f'{ROLE_PATH}.kind: must be one of "lease", "write", "static", "kv"',
    ),
    "parameters of a kv": (
        at_vault(more_role=KV + '\nparameters = { version = "2" }'),
        f'{ROLE_PATH}.parameters: say nothing of kind = "kv"; "lease" and "write" take them',
    ),
    "a parameter that is no string": (
        at_vault(more_role='kind = "write"\nparameters = { ttl = 3600 }'),
        f'{ROLE_PATH}.parameters.ttl: must be a string; write "3600"',
    ),
    "a parameter without a name": (
        at_vault(more_role='kind = "write"\nparameters = { "a b" = "c" }'),
        f'{ROLE_PATH}.parameters."a b": is no parameter; letters, digits, _ and -, at most 64 of them',
    ),
    "a parameter that is a secret": (
        at_vault(more_role='kind = "write"\nparameters = { secret_id = "x" }'),
        f"{ROLE_PATH}.parameters.secret_id: secrets do not stand in this file; it names the files they are in, such as "
        "password_file",
    ),
    "a look at a lease": (
        at_vault(more_role='poll = "1m"'),
        f'{ROLE_PATH}.poll: says nothing of kind = "lease"; its lease says when',
    ),
    "a look all the time": (
        at_vault(more_role=f'{KV}\npoll = "10ms"'),
        f'{ROLE_PATH}.poll: "10ms" is out of range; "1s" to "1d"',
    ),
    "a look hardly ever": (
        at_vault(more_role=f'{STATIC}\npoll = "2d"'),
        f'{ROLE_PATH}.poll: "2d" is out of range; "1s" to "1d"',
    ),
    "users minted at every look": (at_vault(more_role='kind = "kv"'), f'{ROLE_PATH}.kind: "kv" {LEASED_RULE}'),
    "users minted as if they stayed": (
        at_vault(more_role='kind = "static"\npath = "team/database/creds/app"'),
        f'{ROLE_PATH}.kind: "static" {LEASED_RULE}',
    ),
    "a static role as a lease": (path("database/static-creds/app"), f'{ROLE_PATH}.kind: "lease" {STATIC_RULE}'),
    "a static role as a write": (
        at_vault(more_role='kind = "write"\npath = "database/static-creds/app"'),
        f'{ROLE_PATH}.kind: "write" {STATIC_RULE}',
    ),
    "a certificate's life in words": (
        at_vault(more_role='kind = "write"\npath = "pki/issue/web"\nparameters = { ttl = "banana" }'),
        f'{ROLE_PATH}.parameters.ttl: is no duration; write it like "24h"',
    ),
    # -- what only PostgreSQL has
    "a group": (at_vault(more_role='group = "readers"'), f"{ROLE_PATH}.group: {MINTED}"),
    "statements": (
        at_vault(more_role='creation_statements = ["CREATE ROLE x"]'),
        f"{ROLE_PATH}.creation_statements: {MINTED}",
    ),
    "revocation statements": (
        at_vault(more_role='revocation_statements = ["DROP ROLE x"]'),
        f"{ROLE_PATH}.revocation_statements: {MINTED}",
    ),
    "sessions of a user": (at_vault(more_role="connection_limit = 5"), f"{ROLE_PATH}.connection_limit: {MINTED}"),
    "a password's length": (at_vault(more_role="password_length = 20"), f"{ROLE_PATH}.password_length: {MINTED}"),
    "a bound on leases": (at_vault(more_role="max_leases = 5"), f"{ROLE_PATH}.max_leases: {QUOTA}"),
    "a word about leases": (at_vault(more_role="lease_warning = 0"), f"{ROLE_PATH}.lease_warning: {QUOTA}"),
    "a max TTL": (
        at_vault(more_role='max_ttl = "24h"'),
        f"{ROLE_PATH}.max_ttl: is for the role at the Vault to say; our own ceiling beneath it is max_lifetime",
    ),
    "a profile": (
        at_vault(more_role='profile = "batch"'),
        f"{ROLE_PATH}.profile: is no TTL that a Vault knows; write default_ttl, which is asked for at renewals",
    ),
    # -- what only a Vault has
    "a path at PostgreSQL": (document(more_role='path = "a"'), f"{ROLE_PATH}.path: {HERE}"),
    "a kind at PostgreSQL": (document(more_role='kind = "static"'), f"{ROLE_PATH}.kind: {HERE}"),
    "parameters at PostgreSQL": (document(more_role='parameters = { a = "b" }'), f"{ROLE_PATH}.parameters: {HERE}"),
    "a look at PostgreSQL": (document(more_role='poll = "1m"'), f"{ROLE_PATH}.poll: {HERE}"),
    # -- lengths
    "a default TTL under 5 s": (
        at_vault(more_role='default_ttl = "4s"'),
        f'{ROLE_PATH}.default_ttl: "4s" is too short; at least "5s"',
    ),
    "an overlap above half of what is asked for": (
        at_vault(more_role='default_ttl = "1h"\noverlap = "40m"'),
        f'{ROLE_PATH}.overlap: overlap "40m" is more than half of the lease "1h"; at most "30m"',
    ),
    "a relative command": (
        at_vault(more_role='on_failed = ["page"]'),
        f"{ROLE_PATH}.on_failed[0]: {PATH_RULE}",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]


SOUND = {
    "the least": at_vault(),
    "a name in two parts": role_at("a/b"),
    "a name in one part": role_at("settings"),
    "a name in five parts": role_at("team/database/prod/creds/app"),
    "AWS": role_at("aws/creds/ci-deploy-role"),
    "an identity token": role_at("identity/oidc/token/app"),
    "a path of its own": path("secret/data/app/settings"),
    "an overlap of a lease whose length nobody knows": at_vault(more_role='overlap = "2h"\nmargin = "1m"'),
    "a TTL beyond a day": at_vault(more_role='default_ttl = "48h"'),
    "a certificate": at_vault(
        more_role='kind = "write"\npath = "pki/issue/web"\nmultiline = true\n'
        'parameters = { common_name = "web", ttl = "24h", private_key_format = "pkcs8" }'
    ),
    "a signed key": at_vault(
        more_role='kind = "write"\npath = "ssh/sign/app"\nparameters = { public_key = "ssh-ed25519 AAAA/+abc= a@b" }'
    ),
    "a kv": at_vault(more_role='kind = "kv"\npath = "secret/data/app"\npoll = "1m"'),
    "a static role": at_vault(more_role='kind = "static"\npath = "database/static-creds/app"\npoll = "1h"'),
    "a key-value secret of any name": at_vault(more_role='kind = "kv"\npath = "team/kv-2/data/sys/creds/app"'),
    "a key-value secret of any name, in version 1": at_vault(more_role='kind = "kv"\npath = "secret/auth/creds/app"'),
    "a role called sys": path("database/creds/sys"),
    "a lease by writing": at_vault(more_role='kind = "write"\npath = "aws/creds/app"\nparameters = { ttl = "3600" }'),
    "a lazy role": at_vault(more_role="lazy = true\nrequired = false"),
}


@pytest.mark.parametrize("text", SOUND.values(), ids=SOUND.keys())
def test_what_makes_sense_is_accepted(text: str) -> None:
    assert wrong(text) == []


def test_a_look_may_be_short_in_tests() -> None:
    assert wrong(at_vault(more_role=f'{KV}\npoll = "100ms"'), allow_short=True) == []


def test_secrethubs_variables_are_defaults_here_too() -> None:
    config = read(at_vault(), {"LEASE_RENEWAL_THRESHOLD": "0.4", "LEASE_CLEANUP_INTERVAL": "1000"})

    assert config.role["database/creds/app"].lease_renewal_threshold == 0.6


# -- warnings --------------------------------------------------------------------------------------------------------

NOWHERE = (
    f"{ROLE_PATH}: has neither connection nor verify: it is published without a login having succeeded; name the "
    "database, or write verify = [] if it is for none"
)
WARNINGS = {
    "nowhere to try it": ("", [NOWHERE]),
    "nowhere to try a static role": (STATIC, [NOWHERE]),
    "no CA to try it with": (
        'connection = { host = "db", dbname = "a", sslmode = "verify-full" }',
        [
            f'{ROLE_PATH}.connection.sslmode: "verify-full" finds no CA to verify a new credential with; name it in a '
            "verify table, as sslrootcert"
        ],
    ),
    "nothing to write": (
        'kind = "write"',
        [f'{ROLE_PATH}.parameters: are none; most paths of kind = "write" need some, such as common_name'],
    ),
    "a renewal of what nobody leases": (
        f'{KV}\nlease_renewal_threshold = 0.5\nmax_lifetime = "1h"',
        [
            f'{ROLE_PATH}.max_lifetime: has no effect: nobody leases what kind = "kv" reads',
            f'{ROLE_PATH}.lease_renewal_threshold: has no effect: nobody leases what kind = "kv" reads',
        ],
    ),
    "an overlap of what rotates": (
        f'{STATIC}\nverify = []\noverlap = "10s"\ndrain = "1s"',
        [
            f'{ROLE_PATH}.overlap: has no effect: nobody leases what kind = "static" reads',
            f'{ROLE_PATH}.drain: has no effect: nobody leases what kind = "static" reads',
        ],
    ),
    "a certificate that is read": (
        'verify = []\npath = "pki/issue/web"',
        [f'{ROLE_PATH}.kind: "lease" reads, but …/issue/… is written to, as a rule; write kind = "write"'],
    ),
    "a signature that is read": (
        'verify = []\npath = "team/ssh/sign/app"',
        [f'{ROLE_PATH}.kind: "lease" reads, but …/sign/… is written to, as a rule; write kind = "write"'],
    ),
    "a TTL below 5 min": (
        'verify = []\ndefault_ttl = "2m"\noverlap = "40s"',
        [f'{ROLE_PATH}.default_ttl: "2m" is outside what is recommended: "5m" to "1d"'],
    ),
    "a short overlap of a lease asked for": (
        'verify = []\ndefault_ttl = "1h"\noverlap = "20s"',
        [f'{ROLE_PATH}.overlap: "20s" {POOLED}'],
    ),
    "a verification that never happens": (
        'verify = []\nverify_every = "1m"',
        [f"{ROLE_PATH}.verify_every: has no effect: verify is empty"],
    ),
}


@pytest.mark.parametrize(("more", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_may_surprise_is_named(more: str, expected: list[str]) -> None:
    text = f'{VAULT}{METHOD}[role."database/creds/app"]\nupstream = "vault"\n{more}\n{SOCKET}'

    assert check.warnings(read(text)) == expected


@pytest.mark.parametrize(
    "more",
    [
        "verify = []",
        'connection = { host = "db", dbname = "app" }',
        'connection = { host = "db", dbname = "app", sslmode = "verify-full" }\n'
        'verify = [{ host = "db", dbname = "app", sslmode = "verify-full", sslrootcert = "/ca.pem" }]',
        KV,
        'verify = []\noverlap = "5s"',
    ],
)
def test_a_sound_role_has_no_warnings(more: str) -> None:
    text = f'{VAULT}{METHOD}[role."database/creds/app"]\nupstream = "vault"\n{more}\n{SOCKET}'

    assert check.warnings(read(text)) == []


# -- advice ----------------------------------------------------------------------------------------------------------

POOLS = "pools: longest connection life + longest transaction must stay within the overlap"


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", f"ttl as granted, replaced with an overlap of a quarter of the lease before the Vault ends it; {POOLS}"),
        (
            'default_ttl = "1h"\noverlap = "10m"\nmax_lifetime = "12h"',
            "ttl as granted, 1h asked for at renewals, replaced with an overlap of 10m before the Vault ends it, at "
            f"most 12h old; {POOLS}",
        ),
        (f'{KV}\npoll = "1m"', "looked at every 1m, and handed over again when it has changed"),
        (STATIC, "looked at every 5m and after each rotation, which ends the old password at once"),
    ],
)
def test_the_advice_invents_no_numbers(more: str, expected: str) -> None:
    assert check.advice(read(at_vault(more_role=more)))[1:] == [f"{ROLE_PATH}: {expected}"]
