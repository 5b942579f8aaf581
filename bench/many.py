"""What ten thousand leases weigh in one process, with an upstream that is no more than memory.

`python -m bench.many [COUNT]` prints KiB per lease: the Renewer with its two tasks, the lease, its place in the cache.
"""

import asyncio
import gc
import multiprocessing
import os
import sys
from multiprocessing.connection import Connection

from bench.read import rss

BOUND = 16.0
"""KiB per lease that nobody needs to exceed; a test holds it."""


async def _weigh(count: int) -> float:
    from agent.clock import SystemClock
    from agent.leases.cache import LeaseCache
    from agent.leases.lease import Grant, Lease, Secret
    from agent.leases.renewer import Renewer
    from agent.leases.schedule import Policy

    class Upstream:
        """Grants whatever it is asked for."""

        async def issue(self, role: str, proposed_id: str) -> Grant:
            data = {"username": Secret(f"v_app_{proposed_id[:12]}"), "password": Secret(proposed_id[:32])}
            return Grant(id=proposed_id, data=data, ttl=3600.0, renewable=True, max_ttl=86400.0)

        async def renew(self, lease: Lease, increment: float) -> Grant:
            return lease.last

        async def revoke(self, lease_id: str) -> None:
            return None

        async def ping(self) -> None:
            return None

    names = [f"database/creds/app-{number}" for number in range(count)]
    clock, cache, engine = SystemClock(), LeaseCache(names), Upstream()
    gc.collect()
    before = rss(os.getpid())
    renewers = [Renewer(name, engine=engine, cache=cache, policy=Policy(), clock=clock) for name in names]
    tasks = [asyncio.create_task(renewer.run()) for renewer in renewers]
    for name in names:
        await cache.changed(name, 0)
    gc.collect()
    weight = (rss(os.getpid()) - before) * 1024 / count
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return weight


def _child(count: int, answer: Connection) -> None:
    from agent import log

    log.configure(level="error")
    answer.send(asyncio.run(_weigh(count)))


def per_lease(count: int) -> float:
    """KiB per lease, weighed in a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_child, args=(count, there), daemon=True)
    process.start()
    try:
        if not here.poll(120):
            raise RuntimeError(f"{count} leases were not published in two minutes")
        return float(here.recv())
    finally:
        process.terminate()
        process.join()


if __name__ == "__main__":
    print(f"{per_lease(int(sys.argv[1]) if sys.argv[1:] else 10_000):.1f} KiB per lease")
