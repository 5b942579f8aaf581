"""What is accepted with a word, and the numbers that a configuration leads to."""

import math

import pytest

from agent.config import check
from agent.config.rules.roles import SHORTEST, numbers
from agent.leases.lease import Grant, Lease
from agent.leases.schedule import JITTER, MIN_TTL, Policy
from tests.unit.config.documents import FILE, ROLE, ROLE_PATH, document, read

SOCKET = '[listener.unix]\naddress = "/run/a"\n'
RECOMMENDED_TTL = 'is outside what is recommended: "5m" to "1d"'
RECOMMENDED_MAX = 'is outside what is recommended: "1h" to "7d"'
POOLED = "is shorter than a pooled connection lives; some pools (HikariCP) keep one at least 30s"

WARNINGS = {
    "a TTL below 5 min": (
        document(more_role='default_ttl = "4m"', rest=SOCKET),
        f'{ROLE_PATH}.default_ttl: "4m" {RECOMMENDED_TTL}',
    ),
    "a TTL above a day": (
        document(more_role='default_ttl = "25h"\nmax_ttl = "48h"', rest=SOCKET),
        f'{ROLE_PATH}.default_ttl: "1d1h" {RECOMMENDED_TTL}',
    ),
    "a max TTL below an hour": (
        document(more_role='profile = "short"\nmax_ttl = "50m"', rest=SOCKET),
        f'{ROLE_PATH}.max_ttl: "50m" {RECOMMENDED_MAX}',
    ),
    "a max TTL above a week": (
        document(more_role='max_ttl = "8d"', rest=SOCKET),
        f'{ROLE_PATH}.max_ttl: "8d" {RECOMMENDED_MAX}',
    ),
    "a profile that does nothing": (
        document(more_role='profile = "batch"\ndefault_ttl = "1h"', rest=SOCKET),
        f"{ROLE_PATH}.profile: has no effect beside default_ttl",
    ),
    "a short overlap": (document(more_role='overlap = "20s"', rest=SOCKET), f'{ROLE_PATH}.overlap: "20s" {POOLED}'),
    "a drain before the overlap": (
        document(more_role='drain = "1m"', rest=SOCKET),
        f'{ROLE_PATH}.drain: "1m" revokes before the overlap of "15m" has passed',
    ),
    "a drain after the end": (
        document(more_role='drain = "2h"', rest=SOCKET),
        f"{ROLE_PATH}.drain: has no effect: the lease ends earlier",
    ),
    "a credential for anybody": (
        document(more_role='allow = ["uid:1", "any"]', rest=SOCKET),
        f'{ROLE_PATH}.allow: "any" admits whoever reaches the socket',
    ),
    "rotation by anybody": (
        document(more_role='allow_rotate = ["any"]', rest=SOCKET),
        f'{ROLE_PATH}.allow_rotate: "any" admits whoever reaches the socket',
    ),
    "no verification": (
        document(more_role="verify = []", rest=SOCKET),
        f"{ROLE_PATH}.verify: is empty: credentials are published without a login having succeeded",
    ),
    "operations by anybody": (
        document(rest=SOCKET + 'allow_admin = ["any"]'),
        'listener.unix.allow_admin: "any" makes everybody who reaches the socket an operator',
    ),
    "probes from everywhere": (
        document(rest=SOCKET + '[listener.health]\naddress = "0.0.0.0:8210"'),
        'listener.health.address: is every address of the machine; "${POD_IP}:PORT" or a loopback one would do',
    ),
    "a socket for everybody": (
        document(rest=SOCKET + 'socket_mode = "0666"'),
        'listener.unix.socket_mode: "0666" lets everybody connect; `allow` alone decides then',
    ),
    "a file anybody may read": (
        document(rest=f'[[template]]\n{FILE}\nperms = "0444"'),
        'template[0].perms: "0444" lets everybody read the credential',
    ),
    "a stop longer than Kubernetes waits": (
        document(rest=SOCKET + '[agent]\nstop_grace = "15s"'),
        "agent.stop_timeout: with stop_grace, a stop may take 35s; Kubernetes kills after 30s unless "
        "terminationGracePeriodSeconds says more",
    ),
    "a server without a password": (
        document(server='host = "db"\ndbname = "a"\nuser = "u"', rest=SOCKET),
        "postgresql: has neither password_file nor sslcert; a login over TCP will hardly succeed",
    ),
    "a role for nobody": (
        document(
            more_role=f'[role."database/creds/b"]\n{ROLE}',
            rest=f"[[template]]\n{FILE}",
        ),
        'role."database/creds/b": is obtained, but nobody can read it: no listener, and no template uses it',
    ),
}


@pytest.mark.parametrize(("text", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_may_surprise_is_named(text: str, expected: str) -> None:
    assert check.warnings(read(text)) == [expected]


def test_a_verification_that_never_happens_is_named() -> None:
    config = read(document(more_role='verify = []\nverify_every = "1m"', rest=SOCKET))

    assert f"{ROLE_PATH}.verify_every: has no effect: verify is empty" in check.warnings(config)


def test_a_configuration_that_hands_nothing_over_is_named() -> None:
    warnings = check.warnings(read(document()))

    assert (
        warnings[0]
        == "listener: is missing, and there is no [[template]]: credentials are obtained and handed to nobody"
    )


def test_a_server_nobody_uses_is_named() -> None:
    text = document(server="", rest=SOCKET).replace(
        "[postgresql]",
        "".join(f'[postgresql.{name}]\nhost = "/run"\ndbname = "a"\nuser = "u"\n' for name in ("a", "b")),
    )

    warnings = check.warnings(read(text.replace('upstream = "postgresql"', 'upstream = "postgresql.a"')))

    assert warnings == ["postgresql.b: is used by no role"]


@pytest.mark.parametrize("server", ['password_file = "/p"', 'sslcert = "/c"\nsslkey = "/k"', ""])
def test_a_sound_configuration_has_no_warnings(server: str) -> None:
    host = "db" if server else "/run/postgresql"

    config = read(document(server=f'host = "{host}"\ndbname = "a"\nuser = "u"\n{server}', rest=SOCKET))

    assert check.warnings(config) == []


def test_the_advice_is_the_numbers_and_the_rule_for_pools() -> None:
    assert check.advice(read(document())) == [
        f"{ROLE_PATH}: ttl 1h, renewed 34m12s to 40m12s after each grant, replaced when 23h44m50s old, served until "
        "10s before its end; pools: longest connection life + longest transaction must stay within the overlap of 15m"
    ]


def test_the_advice_follows_what_the_role_says() -> None:
    more = 'default_ttl = "10m"\noverlap = "5m"\nmargin = "20s"\nmax_lifetime = "2h"'

    assert check.advice(read(document(more_role=more))) == [
        f"{ROLE_PATH}: ttl 10m, renewed 4m40s to 4m40s after each grant, replaced when 1h54m40s old, served until 20s "
        "before its end; pools: longest connection life + longest transaction must stay within the overlap of 5m"
    ]


@pytest.mark.parametrize("ttl", [5.0, 30.0, 300.0, 3600.0, 86400.0])
@pytest.mark.parametrize("more", ["", 'margin = "1s"\noverlap = "2s"', 'margin = "2s"'])
def test_the_advice_speaks_of_the_same_numbers_as_the_schedule(ttl: float, more: str) -> None:
    role = read(document(more_role=f'default_ttl = "{ttl}s"\n{more}')).role["database/creds/app"]
    grant = Grant(id="x", data={}, ttl=ttl, renewable=True)
    lease = Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)
    policy = Policy(overlap=role.overlap, margin=role.margin, max_lifetime=math.inf)

    shown = numbers(role)

    assert (shown.overlap, shown.margin) == (policy.overlap_of(lease), policy.margin_of(lease))
    assert shown.renew_until - shown.renew_from <= JITTER * ttl + 1e-9


def test_the_shortest_lease_is_the_schedules() -> None:
    assert SHORTEST == MIN_TTL
