"""Two small things about tasks that asyncio leaves to its users."""

import asyncio
from collections.abc import Coroutine
from typing import Any


async def unless(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do `work`, or leave it as soon as `stop` is set; whether it was done. What it raises is raised here."""
    working = asyncio.create_task(work, name="starting up")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
            return True
        return False
    finally:
        for task in (working, stopped):
            task.cancel()
        await asyncio.gather(working, stopped, return_exceptions=True)


def leaves(group: BaseExceptionGroup[Any]) -> list[BaseException]:
    """The exceptions themselves, however deep the groups around them."""
    found: list[BaseException] = []
    for error in group.exceptions:
        found += leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
