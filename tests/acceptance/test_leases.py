"""`/v1/sys/leases` of a running agent: readers look, operators end leases for good."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Answer, Program, as_uid, eventually, log_in
from tests.acceptance.scenes import ROLE, document, leased, place_of, role_of
from tests.fix_postgres import Database, StartCluster, create_database

OTHER = "database/creds/other"
LEASES = "/v1/sys/leases"
READER = 12345
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


def configured(place: Path, database: Database) -> Any:
    """Two roles, one of which the reader may read."""
    text = document(place, database, allow=[f"uid:{READER}", f"uid:{os.geteuid()}"])
    text["agent"]["holder"] = "web-0"
    text["listener"]["unix"]["socket_mode"] = "0666"
    text["role"][OTHER] = role_of(database)
    return text


@pytest.fixture
def agent(run_agent: RunAgent, database: Database, place: Path) -> Agent:
    return run_agent(configured(place, database)).wait_ready()


def told(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return answer.body["data"]


def login_fails(database: Database, held: Any) -> bool:
    try:
        log_in(place_of(database), held).close()
    except psycopg.OperationalError:
        return True
    return False


def test_a_revoked_credential_stops_working_at_once_and_apps_get_another(agent: Agent, database: Database) -> None:
    """R001-019, R003-062, R003-063: when the answer is there, it is done."""
    held = agent.read(ROLE)
    session = log_in(place_of(database), held)

    answer = agent.ask(f"{LEASES}/revoke", method="POST", body={"lease_id": held.lease_id})

    assert answer.status == 204, answer
    assert login_fails(database, held)
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    ((revoked,),) = database.execute("SELECT revoked_at IS NOT NULL FROM leasehold.lease WHERE id = %s", held.lease_id)
    assert revoked
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200)
    assert agent.read(ROLE).username != held.username
    log_in(place_of(database), agent.read(ROLE)).close()
    assert eventually(lambda: held.username not in agent.file.read_text())


def test_a_prefix_ends_one_role_or_all_and_no_other(agent: Agent, database: Database) -> None:
    """R000-036, R001-020: `E/role` and `E/`."""
    first, other = agent.read(ROLE), agent.read(OTHER)

    assert agent.ask(f"{LEASES}/revoke-prefix/{ROLE}", method="PUT").status == 204
    assert login_fails(database, first)
    log_in(place_of(database), other).close()

    second = agent.read(ROLE) if eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200) else first
    assert agent.ask(f"{LEASES}/revoke-prefix/database/", method="PUT").status == 204
    assert login_fails(database, second)
    assert login_fails(database, other)


@ROOT
def test_a_reader_can_neither_end_nor_prolong_what_it_shares(agent: Agent, database: Database) -> None:
    """Promise 2: client libraries renew and revoke as a matter of course."""
    held = agent.read(ROLE)
    other = agent.read(OTHER)
    before = database.execute("SELECT id, expires, revoked_at FROM leasehold.lease ORDER BY id")

    with as_uid(READER):
        seen = told(agent.ask(LEASES))
        renewed = agent.ask(f"{LEASES}/renew", method="PUT", body={"lease_id": held.lease_id, "increment": 9999})
        revoked = agent.ask(f"{LEASES}/revoke", method="PUT", body={"lease_id": held.lease_id})
        foreign = agent.ask(f"{LEASES}/lookup", method="PUT", body={"lease_id": other.lease_id})
        bulk = agent.ask(f"{LEASES}/revoke-prefix/{ROLE}", method="PUT")
        journal = agent.ask(f"{LEASES}?upstream=postgresql")

    assert [(row["lease_id"], row["role"]) for row in seen["leases"]] == [(held.lease_id, ROLE)]
    assert "username" not in seen["leases"][0]
    assert 3500 < renewed.body["lease_duration"] <= held.lease_duration
    assert (revoked.status, foreign.status, bulk.status, journal.status) == (204, 400, 403, 403)
    assert f'"uid:{READER}"' in bulk.error
    assert database.execute("SELECT id, expires, revoked_at FROM leasehold.lease ORDER BY id") == before
    assert agent.read(ROLE).username == held.username
    log_in(place_of(database), held).close()


def test_an_operator_sees_what_there_is(agent: Agent, database: Database, place: Path) -> None:
    """R000-034, R003-010, R003-056: the list equals what the database has, and names the holder."""
    agent.ask(f"/v1/{ROLE}/rotate", method="POST")
    assert eventually(lambda: len(leased(database)) == 3)

    assert eventually(lambda: told(agent.ask(f"{LEASES}/stats"))["journals"].get("postgresql", {}).get("active") == 3)
    found = told(agent.ask(LEASES))["leases"]
    stats = told(agent.ask(f"{LEASES}/stats"))
    journal = told(agent.ask(f"{LEASES}?upstream=postgresql"))["leases"]

    states = sorted((row["role"], row["state"]) for row in found)
    assert states == [(ROLE, "draining"), (ROLE, "published"), (OTHER, "published")]
    assert (stats["active"], stats["draining"], stats["doomed"], stats["expired"]) == (2, 1, 0, 0)
    assert stats["by_upstream"]["postgresql"]["active"] == 2
    assert {row["lease_id"] for row in journal} == {row["lease_id"] for row in found}
    assert {row["username"] for row in journal} == leased(database)
    assert {row["owner"] for row in [*journal, *found]} == {"web-0"}


def test_an_upstream_that_is_away_is_no_reason_to_serve_a_revoked_lease(
    own_cluster: StartCluster, run_agent: RunAgent, place: Path
) -> None:
    """R003-063: withdrawn first; what the upstream does not confirm is said, and tried again."""
    cluster = own_cluster()
    database = create_database(cluster, place)
    agent = run_agent(document(place, database, default_ttl="10m")).wait_ready()
    held = agent.read(ROLE)

    cluster.stop()
    answer = agent.ask(f"{LEASES}/revoke", method="POST", body={"lease_id": held.lease_id})
    served = agent.ask(f"/v1/{ROLE}")
    stats = told(agent.ask(f"{LEASES}/stats"))
    cluster.start()

    assert answer.status == 202
    assert "not confirmed by the upstream yet; the agent goes on trying" in answer.body["warnings"][0]
    assert served.status == 503
    assert (stats["active"], stats["failed_revocations"]) == (0, 1)
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200)
    (left,) = [row for row in told(agent.ask(LEASES))["leases"] if row["state"] != "published"]
    assert (left["lease_id"], left["failed"]) == (held.lease_id, True)


def test_a_cap_refuses_and_keeps_what_there_is(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R003-119: replacing needs room; without it the credential lives on, and somebody is told."""
    marker = place / "failed"
    text = document(place, database, max_leases=2, retries=1, on_failed=["/usr/bin/touch", str(marker)])
    first = run_agent(text).wait_ready()
    away = place / "second"
    away.mkdir()
    second = run_agent(document(away, database, max_leases=2)).wait_ready()
    held = first.read(ROLE)

    first.ask(f"/v1/{ROLE}/rotate", method="POST")

    assert eventually(lambda: bool(first.logged("issue-failed", role=ROLE)))
    assert "max_leases = 2 leases of this role live already" in first.logged("issue-failed")[0]["error"]
    assert eventually(marker.exists)
    assert first.read(ROLE).username == held.username
    log_in(place_of(database), held).close()

    assert second.stop() == 0
    assert eventually(lambda: first.read(ROLE).username != held.username, within=30)
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert leased(database) == set()


def test_a_role_whose_leases_pile_up_is_named_once(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R000-035: five leases that nobody revokes."""
    agent = run_agent(document(place, database, lease_warning=4)).wait_ready()

    database.execute(
        "INSERT INTO leasehold.lease SELECT gen_random_uuid(), role, 'gone_' || n, 'leaky-pod', 1, issued, expires,"
        " max_expires, requested_ttl, granted_ttl, NULL FROM leasehold.lease, generate_series(1, 5) n"
    )

    assert eventually(lambda: bool(agent.logged("leases-pile-up")))
    sweeps = told(agent.ask(f"{LEASES}/stats"))["journals_by_role"][f"postgresql: {ROLE}"]
    assert sweeps["active"] == 6
    assert not eventually(lambda: len(agent.logged("leases-pile-up")) > 1, within=2.5)
    (line,) = agent.logged("leases-pile-up")
    assert (line["role"], line["count"]) == (ROLE, 6)


def test_the_commands_ask_the_agent(agent: Agent, database: Database, place: Path, started: list[Program]) -> None:
    """R000-034, R003-056, R003-062, R000-036: leases, stats and revoke."""

    def command(*argv: str) -> Program:
        program = Program([*argv, "-s", str(agent.socket)], place)
        started.append(program)
        program.wait()
        return program

    held, other = agent.read(ROLE), agent.read(OTHER)

    listed = json.loads(command("leases", "--json").stdout)
    stats = json.loads(command("stats", "--json").stdout)
    table = command("stats")
    one = command("revoke", held.lease_id, "--yes")
    below = command("revoke", "--prefix", OTHER, "--yes")

    assert {row["lease_id"] for row in listed["leases"]} == {held.lease_id, other.lease_id}
    assert {row["owner"] for row in listed["leases"]} == {"web-0"}
    assert (stats["active"], stats["by_role"][ROLE]["active"]) == (2, 1)
    assert (table.code, table.stderr) == (0, "")
    assert (one.code, one.stdout) == (below.code, below.stdout) == (0, "revoked 1\n"), one.stderr + below.stderr
    assert login_fails(database, held)
    assert login_fails(database, other)
