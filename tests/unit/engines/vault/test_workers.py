"""Threads come with work and go without it."""

import threading
import time
from collections.abc import Callable

from agent.clock import SystemClock
from agent.engines.vault.workers import MOST, Workers


class Tool:
    """Counts."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def close(self) -> None:
        self.closed.set()


class Job:
    """Waits for `go`; says that it was done, and with what."""

    def __init__(self, go: threading.Event | None = None) -> None:
        self.go = go
        self.done = threading.Event()
        self.told = threading.Event()
        self.refused = False
        self.was_cut = False
        self.deserted = False
        self.tool: Tool | None = None

    def do(self, tool: Callable[[], Tool]) -> Callable[[], None]:
        self.tool = tool()
        if self.go is not None:
            assert self.go.wait(10)
        self.done.set()
        return self.told.set

    def cut(self) -> None:
        self.was_cut = True

    def refuse(self) -> None:
        self.refused = True


def settled(workers: Workers[Tool], words: str) -> bool:
    """Whether it comes to that."""
    end = time.monotonic() + 10
    while words not in repr(workers) and time.monotonic() < end:
        time.sleep(0.002)
    return words in repr(workers)


def test_an_idle_thread_closes_its_tool_and_the_next_work_gets_a_new_one():
    workers = Workers("w", Tool, idle=0.02)
    jobs = [Job(), Job()]
    for job in jobs:
        workers.submit(job)
        assert job.told.wait(10)
        assert job.tool is not None
        assert job.tool.closed.wait(10)
        assert settled(workers, "0 busy, 0 idle")

    assert jobs[0].tool is not jobs[1].tool


def test_the_thread_is_free_before_its_caller_is_told():
    workers = Workers("w", Tool)
    tools = set()
    for _ in range(50):
        job = Job()
        workers.submit(job)
        assert job.told.wait(10)
        tools.add(job.tool)

    assert len(tools) == 1


def test_no_more_threads_than_that_and_what_is_deserted_makes_room():
    workers, go = Workers("w", Tool), threading.Event()
    running = [Job(go) for _ in range(MOST)]
    for job in running:
        workers.submit(job)
    running[2].deserted = True
    waiting = Job()
    workers.submit(waiting)

    assert repr(workers) == f"Workers(w, {MOST} busy, 0 idle, 1 waiting)"
    assert [job.was_cut for job in running] == [False, False, True, False]
    go.set()
    assert waiting.done.wait(10)


async def test_closing_refuses_what_waits_cuts_what_runs_and_leaves_what_was_deserted_a_moment():
    workers, go = Workers("w", Tool), threading.Event()
    running = [Job(go) for _ in range(MOST)]
    running[0].deserted = True
    for job in running:
        workers.submit(job)
    waiting = Job()
    workers.submit(waiting)
    running[0].was_cut = False
    threading.Timer(0.05, go.set).start()

    await workers.close(SystemClock())
    after = Job()
    workers.submit(after)

    assert (waiting.refused, after.refused) == (True, True)
    assert [job.was_cut for job in running] == [False, True, True, True]
    assert settled(workers, "0 busy, 0 idle")
    assert all(job.tool is not None and job.tool.closed.is_set() for job in running)


async def test_closing_waits_as_long_as_told_for_what_was_deserted_and_no_longer():
    workers, go = Workers("w", Tool), threading.Event()
    late, never = Job(go), Job(forever := threading.Event())
    late.deserted = True
    workers.submit(late)
    threading.Timer(1.3, go.set).start()

    await workers.close(SystemClock(), linger=15.0)
    seen_to = late.done.is_set()
    others = Workers("v", Tool)
    never.deserted = True
    others.submit(never)
    await others.close(SystemClock(), linger=0.05)

    assert seen_to
    assert not never.done.is_set()
    forever.set()
