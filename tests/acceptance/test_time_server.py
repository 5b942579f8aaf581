"""The database's clock judges VALID UNTIL. It may be minutes off, or be set while leases live; `shifted` does both.

Each scene waits for seconds on end, so they are played side by side, once; each test tells how its own ended.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.harness import Agent, Credential, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, file_of, leased, place_of, role_of, server_of
from tests.acceptance.shifted import Shifted, library, shifted
from tests.acceptance.watching import play, using
from tests.fix_postgres import MAJORS, Database, binaries_of, create_database

OFFSETS = {"ahead": 300.0, "behind": -300.0, "skewed": 30.0}
HOUR = 3600.0
SWEEP = 1.0
"""`cleanup_interval` of the agents here (seconds)."""

LATE = 3.0
"""What a busy machine may add to any of these (seconds)."""

Played = Callable[[str], None]


@dataclass(kw_only=True)
class Stage:
    """Where one scene is played."""

    directory: Path
    agents: list[Agent] = field(default_factory=list)
    servers: ExitStack = field(default_factory=ExitStack)

    def server(self, offset: float) -> tuple[Shifted, Database]:
        """A server whose clock is `offset` seconds ahead, with a database."""
        one = self.servers.enter_context(shifted(binaries_of(MAJORS[-1]), offset))
        return one, create_database(one.cluster, self.directory)

    def start(self, text: Any) -> Agent:
        """An agent, started."""
        agent = Agent(text, self.directory / f"agent-{len(self.agents)}")
        self.agents.append(agent)
        return agent.wait_ready()


def ends_in(database: Database) -> dict[str, float]:
    """Every user of ours, with the seconds until its VALID UNTIL by the server's clock."""
    rows = database.execute(
        "SELECT rolname, extract(epoch FROM rolvaliduntil - clock_timestamp())::float8 FROM pg_roles"
        " WHERE rolname LIKE 'v!_%%' ESCAPE '!' AND pg_has_role(oid, %s, 'MEMBER')",
        database.group,
    )
    return {str(name): float(left) for name, left in rows}


def works(database: Database, held: Credential) -> bool:
    """Whether an app can log in with it."""
    try:
        log_in(place_of(database), held).close()
    except psycopg.OperationalError:
        return False
    return True


# -- a clock that is off ---------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Orphans:
    """The users of an agent that was killed, by the seconds they had left, and how late they were gone.

    Attributes:
        gone: user to the seconds after (or before, if negative) its VALID UNTIL at which it was missed.
    """

    database: Database
    ends_at: dict[str, float]
    gone: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, database: Database) -> "Orphans":
        now = time.monotonic()
        return cls(database=database, ends_at={user: now + left for user, left in ends_in(database).items()})

    def look(self, there: dict[str, float]) -> None:
        for user, ends_at in self.ends_at.items():
            if user not in there:
                self.gone.setdefault(user, time.monotonic() - ends_at)


def constantly_off(stage: Stage) -> None:
    found = {name: stage.server(offset) for name, offset in OFFSETS.items()}
    databases = {name: database for name, (_, database) in found.items()}
    text = document(stage.directory, databases["ahead"])
    text["postgresql"] = {name: server_of(database) for name, database in databases.items()}
    short = {"default_ttl": "6s", "max_ttl": "10s", "margin": "1s"}
    text["role"] = {
        f"database/creds/{name}": role_of(database, upstream=f"postgresql.{name}", **short)
        for name, database in databases.items()
    }
    text["template"] = [file_of(stage.directory, name, f"database/creds/{name}") for name in databases]
    killed = stage.start(text)
    orphans = {name: Orphans.of(database) for name, database in databases.items()}
    killed.end()
    agent = stage.start(text)

    with ExitStack() as stack:
        apps = {
            name: stack.enter_context(
                using(
                    agent,
                    place_of(database),
                    f"database/creds/{name}",
                    Path(text["template"][number]["destination"]),
                )
            )
            for number, (name, database) in enumerate(databases.items())
        }
        until = time.monotonic() + 14.0
        off: dict[str, list[float]] = {name: [] for name in databases}
        while time.monotonic() < until:
            for name, database in databases.items():
                held = agent.read(f"database/creds/{name}")
                there = ends_in(database)
                off[name].append(there[held.username] - held.lease_duration)
                orphans[name].look(there)
            time.sleep(0.1)

    for name, one in apps.items():
        assert one.failures == [], name
        assert one.logins > 30, name
        assert len(one.users) >= 2, name
        # The end is rounded up to a second there, and down to a second here; the question itself takes a moment.
        assert min(off[name]) > -0.5, name
        assert max(off[name]) < 2.0 + LATE, name
        role = f"database/creds/{name}"
        assert len(agent.logged("renewed", role=role)) >= 2
        assert agent.logged("renew-failed", role=role) == agent.logged("issue-failed", role=role) == []
        assert set(orphans[name].gone) == set(orphans[name].ends_at) != set(), name
        assert all(-0.1 <= late <= SWEEP + LATE for late in orphans[name].gone.values()), name
        assert agent.logged("revoked", role=role)
    assert agent.stop() == 0
    assert [leased(database) for database in databases.values()] == [set(), set(), set()]


# -- a clock that is set ---------------------------------------------------------------------------------------------


def watched(stage: Stage, database: Database, name: str, **keys: object) -> Agent:
    """An agent with a journal of its own."""
    directory = stage.directory / name
    directory.mkdir()
    role = {key: value for key, value in keys.items() if key != "cleanup_interval"}
    text = document(directory, database, **role)
    interval = keys.get("cleanup_interval", f"{SWEEP:g}s")
    text["postgresql"] = server_of(database, schema=name, cleanup_interval=interval)
    return stage.start(text)


def replaced(agent: Agent, before: Credential, database: Database, within: float) -> None:
    """By a credential that works, on the socket and in the file, soon."""
    assert eventually(lambda: agent.read(ROLE).username != before.username, within + LATE)
    after = agent.read(ROLE)
    assert works(database, after)
    assert eventually(lambda: from_file(agent.file).username == after.username)


def set_ahead(stage: Stage) -> None:
    """Half an hour, which leases of an hour outlive, then two hours, which they do not."""
    server, database = stage.server(0.0)
    sweeping = watched(stage, database, "sweeping")
    trying = watched(stage, database, "trying", cleanup_interval="1h", verify_every="1s")
    blind = watched(stage, database, "blind", cleanup_interval="1h")
    agents = (sweeping, trying, blind)
    before = {agent: agent.read(ROLE) for agent in agents}

    server.set(HOUR / 2)
    time.sleep(SWEEP + 1.0)
    for agent in agents:
        held = agent.read(ROLE)
        assert held.username == before[agent].username
        assert works(database, held)
        # Nothing tells the agent, so until its next renewal it believes in half an hour too much.
        assert held.lease_duration > HOUR - 60
        assert ends_in(database)[held.username] < HOUR / 2 + 1

    server.set(2 * HOUR)
    assert not works(database, before[sweeping])
    replaced(sweeping, before[sweeping], database, SWEEP)
    replaced(trying, before[trying], database, 1.0 + 5.0)
    assert eventually(lambda: not {before[sweeping].username, before[trying].username} & leased(database))
    # Without a sweep of its own and without verify_every, only the next renewal tells; or somebody who knows.
    assert blind.read(ROLE).username == before[blind].username
    blind.ask(f"/v1/{ROLE}/rotate", method="POST")
    replaced(blind, before[blind], database, 1.0)

    for agent in agents:
        assert len(agent.logged("issued")) == 2
        assert agent.logged("issue-failed") == []
        assert agent.stop() == 0
    assert leased(database) == set()


def set_back_and_right(stage: Stage) -> None:
    """An hour back, which makes every end an hour late, then right again."""
    server, database = stage.server(0.0)
    agent = watched(stage, database, "back", default_ttl="6s", max_ttl="30m")
    before = agent.read(ROLE)

    with using(agent, place_of(database), ROLE) as apps:
        server.set(-HOUR)
        assert eventually(lambda: len(agent.logged("renewed")) >= 2)
        assert ends_in(database)[before.username] > HOUR - 60
    assert apps.failures == []
    assert apps.users == [before.username]
    assert all(held.lease_duration <= 6 for _, held in apps.held)

    server.set(0.0)
    time.sleep(6.0)
    replaced(agent, before, database, 6.0)
    assert len(agent.logged("issued")) == 2
    assert agent.stop() == 0
    assert leased(database) == set()


SCENES: dict[str, Callable[[Stage], None]] = {
    "constantly off": constantly_off,
    "set ahead": set_ahead,
    "set back": set_back_and_right,
}


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """Every scene, played; `played(name)` raises what was wrong with that one."""
    library()
    base = tmp_path_factory.mktemp("server-time")
    stages = {name: Stage(directory=base / name.replace(" ", "-")) for name in SCENES}
    for stage in stages.values():
        stage.directory.mkdir()
    try:
        outcomes = play({name: partial(SCENES[name], stage) for name, stage in stages.items()})
        yield lambda name: outcomes[name].result()
    finally:
        for stage in stages.values():
            for agent in stage.agents:
                agent.end()
            stage.servers.close()


def test_a_server_whose_clock_is_minutes_off_costs_nothing(played: Played) -> None:
    """D-26: 5 minutes ahead, 5 behind, 30 s ahead; lease_duration is the truth, sweeps are neither early nor late."""
    played("constantly off")


def test_a_server_whose_clock_is_set_ahead_ends_leases_early_and_they_are_replaced_when_that_shows(
    played: Played,
) -> None:
    played("set ahead")


def test_a_server_whose_clock_was_set_back_grants_nothing_that_its_correction_would_take(played: Played) -> None:
    played("set back")
