"""The audit log of a running agent: who did what to which lease, and in which order."""

import json
import os
import stat
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Client, as_uid, eventually, instant
from tests.acceptance.scenes import ROLE, document, leased
from tests.fix_postgres import Database

LEASES = "/v1/sys/leases"
READER = 12345
ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be several users")


def configured(place: Path, database: Database, **role: object) -> Any:
    text = document(place, database, **role)
    text["agent"]["holder"] = "web-0"
    text["audit"] = {"file": str(place / "audit" / "audit.jsonl")}
    return text


def lines(agent: Agent) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(agent.document["audit"]["file"]).read_text().splitlines()]


def told(agent: Agent, what: str, **fields: object) -> list[dict[str, Any]]:
    return [line for line in lines(agent) if line["what"] == what and fields.items() <= line.items()]


def at(line: dict[str, Any]) -> float:
    """Unix time of a line, at the end of its millisecond."""
    return instant(line["time"][:19] + "Z") + float(line["time"][19:23]) + 0.001


def counted(agent: Agent, **fields: object) -> Counter[str]:
    """How often each thing is told, of the lines with these fields."""
    return Counter(line["what"] for line in lines(agent) if fields.items() <= line.items())


@ROOT
def test_everything_that_happens_to_a_lease_is_told_once(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R003-003, R000-037, R003-092, R003-093: who, what, when, for how long."""
    text = configured(place, database, default_ttl="5s", max_ttl="1h", allow=[f"uid:{READER}"])
    text["listener"]["unix"]["socket_mode"] = "0666"
    agent = run_agent(text).wait_ready()
    began = time.time()
    with as_uid(READER), Client(agent.socket) as client:
        for _ in range(20):
            assert client.ask(f"/v1/{ROLE}").status == 200
        assert client.ask(f"/v1/{ROLE}/rotate", method="POST").status == 403
    first = told(agent, "issue")[0]
    assert eventually(lambda: len(told(agent, "renew", lease_id=first["lease_id"])) >= 1)
    assert agent.ask(f"/v1/{ROLE}/rotate", method="POST").status == 202
    assert eventually(lambda: len(told(agent, "revoke", lease_id=first["lease_id"])) == 1)
    assert agent.stop() == 0
    assert leased(database) == set()

    # One line for each lease's beginning and end, and nobody but the agent behind either.
    journal = {str(row[0]): row for row in database.execute("SELECT id, username, incarnation FROM leasehold.lease")}
    assert Counter(line["lease_id"] for line in told(agent, "issue", outcome="ok")) == dict.fromkeys(journal, 1)
    assert Counter(line["lease_id"] for line in told(agent, "revoke", outcome="ok")) == dict.fromkeys(journal, 1)
    for line in [*told(agent, "issue"), *told(agent, "renew"), *told(agent, "revoke")]:
        _, username, incarnation = journal[line["lease_id"]]
        assert (line["username"], line["owner"], line["incarnation"]) == (username, "web-0", incarnation)
        assert (line["who"], line["role"], line["upstream"]) == ("agent", ROLE, "postgresql")
    assert {(line["requested_ttl"], line["granted_ttl"]) for line in told(agent, "issue")} == {(5.0, 5.0)}
    assert {len(line["statements"]) for line in told(agent, "issue")} == {16}
    # Twenty reads of one credential are one line.
    (read,) = told(agent, "read")
    assert (read["uid"], read["lease_id"], read["username"]) == (READER, first["lease_id"], first["username"])
    (denied,) = told(agent, "denied")
    assert (denied["uid"], denied["operation"], denied["role"]) == (READER, "rotate", ROLE)
    (rotated,) = told(agent, "rotate")
    assert rotated["who"] == f"uid:{os.geteuid()}"
    # In order, and at the time that they say.
    times = [at(line) for line in lines(agent)]
    assert times == sorted(times)
    assert began - 10 < times[0] <= times[-1] <= time.time() + 0.001


def test_an_operators_revocation_names_the_operator_and_is_written_before_it_is_answered(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """R003-063: withdrawn, revoked, audited, answered; R003-014: a manual revocation."""
    agent = run_agent(configured(place, database)).wait_ready()
    held = agent.read(ROLE)

    answer = agent.ask(f"{LEASES}/revoke-prefix/{ROLE}", method="POST")
    written = lines(agent)

    assert answer.status == 204
    (revoked,) = [line for line in written if line["what"] == "revoke"]
    (bulk,) = [line for line in written if line["what"] == "revoke-prefix"]
    assert (revoked["lease_id"], revoked["outcome"], revoked["uid"]) == (held.lease_id, "ok", os.geteuid())
    assert (bulk["prefix"], bulk["count"], bulk["uid"]) == (ROLE, 1, os.geteuid())
    ((revoked_at,),) = database.execute(
        "SELECT extract(epoch FROM revoked_at)::float8 FROM leasehold.lease WHERE id = %s", held.lease_id
    )
    assert revoked_at <= at(revoked)
    assert written.index(bulk) < written.index(revoked)
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200)


def test_a_sweep_names_whose_lease_it_ended_once_that_is_done(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """R003-065, R003-014: ended by the database, then forgotten, then audited."""
    agent = run_agent(configured(place, database)).wait_ready()
    other = place / "other"
    other.mkdir()
    dying = document(other, database)
    dying["agent"]["holder"] = "web-1"
    victim = run_agent(dying).wait_ready()
    held = victim.read(ROLE)
    victim.end()

    database.execute("UPDATE leasehold.lease SET expires = clock_timestamp() WHERE id = %s", held.lease_id)

    assert eventually(lambda: bool(told(agent, "sweep")))
    (swept,) = told(agent, "sweep")
    assert held.username not in leased(database)
    assert (swept["lease_id"], swept["username"]) == (held.lease_id, held.username)
    assert (swept["owner"], swept["role"], swept["who"], swept["outcome"]) == ("web-1", ROLE, "agent", "ok")
    ((incarnation, revoked_at),) = database.execute(
        "SELECT incarnation, extract(epoch FROM revoked_at)::float8 FROM leasehold.lease WHERE id = %s", held.lease_id
    )
    assert swept["incarnation"] == incarnation
    assert revoked_at <= at(swept)


def test_an_agent_whose_audit_log_cannot_be_written_goes_on_and_says_so(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Credentials come first: see docs/adr/0007."""
    agent = run_agent(configured(place, database)).wait_ready()
    file = Path(agent.document["audit"]["file"])
    assert eventually(lambda: bool(told(agent, "issue")))

    aside = file.with_name("aside")
    file.rename(aside)
    file.mkdir()
    agent.ask(f"/v1/{ROLE}/rotate", method="POST")

    assert eventually(lambda: bool(agent.logged("audit-failed")))
    assert agent.probe("readyz") == 200
    assert agent.read(ROLE).username
    stats = agent.ask(f"{LEASES}/stats").body["data"]
    assert stats["audit"].startswith("failing: ")

    file.rmdir()
    assert eventually(lambda: bool(agent.logged("audit-resumed")))
    assert counted(agent)["issue"] >= 1, "nothing was lost"
    assert agent.ask(f"{LEASES}/stats").body["data"]["audit_lost"] == 0
    assert agent.stop() == 0
    assert len(agent.logged("audit-failed")) == 1


def test_the_file_is_the_agents_alone_and_holds_no_password(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    agent = run_agent(configured(place, database)).wait_ready()
    held = agent.read(ROLE)
    file = Path(agent.document["audit"]["file"])
    second = run_agent(
        {**agent.document, "listener": {"unix": {"address": str(place / "second.sock")}}, "template": []}
    )

    assert second.wait() == 3, second.stderr
    assert "audit.jsonl is in use by another agent" in second.stderr
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert agent.stop() == 0
    text = file.read_text()
    assert held.username in text
    assert held.password not in text
    assert database.admin_password.reveal() not in text


def test_standard_output_is_a_place_for_it_too(run_agent: RunAgent, database: Database, place: Path) -> None:
    text = configured(place, database)
    text["audit"] = {"file": "stdout"}
    agent = run_agent(text).wait_ready()

    assert agent.stop() == 0

    assert [json.loads(line)["what"] for line in agent.stdout.splitlines()] == ["issue", "verify", "revoke"]
