"""Starting and stopping as an orchestrator sees it."""

import signal
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, file_of, leased, minted, place_of, role_of
from tests.fix_postgres import Database

OTHER = "database/creds/other"


def settled(agent: Agent, database: Database) -> bool:
    """Whether the agent is gone without a trace."""
    return agent.code is not None and not (agent.file.exists() or agent.socket.exists() or leased(database))


def test_sigterm_leaves_nothing_behind(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 8, R000-026: revoked, removed, exit code 0, by the time the process has ended."""
    agent = run_agent(document(place, database)).wait_ready()
    held = agent.read(ROLE)
    assert leased(database) == {held.username}
    assert from_file(agent.file).username == held.username
    session = log_in(place_of(database), held)

    code = agent.stop()

    assert code == 0
    assert settled(agent, database)
    assert sorted(path.name for path in place.rglob("*")) == ["0.err", "0.out", "agent-0", "agent.toml", "secrets"]
    assert agent.stdout == ""
    with session, pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")


@pytest.mark.slow
def test_a_wrong_password_is_named_and_its_file_heals_it(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R000-015 and promise 10: live but neither started nor ready, the remedy named; no restart once it is right."""
    text = document(place, database)
    right = database.admin_password_file.read_text()
    database.admin_password_file.write_text("not it")
    agent = run_agent(text).wait_listening()
    assert eventually(lambda: agent.role(ROLE)["phase"] == "failing")

    assert [agent.probe(name) for name in ("startupz", "readyz", "livez")] == [503, 503, 200]
    refused = agent.ask(f"/v1/{ROLE}")
    assert refused.status == 503
    for named in (str(database.admin_password_file), database.admin, "password"):
        assert named in refused.error
    assert "not it" not in refused.text
    database.admin_password_file.write_text(right)

    agent.wait_ready()
    assert [agent.probe(name) for name in ("startupz", "readyz", "livez")] == [200, 200, 200]
    assert from_file(agent.file).username == agent.read(ROLE).username


def test_an_optional_role_that_fails_does_not_gate(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 10: ready asks for the required roles only; nor does the failing one disturb the other."""
    text = document(place, database)
    text["role"][OTHER] = role_of(database, group="no_such_group", required=False)
    text["template"].append(file_of(place, "other", OTHER))

    agent = run_agent(text).wait_ready()

    assert eventually(lambda: agent.role(OTHER)["phase"] == "failing")
    assert agent.role(ROLE)["phase"] == "fresh"
    refused = agent.ask(f"/v1/{OTHER}")
    assert refused.status == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "no_such_group" in refused.error or "missing" in refused.error
    assert agent.stop() == 0


def test_a_required_role_that_fails_gates(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 10: not started without every required role, and the stop is orderly all the same."""
    text = document(place, database)
    text["role"][OTHER] = role_of(database, group="no_such_group")

    agent = run_agent(text).wait_listening()

    assert eventually(lambda: agent.role(OTHER)["phase"] == "failing" and agent.role(ROLE)["phase"] == "fresh")
    assert [agent.probe(name) for name in ("startupz", "readyz", "livez")] == [503, 503, 200]
    assert agent.stop() == 0
    assert settled(agent, database)


def test_a_grace_goes_on_serving_and_renewing(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 8: during `stop_grace` nothing changes for the app, renewals included; then it ends."""
    text = document(place, database, default_ttl="5s", max_ttl="1h")
    text["agent"]["stop_grace"] = "4s"
    agent = run_agent(text).wait_ready()
    before = agent.read(ROLE)

    agent.send(signal.SIGTERM)
    began = time.monotonic()
    renewed = eventually(lambda: agent.read(ROLE).expires_at > before.expires_at, within=3.5)

    assert renewed
    assert agent.probe("readyz") == 200
    with log_in(place_of(database), agent.read(ROLE)) as app:
        app.execute("SELECT * FROM reports")
    assert agent.wait() == 0
    assert 3.9 < time.monotonic() - began < 9.0
    assert settled(agent, database)


def test_a_second_signal_skips_the_grace(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 8; and the stop is as orderly as without."""
    text = document(place, database)
    text["agent"]["stop_grace"] = "1h"
    agent = run_agent(text).wait_ready()
    agent.send(signal.SIGTERM)
    assert eventually(lambda: bool(agent.logged("stopping")))
    assert agent.read(ROLE)

    code = agent.stop(signal.SIGINT)

    assert code == 0
    assert settled(agent, database)


def test_a_signal_during_the_start_ends_it_in_order(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 8, R001-015: whatever the moment, no user is left and no file or socket."""
    for number, delay in enumerate((0.0, 0.05, 0.1, 0.2)):
        text = document(place, database)
        text["agent"]["log_level"] = "debug"
        agent = run_agent(text)
        assert eventually(agent.socket.exists, every=0.002), number
        time.sleep(delay)

        code = agent.stop()

        assert code == 0, agent.stderr
        assert settled(agent, database), agent.stderr


def test_each_agent_has_a_user_of_its_own(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R000-002, R000-040: three agents on one role, three users in pg_stat_activity; one stop harms no other."""
    texts: list[Any] = []
    for name in ("a", "b", "c"):
        (place / name).mkdir(mode=0o755)
        texts.append(document(place / name, database))
    agents = [run_agent(text) for text in texts]
    held = [agent.wait_ready().read(ROLE) for agent in agents]
    apps = [log_in(place_of(database), each) for each in held]

    found = database.execute(
        "SELECT usename FROM pg_stat_activity WHERE usename = ANY(%s)", [each.username for each in held]
    )

    assert len({each.username for each in held}) == 3
    assert {name for (name,) in found} == {each.username for each in held}
    assert agents[0].stop() == 0
    assert leased(database) == {each.username for each in held[1:]}
    for app in apps[1:]:
        app.execute("SELECT * FROM reports")
    for app in apps:
        app.close()
    assert [agent.stop() for agent in agents[1:]] == [0, 0]
    assert leased(database) == set()


def test_what_a_killed_agent_left_is_reaped_at_its_end(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R000-038, R003-064: restarted after kill -9 it has a new user; the sweep ends the old one when its lease ends."""
    text = document(place, database, default_ttl="6s", max_ttl="1h")
    first = run_agent(text).wait_ready()
    old = first.read(ROLE)
    first.end()
    assert first.socket.exists()

    second = run_agent(text).wait_ready()
    new = second.read(ROLE)

    assert new.username != old.username
    assert from_file(second.file).username == new.username
    assert old.username in leased(database)
    assert eventually(lambda: old.username not in leased(database), within=old.expires_at - time.time() + 4.0)
    assert time.time() >= old.expires_at
    assert second.read(ROLE).username == new.username
    assert second.stop() == 0
    assert leased(database) == set()
    assert minted(database) == 2
