"""Whatever becomes of the agent's clocks, apps notice nothing: `tests.acceptance.timed` turns them while it runs.

Each scene waits for seconds on end, so all are played side by side, once; each test tells how its own ended.
"""

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.dev.cluster import Cluster
from tests.acceptance.harness import Agent, credential, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, place_of
from tests.acceptance.timed import Turned
from tests.acceptance.watching import play, shared_database, using
from tests.fix_postgres import Database

REPOSITORY = Path(__file__).parents[2]
HOUR, DAY = 3600.0, 86400.0
NOTICED = 9.0
"""The watchdog looks every 5 s; the machine may be busy (seconds)."""

YEARS = {1970: -time.time() + HOUR, 2040: 14 * 365 * DAY, 2100: 74 * 365.25 * DAY}

Played = Callable[[str], None]


@dataclass(kw_only=True)
class Stage:
    """Where one scene is played: a directory for itself, in a database that all agents share."""

    directory: Path
    database: Database
    agents: list[Agent] = field(default_factory=list)

    def configured(self, **role: object) -> Any:
        """The usual configuration."""
        return document(self.directory, self.database, **role)

    def control(self, *, rate: float = 1.0) -> Turned:
        """A clock to turn; `rate` is what an NTP slew makes of a second."""
        return Turned(self.directory / "clock", rate=rate)

    def start(self, text: Any, clock: Turned) -> Agent:
        """An agent on that clock, started."""
        directory = self.directory / f"agent-{len(self.agents)}"
        module = ("tests.acceptance.timed", str(clock.file))
        agent = Agent(text, directory, module=module, environment={"PYTHONPATH": str(REPOSITORY)})
        self.agents.append(agent)
        return agent.wait_ready()

    @property
    def place(self) -> dict[str, Any]:
        """Where an app logs in."""
        return place_of(self.database)


def lasting(agent: Agent, clock: Turned) -> tuple[float, float]:
    """Seconds that a reader has: by `lease_duration`, and by `expires_at` on the machine's own wall clock."""
    held = agent.read(ROLE)
    return held.lease_duration, held.expires_at - clock.wall()


def agree(agent: Agent, clock: Turned) -> bool:
    """Whether both say the same, but for their whole seconds."""
    by_duration, by_instant = lasting(agent, clock)
    return abs(by_duration - by_instant) < 2.0


def set_wall(stage: Stage, step: float) -> None:
    clock = stage.control()
    agent = stage.start(stage.configured(default_ttl="6s", max_ttl="1h"), clock)
    before = agent.read(ROLE)

    with using(agent, stage.place, ROLE) as apps:
        time.sleep(1.0)
        clock.turn(wall=step)
        noticed = eventually(lambda: bool(agent.logged("clock-jump", set_by=pytest.approx(step, abs=1.0))), NOTICED)
        told_anew = agree(agent, clock)
        time.sleep(3.0)

    assert noticed
    assert told_anew
    assert apps.failures == []
    assert apps.logins > 10
    assert apps.users == [before.username]
    assert {held.generation for _, held in apps.held if held.generation} == {before.generation}
    assert all(0 < held.lease_duration <= 6 for _, held in apps.held)
    assert 1 <= len(agent.logged("renewed")) <= 6
    assert agent.logged("issue-failed") == agent.logged("renew-failed") == []
    assert agent.stop() == 0


def sleep_less_than_the_lease(stage: Stage) -> None:
    clock = stage.control()
    agent = stage.start(stage.configured(default_ttl="1h"), clock)
    before = agent.read(ROLE)

    clock.turn(dial=41 * 60, wall=41 * 60)
    at_once = agent.read(ROLE)
    renewed = eventually(lambda: agent.read(ROLE).lease_duration > 3500, NOTICED)
    time.sleep(1.0)

    assert 19 * 60 - 10 <= at_once.lease_duration <= 19 * 60
    assert renewed
    assert agree(agent, clock)
    assert agent.read(ROLE).username == before.username
    assert (len(agent.logged("issued")), len(agent.logged("renewed"))) == (1, 1)
    assert len(agent.logged("clock-jump")) == 1
    with log_in(stage.place, from_file(agent.file)):
        pass
    assert agent.stop() == 0


def sleep_more_than_the_lease(stage: Stage) -> None:
    clock = stage.control()
    agent = stage.start(stage.configured(default_ttl="1h"), clock)
    before = agent.read(ROLE)

    clock.turn(dial=2 * HOUR, wall=2 * HOUR)
    at_once = agent.ask(f"/v1/{ROLE}")
    replaced = eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200, NOTICED)
    after = agent.read(ROLE)

    assert at_once.took < 1.0
    if at_once.status == 200:  # the watchdog looked in between
        assert credential(at_once).username == after.username
    else:
        assert at_once.status == 503
        assert "retry-after" in at_once.headers
    assert replaced
    assert after.username != before.username
    assert after.lease_duration > 3500
    assert eventually(lambda: agent.file.exists() and from_file(agent.file).username == after.username)
    with log_in(stage.place, after):
        pass
    assert eventually(lambda: len(agent.logged("revoked")) == 1)
    assert len(agent.logged("issued")) == 2
    assert agent.stop() == 0


def stand_still_past_the_end(stage: Stage) -> None:
    clock = stage.control()
    agent = stage.start(stage.configured(default_ttl="12s"), clock)
    before = agent.read(ROLE)

    agent.send(signal.SIGSTOP)
    time.sleep(14.0)
    agent.send(signal.SIGCONT)
    answers = []
    until = time.monotonic() + 3.0
    while time.monotonic() < until:
        answers.append(agent.ask(f"/v1/{ROLE}"))
        if answers[-1].status == 200:
            with log_in(stage.place, credential(answers[-1])):
                pass
        time.sleep(0.02)

    assert {answer.status for answer in answers} <= {200, 503}
    assert answers[-1].status == 200
    assert credential(answers[-1]).username != before.username
    with log_in(stage.place, from_file(agent.file)):
        pass
    assert len(agent.logged("issued")) == 2
    assert agent.stop() == 0


def turn_the_dial_back(stage: Stage) -> None:
    clock = stage.control()
    agent = stage.start(stage.configured(default_ttl="6s", max_ttl="1h"), clock)
    before = agent.read(ROLE)

    with using(agent, stage.place, ROLE) as apps:
        time.sleep(1.0)
        clock.turn(dial=-HOUR)
        time.sleep(11.0)

    assert apps.failures == []
    assert apps.users == [before.username]
    assert all(0 < held.lease_duration <= 6 for _, held in apps.held)
    assert 2 <= len(agent.logged("renewed")) <= 5
    assert agent.logged("renew-failed") == []
    assert agent.stop() == 0


def start_in_another_year(stage: Stage, year: int) -> None:
    clock = stage.control()
    clock.turn(wall=YEARS[year])
    text = stage.configured(default_ttl="1h")
    text["agent"] |= {"state_dir": str(stage.directory / "state"), "holder": "web-0", "state_allow_disk": True}
    agent = stage.start(text, clock)
    before = agent.read(ROLE)
    told = lasting(agent, clock)
    with log_in(stage.place, from_file(agent.file)):
        pass

    clock.turn(wall=-YEARS[year])
    corrected = eventually(lambda: agree(agent, clock), NOTICED)
    agent.end()
    second = stage.start(text, clock)
    adopted = second.read(ROLE)
    second.ask(f"/v1/{ROLE}/rotate", method="POST")
    rotated = eventually(lambda: second.read(ROLE).username != before.username)

    assert time.gmtime(before.expires_at).tm_year == year
    assert told[0] == pytest.approx(3600, abs=10)
    assert told[1] == pytest.approx(told[0], abs=2.0)
    assert corrected
    assert (adopted.username, adopted.generation) == (before.username, before.generation)
    assert adopted.expires_at == pytest.approx(time.time() + HOUR, abs=30.0)
    assert rotated
    assert second.read(ROLE).generation > before.generation
    assert second.stop() == 0


def slew(stage: Stage, rate: float) -> None:
    clock = stage.control(rate=rate)
    agent = stage.start(stage.configured(default_ttl="6s", max_ttl="9s"), clock)

    with using(agent, stage.place, ROLE) as apps:
        time.sleep(12.0)

    assert apps.failures == []
    assert len(apps.users) >= 2
    assert agent.logged("clock-jump") == []
    assert agent.logged("issue-failed") == agent.logged("renew-failed") == []
    assert agent.stop() == 0


SCENES: dict[str, Callable[[Stage], None]] = {
    **{f"set {step:+.0f}": partial(set_wall, step=step) for step in (HOUR, -HOUR, DAY, -DAY)},
    "less": sleep_less_than_the_lease,
    "more": sleep_more_than_the_lease,
    "stopped": stand_still_past_the_end,
    "back": turn_the_dial_back,
    **{f"year {year}": partial(start_in_another_year, year=year) for year in YEARS},
    **{f"rate {rate}": partial(slew, rate=rate) for rate in (0.99, 1.01)},
}


@pytest.fixture(scope="module")
def played(clusters: dict[int, Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Every scene, played; `played(name)` raises what was wrong with that one."""
    base = tmp_path_factory.mktemp("time")
    with shared_database(clusters, base) as database:
        stages = {name: Stage(directory=base / str(n), database=database) for n, name in enumerate(SCENES)}
        for stage in stages.values():
            stage.directory.mkdir()
        try:
            outcomes = play({name: partial(SCENES[name], stage) for name, stage in stages.items()})
        finally:
            for agent in (agent for stage in stages.values() for agent in stage.agents):
                agent.end()
        yield lambda name: outcomes[name].result()


@pytest.mark.parametrize("step", [HOUR, -HOUR, DAY, -DAY])
def test_a_wall_clock_that_is_set_moves_the_end_that_is_told_and_nothing_else(played: Played, step: float) -> None:
    """D-25."""
    played(f"set {step:+.0f}")


def test_a_suspend_shorter_than_the_lease_costs_one_renewal(played: Played) -> None:
    played("less")


def test_a_suspend_longer_than_the_lease_is_answered_503_at_once_and_then_with_another_user(played: Played) -> None:
    played("more")


def test_an_agent_that_stood_still_past_the_end_serves_no_dead_credential_afterwards(played: Played) -> None:
    played("stopped")


def test_a_dial_that_goes_back_causes_neither_a_storm_nor_a_dead_credential(played: Played) -> None:
    played("back")


@pytest.mark.parametrize("year", YEARS)
def test_an_agent_that_starts_in_another_year_serves_and_goes_on_when_that_is_corrected(
    played: Played, year: int
) -> None:
    played(f"year {year}")


@pytest.mark.parametrize("rate", [0.99, 1.01])
def test_a_clock_that_runs_one_percent_off_fails_no_login(played: Played, rate: float) -> None:
    played(f"rate {rate}")
