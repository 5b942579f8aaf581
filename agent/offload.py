"""Blocking work off the loop, on threads that nobody waits for at the end.

asyncio's own executor is joined when the program ends: one call that hangs in a dead file system would hold up the exit
past every deadline. A thread of its own per call costs 50 µs, and files are written a few times a minute.
"""

import asyncio
import errno
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_daemon_thread(work: Callable[[], T]) -> T:
    """What `work` returns or raises. Cancelling stops the waiting, not the work.

    Raises:
        OSError: EAGAIN: there is no thread to be had; nothing was done.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def tell(value: T | None, error: BaseException | None) -> None:
        if outcome.done():
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(value)  # type: ignore[arg-type]  # None only where T admits it

    def run() -> None:
        try:
            value, error = work(), None
        except BaseException as raised:  # noqa: BLE001 - handed to the waiter, whatever it is
            value, error = None, raised
        try:
            loop.call_soon_threadsafe(tell, value, error)
        except RuntimeError:
            return  # the loop has closed: nobody waits any more

    try:
        threading.Thread(target=run, name="file work", daemon=True).start()
    except RuntimeError as error:  # CPython's word for pthread_create's EAGAIN: the cgroup's or the user's limit
        raise OSError(errno.EAGAIN, "no thread to be had (pids limit?)") from error
    return await outcome
