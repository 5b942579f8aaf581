"""One round: an agent is killed, perhaps its successor too, and the one after that must put everything in order."""

import contextlib
import http.client
import math
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from agent.failpoints import Failpoint
from tests.acceptance.harness import Agent, Credential, Program, eventually, log_in
from tests.acceptance.scenes import ROLE, place_of
from tests.chaos.plan import WAYS, Accident, Course, Place
from tests.chaos.readers import FileReader, SocketReader, reading
from tests.chaos.world import SWEPT_EVERY, Record, World, record_in, remembering

REPOSITORY = Path(__file__).parents[2]
ORDER = SWEPT_EVERY + 6.0
"""Longest time from ready to order (seconds): a sweep, and what a busy machine and a moment of grace take."""

_ROTATE_EVERY = 1.05
_DEATH = 20.0


class Violation(AssertionError):
    """A promise was broken; the text is a full account."""


@dataclass(kw_only=True)
class Outcome:
    """What a round saw.

    Attributes:
        kills: agents that died.
        adopted: whether the last agent went on with the credential that was served before.
        replaced: whether it served another one instead; neither where none had been served.
        ready_in: seconds from the last agent's start to ready.
    """

    kills: int = 0
    adopted: bool = False
    replaced: bool = False
    ready_in: float = 0.0
    logins: int = 0
    reads: int = 0


@dataclass(kw_only=True)
class Left:
    """What the killed agents left."""

    record: Record = field(default_factory=Record)
    doomed: set[str] = field(default_factory=set)
    served: str = ""


class Round:
    """One round at one place, in a directory of its own; `run` it once.

    Args:
        seed: draws the way, the instant and whether the successor dies too.
    """

    def __init__(self, world: World, place: Place, directory: Path, seed: int) -> None:
        self._world = world
        self._place = place
        self._seed = seed
        self._directory = directory
        self._random = random.Random(f"{place} {seed}")  # noqa: S311 - no secret
        self._agents: list[Program] = []
        self._outcome = Outcome()
        self._left = Left()
        self._stopping = False
        self._nth = 1
        self._again = self._random.random() < 1 / 3
        self._linger = self._random.random() < 1 / 4
        self._course = self._draw_course()
        self._document = remembering(directory, world.database, self._course)
        self._file = Path(self._document["template"][0]["destination"])
        self._socket = Path(self._document["listener"]["unix"]["address"])

    def __repr__(self) -> str:
        also = ", successor killed too" if self._again else ""
        return f"ONLY='{self._place}' SEED={self._seed}: {self._course}, {self._nth}. time{also}"

    def _draw_course(self) -> Course | None:
        if isinstance(self._place, Accident):
            return self._random.choice([Course.RENEW, None])
        ways = WAYS[self._place]
        (way,) = self._random.choices(ways, [way.weight for way in ways])
        self._nth = self._random.choice(way.nth)
        return way.course

    def run(self) -> Outcome:
        """Kill, restart, judge, end.

        Raises:
            Violation: something was lost, left or broken.
        """
        self._directory.mkdir(mode=0o755)
        server_falls = self._place is Accident.WITH_THE_SERVER
        file = FileReader(self._file, place_of(self._world.database), server_falls=server_falls)
        sockets = [SocketReader(self._socket) for _ in range(8 if isinstance(self._place, Accident) else 1)]
        try:
            with reading(file, *sockets):
                self._first_life(sockets)
                self._after_a_kill(sockets)
                if self._again:
                    self._second_life()
                    self._after_a_kill(())
                self._last_life([file, sockets[0]])
            self._outcome.logins, self._outcome.reads = file.times, sum(each.times for each in sockets)
            self._judge(all_read=[file, *sockets])
        except Violation as violation:
            raise Violation(f"{violation}\n{self._account()}") from None
        except (AssertionError, OSError, ValueError, psycopg.Error, subprocess.TimeoutExpired) as error:
            raise Violation(f"{type(error).__name__}: {error}\n{self._account()}") from error
        finally:
            for agent in self._agents:
                agent.end()
        shutil.rmtree(self._directory)
        return self._outcome

    # -- lives ------------------------------------------------------------------------------------------------------

    def _start(self, point: Failpoint | None = None, nth: int = 1) -> Agent:
        """An agent of the round's configuration, which dies at `point`."""
        module = ("agent",) if point is None else ("tests.chaos.victim", point, str(nth), "--")
        handing_over = point is Failpoint.STOP_BEGUN and self._course is Course.HAND_OVER
        agent = Agent(
            self._document | ({"agent": self._document["agent"] | {"on_stop": "handover"}} if handing_over else {}),
            self._directory / f"run-{len(self._agents)}",
            module=module,
            environment={"PYTHONPATH": str(REPOSITORY)},
        )
        self._agents.append(agent)
        return agent

    def _first_life(self, readers: Sequence[SocketReader]) -> None:
        if isinstance(self._place, Accident):
            self._die_by_accident(self._place)
            return
        if self._course is Course.RESTART:
            before = self._start().wait_ready()
            if not eventually(lambda: readers[0].last is not None):
                raise Violation("nobody could read the first agent's credential")
            before.end()
            self._outcome.kills += 1
        victim = self._start(self._place, self._nth)
        self._drive(victim)
        self._must_die(victim)

    def _drive(self, victim: Agent) -> None:
        """Bring it to its point."""
        if self._course in (Course.START, Course.RESTART, Course.RENEW, Course.WEAR):
            return
        victim.wait_ready()
        if self._course is Course.ROTATE:
            end = time.monotonic() + _DEATH
            while time.monotonic() < end and _rotate(victim, "1s"):
                _until_dead(victim, _ROTATE_EVERY)
            return
        if self._course is Course.STOP_WITH_TWO:
            before = victim.read(ROLE).username
            _rotate(victim, None)
            if not eventually(lambda: victim.read(ROLE).username != before):
                raise Violation("a credential was not replaced when asked")
        self._stopping = self._course is not Course.HAND_OVER
        victim.send(signal.SIGTERM)

    def _must_die(self, victim: Agent) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            victim.wait(_DEATH)
        if victim.code != -signal.SIGKILL:
            raise Violation(f"the point was not reached: the agent ended with {victim.code}")
        self._outcome.kills += 1

    def _die_by_accident(self, accident: Accident) -> None:
        agent = self._start()
        instant = time.monotonic() + self._random.uniform(0.0, 3.0)
        while (left := instant - time.monotonic()) > 0:
            if not self._socket.exists() or not _rotate(agent, "1s"):
                time.sleep(min(left, 0.05))
            else:
                time.sleep(min(left, self._random.uniform(0.0, _ROTATE_EVERY)))
        both = [agent.end]
        if accident is Accident.WITH_THE_SERVER:
            both.append(self._world.database.cluster.kill)
            self._random.shuffle(both)
        for end in both:
            end()
        if agent.code != -signal.SIGKILL:
            raise Violation(f"the agent had ended before it was killed: {agent.code}")
        self._outcome.kills += 1
        if accident is Accident.WITH_THE_SERVER:
            self._again = False
            self._world.database.cluster.start()

    def _second_life(self) -> None:
        """The successor dies while it takes over."""
        self._stopping = False
        self._must_die(self._start(*self._random.choice(self._points_of_a_restart())))

    def _points_of_a_restart(self) -> list[tuple[Failpoint, int]]:
        """Where a successor comes for certain, given what it finds."""
        found = record_in(self._directory)
        points = [(Failpoint.FILE_STAGED, 1), (Failpoint.FILE_WRITTEN, 1), (Failpoint.PUBLISH_DONE, 1)]
        if found.current and self._world.lives(found.current):
            points += [(Failpoint.RENEW_LOCKED, 1), (Failpoint.RENEW_COMMITTED, 1), (Failpoint.RENEW_ANSWERED, 1)]
            points += [(Failpoint.FILE_STAGED, 2), (Failpoint.FILE_WRITTEN, 2)]
        else:
            points += [(Failpoint.ISSUE_PROPOSED, 1), (Failpoint.ISSUE_CREATED, 1), (Failpoint.VERIFY_DONE, 1)]
        if found.doomed:
            points.append((Failpoint.REVOKE_COMMITTED, 1))
        if any(self._world.known(each) for each in found.doomed):
            points += [(Failpoint.REVOKE_LOCKED, 1), (Failpoint.REVOKE_TERMINATED, 1), (Failpoint.REVOKE_DROPPED, 1)]
        return points

    # -- judgements ---------------------------------------------------------------------------------------------------

    def _after_a_kill(self, readers: Sequence[SocketReader]) -> None:
        """No user without a record and an end; what was served goes on working."""
        for each in self._world.ours():
            if not each.lease_id or not each.ends:
                raise Violation(f"a user without a record or an end: {each}")
        found = record_in(self._directory)
        self._left.record = found
        self._left.doomed |= found.doomed
        for reader in readers:
            if reader.last is None:
                continue
            self._left.served = reader.last.lease_id
            if not self._stopping:
                self._still_works(reader.last, found)

    def _still_works(self, held: Credential, found: Record) -> None:
        if held.expires_at <= time.time():
            return
        if held.lease_id == found.current or found.draining.get(held.lease_id, -math.inf) > _dial():
            log_in(place_of(self._world.database), held).close()
        elif held.lease_id not in found.draining and held.generation >= found.generation:
            raise Violation(f"user {held.username} was served and is not recorded: {found}")

    def _last_life(self, readers: Sequence[FileReader | SocketReader]) -> None:
        self._stopping = False
        before = time.monotonic()
        agent = self._start().wait_ready()
        self._outcome.ready_in = time.monotonic() - before
        held = agent.read(ROLE)
        self._went_on(held.lease_id, held.generation)
        seen = [reader.times for reader in readers]
        if not eventually(lambda: all(r.broken or r.times > n for r, n in zip(readers, seen, strict=True))):
            raise Violation("nobody could read the last agent's credential")
        if not eventually(lambda: not self._disorder(agent), ORDER, every=0.1):
            raise Violation(f"no order {ORDER:g} s after ready: {self._disorder(agent)}")
        if self._linger:
            time.sleep(SWEPT_EVERY + 0.2)
            if wrong := self._disorder(agent):
                raise Violation(f"order was lost with a sweep: {wrong}")
        if agent.stop() != 0:
            raise Violation(f"the stop ended with {agent.code}")
        self._nothing_left()

    def _went_on(self, lease_id: str, generation: int) -> None:
        left = self._left
        self._outcome.adopted = bool(left.record.current) and lease_id == left.record.current
        self._outcome.replaced = bool(left.served) and lease_id != left.served
        lasting = self._course not in (Course.RENEW, Course.WEAR, Course.STOP, Course.STOP_WITH_TWO)
        if left.record.current and lasting and (lease_id, generation) != (left.record.current, left.record.generation):
            raise Violation(f"a living lease was not adopted: {left.record}, and now {lease_id} ({generation})")

    def _disorder(self, agent: Agent) -> str:
        """What is not as it must be, "" once all is."""
        return self._unknown() or self._file_lags(agent)

    def _unknown(self) -> str:
        """Users who are neither current nor draining by the agent's own record."""
        ours, found = self._world.ours(), record_in(self._directory)
        known = {found.current, *found.draining}
        for each in ours:
            if each.lease_id not in known or each.lease_id in self._left.doomed or not each.ends or not each.lives:
                return f"{each} is without a future: {found}, never published: {self._left.doomed}"
        if found.current not in {each.lease_id for each in ours}:
            return f"the current lease has no user: {found}, {ours}"
        return f"still to be revoked: {found.doomed}" if found.doomed else ""

    def _file_lags(self, agent: Agent) -> str:
        from_socket = agent.read(ROLE).username
        return "" if from_socket in self._file.read_text() else f"the file does not hold {from_socket}"

    def _nothing_left(self) -> None:
        ours = self._world.ours()
        state = sorted(path.name for path in (self._directory / "state").iterdir())
        if ours or state != ["holder.json", "lock"] or self._file.exists() or self._socket.exists():
            raise Violation(f"left behind: {ours}, {state}, file {self._file.exists()}, socket {self._socket.exists()}")

    def _judge(self, all_read: Sequence[FileReader | SocketReader]) -> None:
        for reader in all_read:
            if reader.broken:
                raise Violation(reader.broken)
        if touched := self._world.touched():
            raise Violation(f"somebody else's role was touched: {touched}")

    def _account(self) -> str:
        parts = [f"round: {self!r}", f"in {self._directory}: {self._left}"]
        for agent in self._agents:
            parts += [f"--- {agent!r}", agent.stderr]
        with contextlib.suppress(psycopg.Error):
            parts.append(self._world.account())
        return "\n".join(parts)


def _rotate(agent: Agent, revoke_after: str | None) -> bool:
    """Ask for a replacement; False where nobody answers."""
    body = None if revoke_after is None else {"revoke_after": revoke_after}
    try:
        return agent.ask(f"/v1/{ROLE}/rotate", method="POST", body=body).status in (202, 429)
    except (OSError, http.client.HTTPException):
        return False


def _until_dead(agent: Agent, within: float) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
        agent.wait(within)


def _dial() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
