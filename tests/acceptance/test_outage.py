"""Promise 3: an outage takes nothing away until true expiry less the margin, and never a hang or a dead credential.

Three servers under one agent: one is stopped with every process, one is killed, one stays well. The outages begin just
before a renewal and last 60 % of the lease, which therefore ends during them.
"""

import contextlib
import statistics
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.dev.cluster import Cluster
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Answer, Client, credential, eventually, from_file, log_in
from tests.acceptance.scenes import document, file_of, leased, place_of, role_of, server_of
from tests.fix_postgres import Database, StartCluster, create_database

STOPPED, KILLED, WELL = (f"database/creds/{name}" for name in ("stopped", "killed", "well"))
TTL, MARGIN, OUTAGE = 20.0, 2.0, 12.0
PROMPT = 0.05
EVERY = 0.1
SLACK = 0.05
"""Between two readings of clocks on a busy machine (seconds)."""


@dataclass(kw_only=True)
class Reader:
    """Reads a role every 100 ms, as an app that asks before each use."""

    socket: Path
    role: str
    answers: list[Answer] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with Client(self.socket) as client:
            while not self.done.wait(EVERY):
                self.answers.append(client.ask(f"/v1/{self.role}"))


@contextlib.contextmanager
def reading(agent: Agent, *roles: str) -> Iterator[dict[str, Reader]]:
    readers = {role: Reader(socket=agent.socket, role=role) for role in roles}
    threads = [threading.Thread(target=reader.run) for reader in readers.values()]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        for reader in readers.values():
            reader.done.set()
        for thread in threads:
            thread.join()


@dataclass(frozen=True, kw_only=True)
class Outage:
    """What happened to one role; instants are Unix time.

    Attributes:
        ended: when the server was back.
        until: when the database itself stops letting the credential in.
        retry_at: the end of the delay in force when the server was back.
    """

    began: float
    ended: float
    until: float
    retry_at: float
    file_gone: bool


def wait_for_renewal(agent: Agent, role: str) -> None:
    """Return within half a second before the role's next renewal."""

    def near() -> bool:
        found = agent.role(role)
        return found["next_step"] == "renew" and found["next_in"] is not None and found["next_in"] < 0.5

    assert eventually(near, within=TTL)


def valid_until(database: Database, username: str) -> float:
    ((until,),) = database.execute(
        "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s", username
    )
    return float(until)


def endure(agent: Agent, role: str, database: Database, file: Path, cluster: Cluster, *, kill: bool) -> Outage:
    """One outage from just before a renewal on."""
    wait_for_renewal(agent, role)
    until = valid_until(database, agent.read(role).username)
    assert file.exists()
    began = time.time()
    (cluster.kill if kill else cluster.pause)()
    time.sleep(OUTAGE)
    gone = not file.exists()
    (cluster.start if kill else cluster.resume)()
    return Outage(began=began, ended=time.time(), until=until, retry_at=next_attempt(agent, role), file_gone=gone)


def next_attempt(agent: Agent, role: str) -> float:
    """The instant of the next attempt; now, where the one under way succeeds."""
    while (found := agent.role(role))["retry_in"] is None and found["phase"] != "fresh":
        time.sleep(0.02)
    return time.time() + (found["retry_in"] or 0.0)


def ends_of(answers: list[Answer]) -> dict[tuple[str, float], tuple[float, float]]:
    """By user and `expires_at`: between which instants the lease ends, if every `lease_duration` was right.

    It is what is left at some instant between question and answer, rounded down to a second.
    """
    ends: dict[tuple[str, float], tuple[float, float]] = {}
    for answer in answers:
        held = credential(answer)
        low, high = ends.get((held.username, held.expires_at), (0.0, float("inf")))
        narrowed = max(low, answer.asked + held.lease_duration), min(high, answer.answered + held.lease_duration + 1)
        ends[held.username, held.expires_at] = narrowed
    return ends


def check_truth(answers: list[Answer]) -> None:
    """Promise 1: the remaining TTL counts down, agrees with `expires_at` and with Cache-Control; no end ever falls."""
    for (_, expires_at), (low, high) in ends_of(answers).items():
        assert low <= high + SLACK
        assert low - SLACK < expires_at + 1
        assert high + SLACK > expires_at
    before: dict[str, float] = {}
    for answer in answers:
        held = credential(answer)
        assert answer.headers["cache-control"] == f"private, max-age={max(0, held.lease_duration - int(MARGIN))}"
        assert held.expires_at >= before.get(held.username, 0.0)
        before[held.username] = held.expires_at


def check_outage(outage: Outage, reader: Reader) -> None:
    """Promise 3, from the reads alone."""
    dark = [answer for answer in reader.answers if answer.status != 200]
    assert dark, "the lease did not end during the outage"
    assert {answer.status for answer in dark} == {503}
    lit_before = [answer for answer in reader.answers if answer.answered < dark[0].asked]
    assert {answer.status for answer in lit_before} == {200}
    last = credential(lit_before[-1])
    low, high = ends_of(lit_before)[last.username, last.expires_at]
    # Served to the last moment, not a moment longer, and never beyond what the database itself says.
    assert low - MARGIN - 3 * EVERY <= lit_before[-1].answered <= high - MARGIN + SLACK
    assert low <= outage.until
    assert any(answer.body["state"] == "stale" for answer in lit_before if answer.asked > outage.began)
    during = [answer for answer in dark if answer.answered < outage.ended]
    assert len(during) > (outage.ended - during[0].asked) / EVERY * 0.6, "a read hung"
    for answer in dark:
        assert int(answer.headers["retry-after"]) >= 1
        assert "data" not in answer.body
    # One of a hundred may be held up by the machine; the rest is prompt.
    assert statistics.median(answer.took for answer in reader.answers) < PROMPT / 5
    assert statistics.quantiles([answer.took for answer in dark], n=100)[-2] < PROMPT


def recovered_at(reader: Reader, outage: Outage) -> float:
    back = [a.answered for a in reader.answers if a.status == 200 and a.asked > outage.ended]
    return back[0] if back else float("inf")


@pytest.fixture
def servers(own_cluster: StartCluster, tmp_path: Path) -> dict[str, Database]:
    """A server and a database for each of the three roles."""
    return {role: create_database(own_cluster(), tmp_path) for role in (STOPPED, KILLED, WELL)}


def three_roles(place: Path, servers: dict[str, Database], **role: object) -> dict[str, Any]:
    text: dict[str, Any] = document(place, servers[WELL])
    text["postgresql"] = {role.rpartition("/")[2]: server_of(database) for role, database in servers.items()}
    text["role"] = {
        name: role_of(database, upstream=f"postgresql.{name.rpartition('/')[2]}", **role)
        for name, database in servers.items()
    }
    text["template"] = [file_of(place, name.rpartition("/")[2], name) for name in servers]
    text["agent"]["stop_timeout"] = "5s"
    return text


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_an_outage_takes_nothing_away_before_its_time(
    run_agent: RunAgent, servers: dict[str, Database], place: Path
) -> None:
    """Promises 1, 3 and 7, R004-031, R004-038: stopped, killed, and a neighbour who notices nothing."""
    text = three_roles(place, servers, default_ttl="20s", max_ttl="1h", margin="2s")
    files = {role: place / "secrets" / role.rpartition("/")[2] for role in servers}
    agent = run_agent(text).wait_ready()
    outages: dict[str, Outage] = {}

    def suffer(role: str, kill: bool) -> None:
        database = servers[role]
        outages[role] = endure(agent, role, database, files[role], database.cluster, kill=kill)

    with reading(agent, *servers) as readers:
        threads = [threading.Thread(target=suffer, args=each) for each in ((STOPPED, False), (KILLED, True))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert set(outages) == {STOPPED, KILLED}
        recovered = eventually(
            lambda: all(recovered_at(readers[role], outage) < float("inf") for role, outage in outages.items()),
            within=30.0,
        )

    assert recovered, agent.stderr[-3000:]
    for role, outage in outages.items():
        check_outage(outage, readers[role])
        check_truth([answer for answer in readers[role].answers if answer.status == 200])
        assert recovered_at(readers[role], outage) <= outage.retry_at + 10.0
        assert outage.file_gone
        with log_in(place_of(servers[role]), agent.read(role)) as app:
            app.execute("SELECT * FROM reports")
        with log_in(place_of(servers[role]), from_file(files[role])) as app:
            app.execute("SELECT * FROM reports")
    well = readers[WELL].answers
    assert {answer.status for answer in well} == {200}
    assert {answer.body["state"] for answer in well} == {"fresh"}
    assert len({credential(answer).username for answer in well}) == 1
    assert credential(well[-1]).expires_at > credential(well[0]).expires_at
    check_truth(well)
    assert statistics.median(answer.took for answer in well) < PROMPT / 5
    # Promise 7: at most ten failed calls in any 60 s, and gaps between them.
    failed = [line for line in agent.log if line["event"] in ("renew-failed", "issue-failed")]
    for role in outages:
        assert len([line for line in failed if line["role"] == role]) <= 7
    assert agent.stop() == 0
    assert [leased(database) for database in servers.values()] == [set(), set(), set()]


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_stop_during_an_outage_keeps_its_deadline_and_names_what_is_left(
    run_agent: RunAgent, servers: dict[str, Database], place: Path
) -> None:
    """Promise 8: SIGTERM while one server is stopped and one is killed; exit code 6, in time, without secrets."""
    agent = run_agent(three_roles(place, servers)).wait_ready()
    held = {role: agent.read(role) for role in servers}
    servers[STOPPED].cluster.pause()
    servers[KILLED].cluster.kill()

    began = time.monotonic()
    code = agent.stop()
    took = time.monotonic() - began

    assert code == 6
    assert took <= 5.5
    assert leased(servers[WELL]) == set()
    assert not agent.socket.exists()
    assert not list((place / "secrets").iterdir())
    left = [line["left"] for line in agent.logged("left-behind")]
    for role in (STOPPED, KILLED):
        assert any(role in line for line in left), agent.stderr
    assert not any(WELL in line for line in left)
    for one in held.values():
        for secret in (one.username, one.password, one.lease_id):
            assert secret not in agent.stdout + agent.stderr
    # What was named is what is there.
    servers[STOPPED].cluster.resume()
    servers[KILLED].cluster.start()
    for role in (STOPPED, KILLED):
        assert leased(servers[role]) <= {held[role].username}
