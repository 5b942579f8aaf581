import asyncio
import errno
import subprocess
import sys
import threading

import pytest

from agent.offload import in_daemon_thread


async def test_work_is_done_off_the_loop_and_its_answer_comes_back() -> None:
    assert await in_daemon_thread(threading.get_ident) != threading.get_ident()


async def test_what_the_work_raises_is_raised() -> None:
    def fail() -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        await in_daemon_thread(fail)


async def test_who_stops_waiting_is_not_told_any_more() -> None:
    done = threading.Event()

    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await in_daemon_thread(lambda: done.wait(0.05))
    assert await asyncio.to_thread(done.wait, 0.1) is False


async def test_no_thread_to_be_had_is_an_error_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """What whoever offloads work expects and survives anyway, unlike CPython's RuntimeError."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    with pytest.raises(OSError, match="no thread to be had") as caught:
        await in_daemon_thread(threading.get_ident)

    assert caught.value.errno == errno.EAGAIN


def test_work_that_hangs_does_not_hold_up_the_exit() -> None:
    """asyncio.to_thread does: the interpreter joins its threads."""
    script = (
        f"import sys; sys.path[:0] = {sys.path!r}"
        + """
import asyncio, time
from agent.offload import in_daemon_thread
async def main():
    try:
        async with asyncio.timeout(0.05):
            await in_daemon_thread(lambda: time.sleep(60))
    except TimeoutError:
        print("left")
asyncio.run(main())
"""
    )

    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=True)

    assert out.stdout == "left\n"
