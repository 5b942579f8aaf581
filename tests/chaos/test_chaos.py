"""`make chaos` in small, and that it forgets no failpoint."""

import os

import pytest

from agent.dev.cluster import Binaries
from agent.failpoints import Failpoint
from tests.chaos.crowd import PLACES, Crowd
from tests.chaos.plan import WAYS, Accident
from tests.integration.postgres.site import NEWEST

ROUNDS = int(os.environ.get("LEASEHOLD_CHAOS_ROUNDS") or 1)


def test_every_failpoint_has_a_way_to_it() -> None:
    assert set(WAYS) == set(Failpoint)
    assert set(PLACES) == {*Failpoint, *Accident}


@NEWEST
@pytest.mark.slow
@pytest.mark.timeout(120 + 120 * ROUNDS)
def test_a_killed_agent_loses_nothing_and_leaves_nothing(binaries: Binaries) -> None:
    """Promise 8, R000-021, R003-100, D-22, D-23: at every failpoint, and at no point in particular under load."""
    lines: list[str] = []

    crowd = Crowd(binaries, ROUNDS, workers=2, seed=int.from_bytes(os.urandom(4)), tell=lines.append)

    assert crowd.run() == ""
    assert len(lines) == 1 + len(PLACES), lines
