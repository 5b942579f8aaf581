"""Promise 3 over Vault: an outage takes nothing away until true expiry less the margin, and ends by itself.

One agent on several servers: one is killed, one stopped with all its connections open, one comes up late, one has lost
its database, one stays well. Outages begin just before a renewal, and the leases end during them.
"""

import contextlib
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Answer, eventually, from_file, log_in
from tests.acceptance.outages import (
    Reader,
    check_outage,
    check_truth,
    next_attempt,
    reading,
    together,
    wait_for_renewal,
)
from tests.acceptance.scenes import file_of, place_of
from tests.acceptance.vaulted import users_of
from tests.faultproxy import FaultProxy
from tests.fix_postgres import Database, StartCluster, create_database
from tests.fix_vault import StartPlace
from tests.issuers import Issuer
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup

KILLED, HANGING, LATE, DATABASE, WELL = "killed", "hanging", "late", "database", "well"
PROMPT = 0.05
EVERY = 0.2
DEADLINE = 10.0
"""Of one call, where no lease is left that needs an answer sooner."""


def role_of(name: str) -> str:
    return f"database/creds/{name}"


@dataclass(kw_only=True)
class Upstream:
    """One server as the agent's configuration knows it, and how to take it away.

    Attributes:
        away, back: take the server away, and bring it back; `back` returns when it serves.
    """

    name: str
    setup: VaultSetup
    database: Database
    address: str
    away: Callable[[], None] = lambda: None
    back: Callable[[], None] = lambda: None
    policy: str = ""
    vault: dict[str, Any] = field(default_factory=dict)
    role: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return role_of(self.name)

    def prepare(self, issuer: Issuer, *, ttl: float, token_ttl: float, **role: Any) -> None:
        """Write what the pod needs into the server."""
        made = self.setup.database(self.database, ttl=ttl, max_ttl=100 * ttl)
        self.policy = self.setup.policy(made.creds())
        way = self.setup.jwt(issuer, self.policy, token_ttl=f"{token_ttl:g}s", token_max_ttl="3600s")
        self.vault = {"address": self.address, "method": way.method}
        connection = place_of(self.database)
        self.role = {"upstream": f"vault.{self.name}", "path": made.creds(), "connection": connection, **role}


def configuration(place: Path, upstreams: Mapping[str, Upstream], **agent: Any) -> dict[str, Any]:
    return {
        "agent": {"stop_timeout": "10s", **agent},
        "listener": {"unix": {"address": str(place / "agent.sock")}},
        "vault": {name: one.vault for name, one in upstreams.items()},
        "role": {one.key: one.role for one in upstreams.values()},
        "template": [file_of(place, name, one.key) for name, one in upstreams.items()],
    }


@pytest.fixture
def proxies() -> Iterator[Callable[[VaultPlace], FaultProxy]]:
    """`proxies(place)` puts a proxy in front of a server."""
    with contextlib.ExitStack() as stack:
        yield lambda place: stack.enter_context(FaultProxy(place.address))


@dataclass(kw_only=True)
class Estate:
    """Makes the servers of one test, of one kind."""

    start_place: StartPlace
    shared: VaultPlace
    proxies: Callable[[VaultPlace], FaultProxy]
    database: Database
    directory: Path

    def killed(self) -> Upstream:
        """Its port refuses connections. The in-tree server forgets all when it ends: the way to it dies instead."""
        if self.shared.kind == "intree":
            proxy = self.proxies(self.shared)
            return self._make(KILLED, self.shared, address=proxy.address, away=proxy.dead, back=proxy.alive)
        place = self.start_place()
        return self._make(KILLED, place, away=place.kill, back=place.start_again)

    def hanging(self) -> Upstream:
        """It accepts connections, and says nothing."""
        place = self.start_place()
        return self._make(HANGING, place, away=place.pause, back=place.resume)

    def late(self) -> Upstream:
        """It is not there yet."""
        proxy = self.proxies(self.shared)
        proxy.dead()
        return self._make(LATE, self.shared, address=proxy.address, back=proxy.alive)

    def on(self, name: str, database: Database, **how: Any) -> Upstream:
        return self._make(name, self.shared, database=database, **how)

    def users(self) -> set[str]:
        """Of all servers, in the database that they share."""
        return users_of(self.database)

    def _make(self, name: str, place: VaultPlace, *, address: str = "", **how: Any) -> Upstream:
        how = {"database": self.database, **how}
        return Upstream(name=name, setup=VaultSetup(place, self.directory), address=address or place.address, **how)


@pytest.fixture
def estate(
    own_vault_place: StartPlace,
    vault_place: VaultPlace,
    proxies: Callable[[VaultPlace], FaultProxy],
    database: Database,
    tmp_path: Path,
) -> Estate:
    return Estate(
        start_place=own_vault_place, shared=vault_place, proxies=proxies, database=database, directory=tmp_path
    )


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What happened to one role; instants are Unix time.

    Attributes:
        retry_at: the end of the delay in force when the server was back.
        said: what health said of the role, and when.
    """

    began: float
    ended: float
    retry_at: float
    said: list[tuple[float, Any]]
    file_gone: bool


def endure(agent: Agent, one: Upstream, lasting: float, within: float) -> Outage:
    """One outage from just before a renewal on."""
    wait_for_renewal(agent, one.key, within)
    began = time.time()
    one.away()
    said = []
    while time.time() < began + lasting:
        said.append((time.time(), agent.role(one.key)["error"]))
        time.sleep(0.25)
    gone = not (agent.file.parent / one.name).exists()
    one.back()
    ended = time.time()
    return Outage(began=began, ended=ended, retry_at=next_attempt(agent, one.key), said=said, file_gone=gone)


def come_late(agent: Agent, one: Upstream, lasting: float) -> Outage:
    """The server is away when the agent starts."""
    began = time.time()
    assert eventually(lambda: bool(agent.role(one.key)["error"]))
    said = [(time.time(), agent.role(one.key)["error"])]
    assert agent.probe("startupz") == 503, "a required role is missing"
    time.sleep(max(0.0, began + lasting - time.time()))
    one.back()
    ended = time.time()
    return Outage(began=began, ended=ended, retry_at=_next_login(agent, one), said=said, file_gone=False)


def _next_login(agent: Agent, one: Upstream) -> float:
    """The role waits for the login; the agent's log says when that is tried again."""
    last = agent.logged("issue-failed", role=f"session:vault.{one.name}")[-1]
    return time.time() + float(last["retry_in"])


def prompt(answers: list[Answer]) -> None:
    """At once: a few of a hundred may be held up by the machine; none waits for a server."""
    took = sorted(answer.took for answer in answers)
    assert statistics.median(took) < PROMPT / 2
    assert took[math.ceil(0.95 * len(took)) - 2] < PROMPT
    assert took[-1] < 2.0


LENGTHS = [
    pytest.param(8.0, 0.6, 60.0, marks=pytest.mark.timeout(150), id="short"),
    pytest.param(20.0, 0.6, 45.0, marks=[pytest.mark.long, pytest.mark.timeout(300)], id="0.6-of-20s"),
    pytest.param(60.0, 0.6, 600.0, marks=[pytest.mark.long, pytest.mark.timeout(600)], id="0.6-of-60s"),
    # The logins end during this one, too.
    pytest.param(20.0, 1.5, 20.0, marks=[pytest.mark.long, pytest.mark.timeout(300)], id="1.5-of-20s"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("ttl", "share", "token_ttl"), LENGTHS)
def test_an_outage_takes_nothing_away_before_its_time(
    run_agent: RunAgent,
    estate: Estate,
    issuer: Issuer,
    own_cluster: StartCluster,
    tmp_path: Path,
    place: Path,
    ttl: float,
    share: float,
    token_ttl: float,
) -> None:
    """Promises 1, 3 and 7: killed, hanging, late, without its database; and a neighbour who notices nothing."""
    cluster = own_cluster()
    behind = create_database(cluster, tmp_path)
    everyone = [
        estate.killed(),
        estate.hanging(),
        estate.late(),
        estate.on(DATABASE, behind, away=cluster.kill, back=cluster.start),
        estate.on(WELL, estate.database),
    ]
    upstreams = {one.name: one for one in everyone}
    for one in everyone:
        one.prepare(issuer, ttl=ttl, token_ttl=token_ttl)
    margin = max(1.0, 0.05 * ttl)
    agent = run_agent(configuration(place, upstreams)).wait_listening()
    outages: dict[str, Outage] = {}
    lasting = share * ttl

    def suffer(name: str) -> None:
        outages[name] = endure(agent, upstreams[name], lasting, within=2 * ttl)

    def begin() -> None:
        outages[LATE] = come_late(agent, upstreams[LATE], min(10.0, lasting))

    assert eventually(lambda: all(agent.ask(f"/v1/{one.key}").status == 200 for one in everyone if one.name != LATE))
    hit = (KILLED, HANGING, DATABASE)
    keys = [upstreams[name].key for name in (KILLED, HANGING, WELL)]
    with (
        reading(agent, *keys, every=EVERY, place=place_of(estate.database)) as logging_in,
        reading(agent, upstreams[DATABASE].key, upstreams[LATE].key, every=EVERY) as only_reading,
    ):
        readers: dict[str, Reader] = {name: {**logging_in, **only_reading}[role_of(name)] for name in upstreams}
        together(begin, *(lambda name=name: suffer(name) for name in hit))
        assert set(outages) == {*hit, LATE}
        recovered = eventually(
            lambda: all(readers[name].first_good(outage.ended) < math.inf for name, outage in outages.items()),
            within=max(outage.retry_at - time.time() for outage in outages.values()) + 3 * DEADLINE,
        )

    assert recovered, agent.stderr[-4000:]
    for name, outage in outages.items():
        assert readers[name].first_good(outage.ended) <= outage.retry_at + DEADLINE, name
        with log_in(place_of(upstreams[name].database), agent.read(role_of(name))) as app:
            app.execute("SELECT * FROM reports")
        with log_in(place_of(upstreams[name].database), from_file(place / "secrets" / name)) as app:
            app.execute("SELECT * FROM reports")
    for name in hit:
        answers = readers[name].answers
        check_outage(answers, outages[name].began, outages[name].ended, margin=margin, every=EVERY)
        check_truth([answer for answer in answers if answer.status == 200], margin)
        prompt([answer for answer in answers if answer.status != 200])
        assert outages[name].file_gone, name
    # Nothing that was served was dead.
    assert {name: readers[name].refused for name in (KILLED, HANGING, WELL)} == {KILLED: [], HANGING: [], WELL: []}
    assert all(readers[name].logins > lasting for name in (KILLED, HANGING, WELL))

    # Health says why, soon after it began.
    words = {
        KILLED: "cannot be reached|connection was cut",
        HANGING: "no answer within|did not answer in time",
        DATABASE: "could not extend the lease|it failed \\(500\\)|no answer within|did not answer in time",
        LATE: "not logged in: .*connection is refused",
    }
    for name, outage in outages.items():
        said = [(at, text) for at, text in outage.said if text]
        assert said, name
        assert said[0][0] < outage.began + 5.0, (name, outage.said)
        assert re.search(words[name], said[-1][1]), (name, said)

    # The neighbour.
    well = readers[WELL].answers
    assert {answer.status for answer in well} == {200}
    assert agent.role(role_of(WELL))["phase"] == "fresh"
    check_truth(well, margin)
    # Promise 7: at most ten failed calls in any 60 s; here all of them, unless it lasts longer.
    minutes = 1 + (time.time() - min(outage.began for outage in outages.values())) // 60
    failed = [line["role"] for line in agent.log if line["event"] in ("renew-failed", "issue-failed")]
    assert {role: failed.count(role) for role in failed if failed.count(role) > 7 * minutes} == {}
    assert agent.stop() == 0
    assert (estate.users(), users_of(behind)) == (set(), set())


@pytest.mark.slow
def test_a_stop_while_servers_are_away_keeps_its_deadline_and_names_what_is_left(
    run_agent: RunAgent, estate: Estate, issuer: Issuer, place: Path
) -> None:
    """Promise 8: SIGTERM with one server killed and one hanging; exit code 6, in time, without secrets, files gone.

    At the one that hangs a lease is just being issued: nothing is left of it once the server goes on.
    """
    upstreams = {one.name: one for one in (estate.killed(), estate.hanging(), estate.on(WELL, estate.database))}
    for one in upstreams.values():
        short = one.name == HANGING
        one.prepare(issuer, ttl=6 if short else 60, token_ttl=20 if short else 120)
    agent = run_agent(configuration(place, upstreams, stop_timeout="4s")).wait_ready()
    held = {name: agent.read(one.key) for name, one in upstreams.items()}
    upstreams[KILLED].away()
    upstreams[HANGING].away()
    assert agent.ask(f"/v1/{role_of(HANGING)}/rotate", method="POST").status == 202
    time.sleep(0.3)

    began = time.monotonic()
    code = agent.stop()
    took = time.monotonic() - began

    assert code == 6
    assert took <= 6.0
    assert not agent.socket.exists()
    assert not list((place / "secrets").iterdir())
    left = [line["left"] for line in agent.logged("left-behind")]
    for name in (KILLED, HANGING):
        assert any(line.startswith(role_of(name)) for line in left), left
        assert any(line.startswith(f"session:vault.{name}") for line in left), left
        assert any(f"vault.{name}" in line for line in left), left
    assert not any(WELL in line for line in left)
    secrets = [word for each in held.values() for word in (each.username, each.password, each.lease_id)]
    assert [word for word in secrets if word in agent.stdout + agent.stderr] == []
    # What was named is what is there.
    upstreams[HANGING].back()
    upstreams[KILLED].back()
    assert eventually(lambda: estate.users() == {held[KILLED].username}, within=40.0)


@pytest.mark.slow
def test_a_login_that_may_not_revoke_leases_ends_itself_and_them(
    run_agent: RunAgent, estate: Estate, issuer: Issuer, place: Path
) -> None:
    """D-06: the policy lets nobody revoke a lease; revoke-self of our login ends the users with it."""
    one = estate.on(WELL, estate.database)
    one.prepare(issuer, ttl=60, token_ttl=120)
    self_only = {"auth/token/revoke-self": ("update",), "auth/token/lookup-self": ("read",)}
    one.setup.write_policy(one.policy, {one.role["path"]: ("read",), "sys/leases/renew": ("update",), **self_only})
    agent = run_agent(configuration(place, {WELL: one})).wait_ready()
    assert estate.users() == {agent.read(one.key).username}

    code = agent.stop()

    assert code == 0, agent.stderr
    assert estate.users() == set()
    assert agent.logged("left-behind") == []


@pytest.mark.slow
@pytest.mark.parametrize("where", ["login", "issue"])
def test_a_stop_during_a_call_that_hangs_leaves_nothing_once_it_is_answered(
    run_agent: RunAgent,
    estate: Estate,
    proxies: Callable[[VaultPlace], FaultProxy],
    issuer: Issuer,
    place: Path,
    where: str,
) -> None:
    """SIGTERM while the server does what was asked, and answers two seconds later: what is answered late is ended."""
    proxy = proxies(estate.shared)
    one = estate.on(WELL, estate.database, address=proxy.address)
    one.prepare(issuer, ttl=60, token_ttl=120)
    mount = one.vault["method"]["mount_path"]
    prefix = f"{mount}/login" if where == "login" else one.role["path"]
    proxy.fault(prefix, delay=2.0)
    agent = run_agent(configuration(place, {WELL: one})).wait_listening()
    assert eventually(lambda: proxy.count(prefix) == 1)
    time.sleep(0.5)

    began = time.monotonic()
    code = agent.stop()
    took = time.monotonic() - began

    assert code == 0, agent.logged("left-behind")
    assert took < 6.0, "it waited for the answer, not for its deadline"
    assert eventually(lambda: estate.users() == set()), (agent.log, proxy.requests)
    assert eventually(lambda: proxy.count("auth/token/revoke-self") == 1), "the login is ended, late as it came"
