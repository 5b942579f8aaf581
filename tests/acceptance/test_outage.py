"""Promise 3: an outage takes nothing away until true expiry less the margin, and never a hang or a dead credential.

Three servers under one agent: one is stopped with every process, one is killed, one stays well. The outages begin just
before a renewal and last 60 % of the lease, which therefore ends during them.
"""

import statistics
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.dev.cluster import Cluster
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, credential, eventually, from_file, log_in
from tests.acceptance.outages import (
    Reader,
    check_outage,
    check_truth,
    ends_of,
    next_attempt,
    reading,
    valid_until,
    wait_for_renewal,
)
from tests.acceptance.scenes import document, file_of, leased, place_of, role_of, server_of
from tests.fix_postgres import Database, StartCluster, create_database

STOPPED, KILLED, WELL = (f"database/creds/{name}" for name in ("stopped", "killed", "well"))
TTL, MARGIN, OUTAGE = 20.0, 2.0, 12.0
PROMPT = 0.05


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


def endure(agent: Agent, role: str, database: Database, file: Path, cluster: Cluster, *, kill: bool) -> Outage:
    """One outage from just before a renewal on."""
    wait_for_renewal(agent, role, within=TTL)
    until = valid_until(database, agent.read(role).username)
    assert file.exists()
    began = time.time()
    (cluster.kill if kill else cluster.pause)()
    time.sleep(OUTAGE)
    gone = not file.exists()
    (cluster.start if kill else cluster.resume)()
    return Outage(began=began, ended=time.time(), until=until, retry_at=next_attempt(agent, role), file_gone=gone)


def check(outage: Outage, reader: Reader) -> None:
    """Promise 3, from the reads alone."""
    check_outage(reader.answers, outage.began, outage.ended, margin=MARGIN)
    dark = [answer for answer in reader.answers if answer.status != 200]
    lit_before = [answer for answer in reader.answers if answer.answered < dark[0].asked]
    last = credential(lit_before[-1])
    # Never served beyond what the database itself says.
    assert ends_of(lit_before)[last.username, last.expires_at][0] <= outage.until
    # One of a hundred may be held up by the machine; the rest is prompt.
    assert statistics.median(answer.took for answer in reader.answers) < PROMPT / 5
    assert statistics.quantiles([answer.took for answer in dark], n=100)[-2] < PROMPT


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
            lambda: all(readers[role].first_good(outage.ended) < float("inf") for role, outage in outages.items()),
            within=30.0,
        )

    assert recovered, agent.stderr[-3000:]
    for role, outage in outages.items():
        check(outage, readers[role])
        check_truth([answer for answer in readers[role].answers if answer.status == 200], MARGIN)
        assert readers[role].first_good(outage.ended) <= outage.retry_at + 10.0
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
    check_truth(well, MARGIN)
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
