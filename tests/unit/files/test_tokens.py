"""The agent's own login in files: whose they are, when they are written, and that they end with it."""

import asyncio
import io
import itertools
import logging
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from agent import log
from agent.clock import SystemClock
from agent.config.units import Duration, Mode
from agent.config.upstreams import TokenSink, TokenSinkConfig
from agent.errors import Forbidden, RateLimited, StartError, Unavailable
from agent.files.tokens import LOOK, TokenSinks
from agent.leases.cache import LeaseCache
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.session import key_of
from tests.fakes import FakeClock, settle
from tests.unit.files.builders import inline

T = TypeVar("T")
VAULT, OTHER = "vault", "vault.other"


@dataclass
class Wrapper:
    """Wraps tokens; `error` or `hangs` answers instead."""

    clock: FakeClock
    error: Exception | None = None
    hangs: bool = False
    asked: list[tuple[float, str, float]] = field(default_factory=list)

    async def __call__(self, token: Secret, ttl: float) -> Secret:
        self.asked.append((self.clock.now(), token.reveal(), ttl))
        if self.hangs:
            await self.clock.sleep(1e6)
        if self.error is not None:
            raise self.error
        return Secret(f"wrapped {len(self.asked)}")


class World:
    """Two logins, a directory, and the sinks under test."""

    def __init__(self, directory: Path, clock: FakeClock, *sinks: TokenSink) -> None:
        self.directory = directory
        self.clock = clock
        self.wrapper = Wrapper(clock)
        self.caches = {name: LeaseCache([key_of(name)]) for name in (VAULT, OTHER)}
        self._numbers = itertools.count(1)
        self._leases: dict[str, Lease] = {}
        places = {name: (cache, key_of(name)) for name, cache in self.caches.items()}
        wraps = dict.fromkeys(places, self.wrapper)
        self.sinks = TokenSinks(sinks, places, wraps, clock, run_blocking=inline)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        await self.sinks.prepare()
        task = asyncio.create_task(self.sinks.run())
        await settle()
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def log_in(self, name: str = VAULT, *, ttl: float = 3600.0) -> str:
        """A new login; returns its token."""
        token = f"hvs.token-{next(self._numbers)}"
        grant = Grant(id=f"accessor of {token}", data={"token": Secret(token)}, ttl=ttl, renewable=True)
        now = self.clock.now()
        lease = Lease(first=grant, last=grant, issued_at=now, granted_at=now, jitter=0.0)
        self._leases[name] = lease
        until = lease.expires_at - 3
        self.caches[name].publish(key_of(name), lease, until=until, verified=True, now=now, wall=self.clock.wall())
        await settle()
        return token

    async def renew(self, name: str = VAULT, *, ttl: float = 3600.0) -> None:
        now = self.clock.now()
        grant = Grant(id=self._leases[name].id, data={}, ttl=ttl, renewable=True)
        lease = self._leases[name] = self._leases[name].renewed(grant, granted_at=now, answered_at=now, jitter=0.0)
        self.caches[name].renewed(key_of(name), lease, until=lease.expires_at - 3, now=now, wall=self.clock.wall())
        await settle()

    async def log_out(self, name: str = VAULT) -> None:
        self.caches[name].withdraw(key_of(name))
        await settle()

    def text(self, name: str = "token") -> str | None:
        path = self.directory / name
        return path.read_text() if path.exists() else None


def sink(
    directory: Path, name: str = "token", *, upstream: str = VAULT, wrap_ttl: float = 0.0, **config: object
) -> TokenSink:
    what: dict[str, object] = {"path": str(directory / name), "allow_disk": True, **config}
    return TokenSink(upstream=upstream, wrap_ttl=Duration(wrap_ttl), config=TokenSinkConfig(**what))  # type: ignore[arg-type]


async def test_the_token_stands_in_the_file_alone_and_for_the_agent_alone(tmp_path: Path, clock: FakeClock) -> None:
    """R004-055."""
    world = World(tmp_path / "sinks", clock, sink(tmp_path / "sinks"))

    async with world.running():
        assert world.text() is None
        token = await world.log_in()
        assert world.text() == token
        found = (tmp_path / "sinks" / "token").stat()
        assert stat.S_IMODE(found.st_mode) == 0o400
        assert found.st_uid == os.geteuid()
        assert stat.S_IMODE((tmp_path / "sinks").stat().st_mode) == 0o750
        (state,) = world.sinks.states()
        assert (state.state, state.error) == ("written", "")


async def test_mode_and_group_are_the_configurations(tmp_path: Path, clock: FakeClock) -> None:
    gid = 2345 if os.geteuid() == 0 else os.getegid()
    world = World(tmp_path, clock, sink(tmp_path, mode=Mode(0o440), group=str(gid)))

    async with world.running():
        await world.log_in()

    found = (tmp_path / "token").stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o440, gid)


async def test_a_renewal_writes_nothing_and_a_new_login_does(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path))

    async with world.running():
        await world.log_in()
        before = (tmp_path / "token").stat()
        for _ in range(5):
            await clock.advance(1200)
            await world.renew()
        after = (tmp_path / "token").stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        token = await world.log_in()
        assert world.text() == token
        assert (tmp_path / "token").stat().st_ino != before.st_ino


async def test_mode_is_made_right_and_a_missing_file_written(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path))

    async with world.running():
        token = await world.log_in()
        inode = (tmp_path / "token").stat().st_ino
        (tmp_path / "token").chmod(0o644)
        await clock.advance(LOOK)
        found = (tmp_path / "token").stat()
        assert (stat.S_IMODE(found.st_mode), found.st_ino) == (0o400, inode)
        (tmp_path / "token").unlink()
        await clock.advance(LOOK)
        assert world.text() == token


async def test_several_sinks_hold_the_logins_of_their_upstreams(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, "a"), sink(tmp_path, "b"), sink(tmp_path, "c", upstream=OTHER))

    async with world.running():
        token = await world.log_in()
        assert (world.text("a"), world.text("b"), world.text("c")) == (token, token, None)
        other = await world.log_in(OTHER)
        assert (world.text("a"), world.text("c")) == (token, other)


async def test_the_file_of_a_login_that_ended_is_removed(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path))

    async with world.running():
        await world.log_in(ttl=60)
        await clock.advance(59.9)
        assert world.text() is not None
        await clock.advance(0.2)
        assert world.text() is None
        await world.log_in()
        await world.log_out()
        assert world.text() is None
        assert world.sinks.states()[0].state == "removed"


async def test_start_waits_for_every_token(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, "a"), sink(tmp_path, "b", upstream=OTHER))

    async with world.running():
        waiting = asyncio.create_task(world.sinks.written())
        await world.log_in()
        assert not waiting.done()
        await world.log_in(OTHER)
        assert waiting.done()
        await waiting


async def test_a_stop_removes_every_file_an_earlier_runs_too_and_writes_none_any_more(
    tmp_path: Path, clock: FakeClock
) -> None:
    world = World(tmp_path, clock, sink(tmp_path, "a"), sink(tmp_path, "b", upstream=OTHER))
    (tmp_path / "b").write_text("an earlier run's")

    async with world.running():
        await world.log_in()
        assert world.text("b") == "an earlier run's", "until it is replaced"
    assert await world.sinks.remove() == []
    assert (world.text("a"), world.text("b")) == (None, None)
    async with world.running():
        await world.log_in()
        assert world.text("a") is None


async def test_a_file_that_cannot_be_removed_is_named(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path))
    await world.sinks.prepare()
    (tmp_path / "token").mkdir()

    (line,) = await world.sinks.remove()

    assert line.startswith(f"{tmp_path}/token cannot be removed: Is a directory")


async def test_a_disk_is_refused_with_both_remedies(clock: FakeClock) -> None:
    world = World(Path("/proc/self"), clock, sink(Path("/proc/self"), allow_disk=False))

    with pytest.raises(
        StartError, match=r'token sink "/proc/self/token": does not lie on .*tmpfs.*allow_disk = true'
    ) as raised:
        await world.sinks.prepare()
    assert "\n" not in str(raised.value)


async def test_a_directory_that_others_can_write_stops_the_start(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(StartError, match="can be written by others"):
        await World(tmp_path, clock, sink(tmp_path / "open")).sinks.prepare()


async def test_a_failure_is_told_and_tried_again_and_touches_no_other_sink(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path / "bad"), sink(tmp_path, "good"))

    async with world.running():
        (tmp_path / "bad").chmod(0o777)
        token = await world.log_in()
        assert world.text("good") == token
        bad, good = world.sinks.states()
        assert (bad.state, good.state) == ("failed", "written")
        assert "can be written by others" in bad.error
        assert token not in bad.error
        (tmp_path / "bad").chmod(0o750)
        await clock.advance(1.1)
        assert world.text("bad/token") == token
        assert world.sinks.states()[0].state == "written"


async def test_cancelled_while_it_wraps_it_ends_at_once(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=60))
    world.wrapper.hangs = True

    async with world.running() as task:
        await world.log_in()
        task.cancel()
        await settle()
        assert task.done()


# -- wrapped ----------------------------------------------------------------------------------------------------------


async def test_a_wrapped_token_is_made_fresh_after_two_thirds_of_its_life(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=60))

    async with world.running():
        token = await world.log_in()
        assert world.text() == "wrapped 1"
        await clock.advance(39.9)
        assert world.text() == "wrapped 1"
        await clock.advance(0.2)
        assert world.text() == "wrapped 2"
        await clock.advance(40)
        assert world.text() == "wrapped 3"
        assert [(at - 1000, given, ttl) for at, given, ttl in world.wrapper.asked] == [
            (0, token, 60),
            (40, token, 60),
            (80, token, 60),
        ]


async def test_a_new_login_is_wrapped_at_once_and_a_renewal_not(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=3600))

    async with world.running():
        await world.log_in()
        await clock.advance(10)
        await world.renew()
        assert len(world.wrapper.asked) == 1
        token = await world.log_in()
        assert world.wrapper.asked[-1][1] == token
        assert world.text() == "wrapped 2"


async def test_a_wrapped_token_that_cannot_be_made_fresh_is_removed_at_its_end(
    tmp_path: Path, clock: FakeClock
) -> None:
    """An app that opens a dead one would have to think that somebody else was there first."""
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=60))

    async with world.running():
        token = await world.log_in()
        world.wrapper.error = Unavailable("vault does not answer")
        await clock.advance(59)
        assert world.text() == "wrapped 1"
        await clock.advance(2)
        assert world.text() is None
        await clock.advance(60)
        (state,) = world.sinks.states()
        assert (state.state, state.error) == ("failed", "cannot be wrapped: vault does not answer")
        assert token not in state.error
        world.wrapper.error = None
        await clock.advance(60)
        assert world.text() is not None


@pytest.mark.parametrize("error", [Unavailable("down"), Forbidden("may not"), RateLimited("busy", retry_after=45)])
async def test_wrapping_that_fails_is_tried_ever_more_rarely(
    tmp_path: Path, clock: FakeClock, error: Exception
) -> None:
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=60))
    world.wrapper.error = error

    async with world.running():
        await world.log_in(ttl=1e6)
        await clock.advance(1000)

    times = [at for at, _, _ in world.wrapper.asked]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(later - earlier > 60 for earlier, later in zip(times, times[10:], strict=False))
    assert max(gaps) <= 120
    assert min(gaps) >= (45 if isinstance(error, RateLimited) else 1)


async def test_wrapping_that_hangs_is_given_up(tmp_path: Path, clock: FakeClock) -> None:
    world = World(tmp_path, clock, sink(tmp_path, wrap_ttl=60))
    world.wrapper.hangs = True

    async with world.running():
        await world.log_in()
        await clock.advance(20.1)
        assert world.sinks.states()[0].error == "cannot be wrapped: no answer in time"
        world.wrapper.hangs = False
        await clock.advance(2)
        assert world.text() is not None


async def test_no_token_reaches_a_log_or_a_repr(
    tmp_path: Path, clock: FakeClock, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lines = io.StringIO()
    log.configure(level="debug", json=True, stream=lines)
    world = World(tmp_path, clock, sink(tmp_path, "a"), sink(tmp_path, "b", wrap_ttl=60))

    async with world.running():
        await world.log_in()
        world.wrapper.error = Unavailable("down")
        await clock.advance(200)
        told = repr(world.sinks) + repr([state.as_dict() for state in world.sinks.states()])

    written = capsys.readouterr()
    everything = told + written.out + written.err + caplog.text + lines.getvalue()
    assert "file-written" in everything
    assert "hvs." not in everything
    assert "wrapped 1" not in everything


async def test_in_a_thread_of_its_own_it_works_alike(tmp_path: Path) -> None:
    clock = SystemClock()
    cache = LeaseCache([key_of(VAULT)])
    threads: list[Callable[[], object]] = []

    def threaded(work: Callable[[], T]) -> Awaitable[T]:
        threads.append(work)
        return asyncio.to_thread(work)

    sinks = TokenSinks([sink(tmp_path)], {VAULT: (cache, key_of(VAULT))}, {}, clock, run_blocking=threaded)
    grant = Grant(id="accessor", data={"token": Secret("hvs.x")}, ttl=60, renewable=True)
    now = clock.now()
    lease = Lease(first=grant, last=grant, issued_at=now, granted_at=now, jitter=0.0)
    await sinks.prepare()
    running = asyncio.create_task(sinks.run())
    cache.publish(key_of(VAULT), lease, until=now + 50, verified=True, now=now, wall=clock.wall())

    async with asyncio.timeout(10):
        await sinks.written()

    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert (tmp_path / "token").read_text() == "hvs.x"
    assert len(threads) == 2
