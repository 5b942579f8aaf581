"""The main job over Vault, for as long as it takes to see everything turn over: leases, their max TTL, and the login.

The default suite plays it scaled down; `make vault` at the length that an operator would believe.
"""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.harness import Agent, Client, credential, eventually
from tests.acceptance.pools import Crowd, Pace, bouncer_file, find_pgbouncer
from tests.acceptance.promised import TAKEN_BACK, Watch
from tests.acceptance.scenes import ROLE, file_of, place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer

__all__ = ["vault_scene"]

OTHER = "database/creds/other"
LAZY = "database/creds/lazy"


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long everything is, seconds.

    Attributes:
        lasts: at least; it goes on until every role has had `users` users and there were `logins` logins.
        slack: by which the server's idea of an end and ours may differ: what its answers may be late by.
    """

    ttl: float
    max_ttl: float
    token_ttl: float
    token_max_ttl: float
    pace: Pace
    lasts: float
    users: int
    logins: int
    every: float
    slack: float

    @property
    def life(self) -> float:
        """Shortest life of a lease before it is replaced, its login's end aside."""
        return self.max_ttl - 0.25 * self.ttl - max(1.0, 0.05 * self.ttl)

    @property
    def renewed_after(self) -> float:
        """Shortest time between two renewals."""
        return min(0.57 * self.ttl, 0.75 * self.ttl - max(1.0, 0.05 * self.ttl))


SHORT = Scale(
    ttl=6,
    max_ttl=12,
    token_ttl=8,
    token_max_ttl=17,  # the first login has ended before the scene does
    pace=Pace(life=1, transaction=0.4),
    lasts=20.0,
    users=3,
    logins=2,
    every=0.3,
    slack=2.0,
)
FULL = Scale(
    ttl=20,
    max_ttl=60,
    token_ttl=45,
    token_max_ttl=150,
    pace=Pace(life=3, transaction=2.0),
    lasts=600.0,
    users=12,
    logins=4,
    every=0.5,
    slack=2.0,
)


def turn_over(scene: VaultScene, issuer: Issuer, scale: Scale) -> None:
    """Two roles, apps of every kind, and a watch beside them; then the stop."""
    made = scene.leases(ttl=scale.ttl, max_ttl=scale.max_ttl)
    paths = {
        ROLE: made.creds(),
        OTHER: scene.setup.database_role(made, "other", ttl=scale.ttl, max_ttl=scale.max_ttl),
    }
    scene.policy = scene.setup.policy(*paths.values())
    way = jwt_way(scene, issuer, token_ttl=f"{scale.token_ttl:g}s", token_max_ttl=f"{scale.token_max_ttl:g}s")
    where = place_of(scene.database)
    document = scene.document(way)
    document["listener"]["unix"]["allow_admin"] = [f"uid:{os.geteuid()}"]
    document["role"][OTHER] = {"upstream": "vault", "path": paths[OTHER], "connection": where}
    files = [*document["template"], file_of(scene.place, "other", OTHER), bouncer_file(scene.place, ROLE)]
    document["template"] = files
    agent = scene.agent(document).wait_ready()
    login = f"auth/{way.mount}/login"
    began = time.monotonic()

    watch = Watch(scene=scene, agent=agent, paths=paths, every=scale.every)
    crowd = Crowd(agent, where, scale.pace)
    for role, file in ((ROLE, files[0]), (OTHER, files[1])):
        crowd.logins(role, Path(file["destination"]))
    crowd.sqlalchemy(OTHER)
    program = find_pgbouncer()
    bouncer = crowd.pgbouncer(program, Path(files[2]["destination"])) if program else None
    with watch, crowd:
        turned = eventually(
            lambda: (
                time.monotonic() >= began + scale.lasts
                and min(scene.proxy.count(path) for path in paths.values()) >= scale.users
                and scene.proxy.count(login) >= scale.logins
            ),
            within=2 * scale.lasts + 20.0,
            every=0.2,
        )
    lasted = time.monotonic() - began
    told = bouncer.said if bouncer else ""

    assert turned, agent.stderr[-3000:]
    check_apps(crowd, scale, lasted)
    assert "auth failed" not in told
    assert "login failed" not in told
    check_words(watch, scale)
    check_users(watch)
    logins = scene.proxy.count(login)
    for path in paths.values():
        # Replaced before its max TTL, and once more where the login was; renewed no more often than it must be.
        issues = scene.proxy.count(path)
        assert issues <= lasted / scale.life + logins + 1
    renewals = scene.proxy.count("sys/leases/renew")
    assert renewals <= len(paths) * (lasted / scale.renewed_after + lasted / scale.life + logins + 1)
    assert agent.logged("expired") == []
    for event in ("issue-failed", "verify-failed", "renew-failed", "revoke-failed", "login-lost"):
        assert agent.logged(event) == []

    report(watch, crowd, scene, lasted, logins, renewals)
    check_stop(scene, agent)


def check_apps(crowd: Crowd, scale: Scale, lasted: float) -> None:
    """Nobody noticed anything, and everybody was at work all the time."""
    assert crowd.failures == []
    for tally in crowd.tallies:
        each = scale.pace.every if tally.name.startswith("logins") else scale.pace.transaction
        assert tally.done >= 0.3 * lasted / each, tally
        assert len(tally.users) >= scale.users, tally


def check_words(watch: Watch, scale: Scale) -> None:
    """Promise 1: what is told of a lease is the truth, and only ever grows."""
    assert watch.errors == []
    assert watch.compared >= 0.8 * len(watch.said) > 20
    assert watch.untrue(scale.slack) == []
    assert watch.fallen() == []
    assert watch.mixed() == set()
    for role in watch.paths:
        assert len(watch.users(role)) >= scale.users
    deaths = watch.deaths()
    assert len(deaths) >= scale.users
    for user, (promised, _, missed) in deaths.items():
        assert promised - TAKEN_BACK <= missed <= promised + 1.0 + 10.0, user


def check_users(watch: Watch) -> None:
    """Promise 2: outside drain windows one user per role, and nobody whom the agent does not know."""
    assert watch.states() <= {"published", "draining"}
    assert watch.strays() == []
    assert watch.overdue() == []
    assert watch.missing() == []
    assert watch.crowded() == []
    assert watch.quiet_share > 0.25


def check_stop(scene: VaultScene, agent: Agent) -> None:
    """Promise 8: an orderly stop leaves nothing."""
    began = time.monotonic()

    assert agent.stop() == 0

    assert time.monotonic() - began < 10.0 + 3.0, "stop_timeout is 10 s"
    assert scene.users() == set()
    assert scene.proxy.count("auth/token/revoke-self") >= 1
    assert agent.logged("left-behind") == []


def report(watch: Watch, crowd: Crowd, scene: VaultScene, lasted: float, logins: int, renewals: int) -> None:
    """What was seen, for whoever runs it with `-s`."""
    late = [missed - promised for promised, _, missed in watch.deaths().values()]
    lines = [
        f"{scene.setup.place.kind}: {lasted:.0f} s, {logins} logins, {len(watch.published)} users, {renewals} renewals",
        *(
            f"  {one.name}: {one.done} done, {len(one.failures)} failed, {len(one.users)} users"
            for one in crowd.tallies
        ),
        f"  {watch.compared} of {len(watch.said)} reads compared with the server",
        f"  {len(watch.looks)} looks at the users, {watch.quiet_share:.0%} outside drain windows",
        f"  users gone {min(late):.1f} to {max(late):.1f} s after the end promised last",
    ]
    print("\n" + "\n".join(lines))  # noqa: T201


@pytest.mark.slow
@pytest.mark.timeout(150)
def test_everything_turns_over_and_no_app_notices(vault_scene: VaultScene, issuer: Issuer) -> None:
    """Promises 1 to 6 and 8, R002-025, D-01, D-05: leases through their max TTL and their login's, scaled down."""
    turn_over(vault_scene, issuer, SHORT)


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("vault_kind", ["bao"])
def test_ten_minutes_of_rotations_fail_nobody(vault_scene: VaultScene, issuer: Issuer) -> None:
    """As above at full length: lease 20 s, max TTL 60 s, token 45 s, its max TTL 150 s, 2 s transactions."""
    assert find_pgbouncer(), "the long run wants PgBouncer: apt-get install pgbouncer"
    turn_over(vault_scene, issuer, FULL)


def traced(number: int) -> dict[str, str]:
    """Headers that no other request has, as tracing adds them."""
    return {"traceparent": f"00-{number + 1:032x}-{number + 1:016x}-01", "X-Request-Id": str(number)}


def test_two_hundred_traced_reads_and_a_hundred_first_readers_cost_one_user_each(
    vault_scene: VaultScene, issuer: Issuer
) -> None:
    """Promise 2, R004-026: the key is the role, never the request's headers; a cache of requests makes 200."""
    scene = vault_scene
    made = scene.leases(ttl=300, max_ttl=3600)
    cold = scene.setup.database_role(made, "lazy", ttl=300, max_ttl=3600)
    scene.policy = scene.setup.policy(made.creds(), cold)
    document = scene.document(jwt_way(scene, issuer, token_ttl="600s"))
    where = place_of(scene.database)
    document["role"][LAZY] = {"upstream": "vault", "path": cold, "connection": where, "lazy": True, "required": False}
    agent = scene.agent(document).wait_ready()

    with Client(agent.socket) as client:
        read = {credential(client.ask(f"/v1/{ROLE}", headers=traced(number))).username for number in range(200)}

    assert read == scene.users()
    assert len(read) == scene.proxy.count(made.creds()) == 1

    gate = threading.Barrier(100)

    def first(number: int) -> str:
        with Client(agent.socket) as client:
            gate.wait(20.0)
            return credential(client.ask(f"/v1/{LAZY}", headers=traced(1000 + number))).username

    with ThreadPoolExecutor(max_workers=100) as pool:
        cold_read = set(pool.map(first, range(100)))

    assert scene.proxy.count(cold) == len(cold_read) == 1
    assert scene.users() == read | cold_read
    assert agent.stop() == 0
    assert scene.users() == set()
