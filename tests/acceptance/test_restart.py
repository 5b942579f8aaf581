"""`state_dir`: a restarted agent goes on with the same users, and the app notices nothing (promise 8)."""

from pathlib import Path
from typing import Any

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import eventually, from_file
from tests.acceptance.scenes import ROLE, document, leased, minted
from tests.fix_postgres import Database


def remembering(place: Path, database: Database, **agent: Any) -> Any:
    """The usual configuration, with a memory."""
    text = document(place, database, default_ttl="30s", max_ttl="1h")
    text["agent"] = {**text.get("agent", {}), "state_dir": str(place / "state"), "holder": "web-0", **agent}
    if not str(place).startswith("/dev/shm"):  # noqa: S108 - where the tests keep their files if they can
        text["agent"]["state_allow_disk"] = True
    return text


def test_after_kill_9_the_same_user_goes_on(run_agent: RunAgent, database: Database, place: Path) -> None:
    text = remembering(place, database)
    first = run_agent(text).wait_ready()
    before = first.read(ROLE)
    inode = first.file.stat().st_ino
    first.end()

    second = run_agent(text).wait_ready()
    after = second.read(ROLE)

    assert (after.username, after.generation) == (before.username, before.generation)
    assert after.expires_at >= before.expires_at
    assert from_file(second.file).username == before.username
    assert minted(database) == 1
    assert second.stop() == 0
    assert leased(database) == set()
    assert inode


def test_a_user_revoked_meanwhile_is_replaced(run_agent: RunAgent, database: Database, place: Path) -> None:
    text = remembering(place, database)
    first = run_agent(text).wait_ready()
    before = first.read(ROLE)
    first.end()
    database.execute(f'ALTER ROLE "{before.username}" NOLOGIN')

    second = run_agent(text).wait_ready()

    assert second.read(ROLE).username != before.username
    assert eventually(lambda: before.username not in leased(database))
    assert second.stop() == 0


def test_a_handover_leaves_user_and_file_to_the_next_run(run_agent: RunAgent, database: Database, place: Path) -> None:
    text = remembering(place, database, on_stop="handover")
    first = run_agent(text).wait_ready()
    before = first.read(ROLE)

    assert first.stop() == 0
    assert leased(database) == {before.username}
    assert from_file(first.file).username == before.username
    second = run_agent({**text, "agent": {**text["agent"], "on_stop": "revoke"}}).wait_ready()

    assert second.read(ROLE).username == before.username
    assert second.stop() == 0
    assert leased(database) == set()
    assert not list((place / "state").glob("role-*"))


def test_the_state_holds_no_lease_that_was_given_up(run_agent: RunAgent, database: Database, place: Path) -> None:
    text = remembering(place, database)
    agent = run_agent(text).wait_ready()

    assert agent.stop() == 0

    assert sorted(path.name for path in (place / "state").iterdir()) == ["holder.json", "lock"]
