"""`make chaos` in small, and that it forgets no failpoint."""

import os
import signal
from pathlib import Path

import pytest

from agent.dev.cluster import Binaries
from agent.failpoints import Failpoint
from tests.acceptance.harness import Agent
from tests.chaos.crowd import PLACES, Crowd
from tests.chaos.plan import WAYS, Accident
from tests.chaos.rounds import REPOSITORY
from tests.chaos.world import remembering
from tests.fix_postgres import Database
from tests.integration.postgres.site import NEWEST

ROUNDS = int(os.environ.get("LEASEHOLD_CHAOS_ROUNDS") or 1)


def test_every_failpoint_has_a_way_to_it() -> None:
    assert set(WAYS) == set(Failpoint)
    assert set(PLACES) == {*Failpoint, *Accident}


@NEWEST
def test_a_stop_removes_the_file_before_it_ends_its_user(database: Database, tmp_path: Path) -> None:
    """Killed at the first step of the revocation: whoever looks into the file now must not be misled."""
    module = ("tests.chaos.victim", Failpoint.REVOKE_LOCKED, "1", "--")
    text = remembering(tmp_path, database, None)
    agent = Agent(text, tmp_path, module=module, environment={"PYTHONPATH": str(REPOSITORY)})
    try:
        assert agent.wait_ready().file.exists()
        agent.send(signal.SIGTERM)

        assert agent.wait() == -signal.SIGKILL
        assert not agent.file.exists()
    finally:
        agent.end()


@NEWEST
@pytest.mark.slow
@pytest.mark.timeout(120 + 120 * ROUNDS)
def test_a_killed_agent_loses_nothing_and_leaves_nothing(binaries: Binaries) -> None:
    """Promise 8, R000-021, R003-100, D-22, D-23: at every failpoint, and at no point in particular under load."""
    lines: list[str] = []

    crowd = Crowd(binaries, ROUNDS, workers=2, seed=int.from_bytes(os.urandom(4)), tell=lines.append)

    assert crowd.run() == ""
    assert len(lines) == 1 + len(PLACES), lines
