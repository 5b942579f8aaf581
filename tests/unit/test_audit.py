import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator, MutableMapping, Sequence
from typing import Any

import pytest
import structlog.testing

from agent.audit import Audit, Caller, Entry, StandardOutput, What
from agent.errors import StartError
from tests.fakes import FakeClock, settle


class FakeSink:
    """Keeps what it gets; `fault` is raised instead, `most` is how many lines it takes at once."""

    def __init__(self) -> None:
        self.fault: Exception | type[Exception] | None = None
        self.most = 1_000_000
        self.lines: list[dict[str, Any]] = []
        self.tries = 0
        self.state = "new"

    def open(self) -> None:
        self.state = "open"

    def append(self, lines: Sequence[bytes]) -> int:
        self.tries += 1
        if self.fault is not None:
            raise self.fault
        taken = lines[: self.most]
        assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in taken)
        self.lines += [json.loads(line) for line in taken]
        return len(taken)

    def close(self) -> None:
        self.state = "closed"

    @property
    def roles(self) -> list[str]:
        return [line.get("role", line["what"]) for line in self.lines]


@pytest.fixture
def lines() -> Iterator[Sequence[MutableMapping[str, Any]]]:
    """Every line that is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


async def inline(work: Callable[[], Any]) -> Any:
    await asyncio.sleep(0)
    return work()


@contextlib.asynccontextmanager
async def auditing(clock: FakeClock, sink: FakeSink, *, room: int = 100) -> AsyncIterator[Audit]:
    audit = Audit(sink, clock, room=room, run_blocking=inline)
    await audit.start()
    try:
        yield audit
    finally:
        await audit.close(1.0)


def issue(role: str) -> Entry:
    return Entry(at=1_800_000_000.25, what=What.ISSUE, role=role)


FULL = OSError(28, "No space left on device")


def test_a_line_says_when_who_and_what_and_leaves_out_what_is_empty() -> None:
    entry = Entry(
        at=1_800_000_000.25,
        what=What.ISSUE,
        role="database/creds/app",
        upstream="postgresql",
        owner="web-0",
        incarnation=7,
        lease_id="id",
        username="v_app_1",
        requested=3600.0,
        granted=1800.0,
        statements="abc",
    )
    read = Entry(at=0.0, what=What.READ, caller=Caller(uid=1000, gid=0, pid=0), outcome="ok", generation=5)

    assert json.loads(entry.line()) == {
        "time": "2027-01-15T08:00:00.250Z",
        "what": "issue",
        "outcome": "ok",
        "who": "agent",
        "role": "database/creds/app",
        "upstream": "postgresql",
        "owner": "web-0",
        "incarnation": 7,
        "lease_id": "id",
        "username": "v_app_1",
        "requested_ttl": 3600.0,
        "granted_ttl": 1800.0,
        "statements": "abc",
    }
    told = json.loads(read.line())
    assert (told["who"], told["uid"], told["gid"], told["pid"]) == ("uid:1000", 1000, 0, 0)
    assert told["generation"] == 5
    assert "role" not in told


def test_nothing_in_a_name_begins_another_line() -> None:
    line = issue('a\n{"what":"forged"}\u2028\x00\udc80').line()

    assert line.count(b"\n") == 1
    assert line.isascii()


async def test_lines_are_written_in_order_as_they_come(clock: FakeClock) -> None:
    sink = FakeSink()
    sink.most = 2

    async with auditing(clock, sink) as audit:
        for role in "abcde":
            audit.note(issue(role))
        assert sink.lines == [], "whoever notes a line waits for nothing"
        assert await audit.written(1.0)

        assert sink.roles == list("abcde")
        assert (audit.account.written, audit.account.waiting) == (5, 0)

    assert sink.state == "closed"


async def test_a_sink_that_fails_is_said_once_and_loses_nothing_while_there_is_room(
    clock: FakeClock, lines: list[dict[str, Any]]
) -> None:
    sink = FakeSink()
    sink.fault = FULL

    async with auditing(clock, sink) as audit:
        audit.note(issue("a"))
        await clock.advance(120)
        audit.note(issue("b"))
        tries, failing = sink.tries, audit.account
        sink.fault = None
        await clock.advance(30)

        assert sink.roles == ["a", "b"]
        assert audit.account.error == ""

    assert 5 <= tries <= 9, "again and again, ever more slowly"
    assert (failing.error, failing.waiting) == ("No space left on device", 2)
    said = [line["event"] for line in lines if line["event"].startswith("audit")]
    assert said == ["audit-failed", "audit-resumed"]


async def test_lines_without_room_are_counted_said_and_written_down(
    clock: FakeClock, lines: list[dict[str, Any]]
) -> None:
    sink = FakeSink()
    sink.fault = FULL

    async with auditing(clock, sink, room=2) as audit:
        for role in "abcde":
            audit.note(issue(role))
        await settle()
        assert audit.account.lost == 3
        sink.fault = None
        await clock.advance(1)
        audit.note(issue("f"))
        assert await audit.written(1.0)

    assert sink.roles == ["lost", "a", "b", "f"]
    assert sink.lines[0]["count"] == 3
    assert sum("lines are lost" in str(line.get("error")) for line in lines) == 1


async def test_who_waits_for_a_failing_sink_does_not_wait_for_long(clock: FakeClock) -> None:
    sink = FakeSink()
    sink.fault = FULL

    async with auditing(clock, sink) as audit:
        audit.note(issue("a"))
        waiting = asyncio.create_task(audit.written(1.0))
        await clock.advance(1.0)

        assert await waiting is False


async def test_the_end_writes_what_waits(clock: FakeClock) -> None:
    sink = FakeSink()
    audit = Audit(sink, clock, run_blocking=inline)
    await audit.start()
    audit.note(issue("a"))

    await audit.close(1.0)

    assert (sink.roles, sink.state) == (["a"], "closed")


async def test_the_end_tries_a_failing_sink_once_more_and_says_what_is_left(
    clock: FakeClock, lines: list[dict[str, Any]]
) -> None:
    sink = FakeSink()
    sink.fault = FULL
    audit = Audit(sink, clock, room=2, run_blocking=inline)
    await audit.start()
    for role in "abc":
        audit.note(issue(role))
    await settle()

    await audit.close(1.0)

    assert lines[-1]["error"] == "3 lines were not written: No space left on device"
    assert sink.tries == 2


async def test_a_sink_that_hangs_does_not_hold_up_the_end(clock: FakeClock, lines: list[dict[str, Any]]) -> None:
    async def never(work: Callable[[], Any]) -> Any:
        if work.__name__ == "open":
            return work()
        await asyncio.Event().wait()

    audit = Audit(FakeSink(), clock, run_blocking=never)
    await audit.start()
    audit.note(issue("a"))
    closing = asyncio.create_task(audit.close(2.0))
    await clock.advance(2.0)

    await closing

    assert lines[-1]["error"] == "1 lines were not written: the sink is slow"


async def test_a_sink_that_cannot_be_had_ends_the_start(clock: FakeClock) -> None:
    class Taken(FakeSink):
        def open(self) -> None:
            raise StartError("audit.jsonl is in use by another agent")

    audit = Audit(Taken(), clock)

    with pytest.raises(StartError, match="in use"):
        await audit.start()
    await audit.close(1.0)


def test_standard_output_waits_for_a_slow_reader() -> None:
    """A pipe may have been made non-blocking by whoever holds its other end."""
    reading, writing = os.pipe()
    kept = os.dup(1)
    line = b"x" * 99_999 + b"\n"
    try:
        os.dup2(writing, 1)
        os.set_blocking(1, False)
        got = asyncio.run(_read_beside(reading, line))
    finally:
        os.set_blocking(1, True)
        os.dup2(kept, 1)
        for fd in (kept, reading, writing):
            os.close(fd)

    assert got == line * 3


async def _read_beside(reading: int, line: bytes) -> bytes:
    def read() -> bytes:
        got = b""
        while len(got) < 3 * len(line):
            got += os.read(reading, 65536)
        return got

    reader = asyncio.to_thread(read)
    got, count = await asyncio.gather(reader, asyncio.to_thread(StandardOutput().append, [line] * 3))
    assert count == 3
    return got


async def test_a_bug_in_a_sink_is_said_and_tried_again_and_never_quoted(
    clock: FakeClock, lines: list[dict[str, Any]]
) -> None:
    """The task would die in silence, and every later line wait for nobody."""

    class Bug(ValueError):
        def __init__(self) -> None:
            super().__init__("canary")

    sink = FakeSink()
    sink.fault = Bug

    async with auditing(clock, sink) as audit:
        audit.note(issue("a"))
        await clock.advance(5)
        failing = audit.account.error
        sink.fault = None
        await clock.advance(30)

        assert sink.roles == ["a"]
        assert audit.account.error == ""

    assert failing.startswith("Bug at ")
    assert "canary" not in str(lines)
    assert [line["event"] for line in lines if line["event"].startswith("audit")] == ["audit-failed", "audit-resumed"]


async def test_a_sink_that_cannot_be_closed_is_said(clock: FakeClock, lines: list[dict[str, Any]]) -> None:
    class Stuck(FakeSink):
        def close(self) -> None:
            raise OSError(11, "no thread to be had")

    async with auditing(clock, Stuck()):
        pass

    assert [line["error"] for line in lines] == ["no thread to be had; lines wait, and credentials go on"]


async def test_a_start_without_a_thread_for_the_sink_is_refused(clock: FakeClock) -> None:
    class Threadless(FakeSink):
        def open(self) -> None:
            raise OSError(11, "no thread to be had")

    with pytest.raises(StartError, match="audit log: no thread to be had"):
        await Audit(Threadless(), clock, run_blocking=inline).start()
