"""What 10, 100 and 1,000 roles cost one agent: does anything grow faster than their number?

`python -m bench growth`. Real processes on a real PostgreSQL, all roles of one group. Each round runs every size twice:
at rest (leases of an hour: start, memory, reads, health, stop) and at work (leases as long as keep the database idle
most of the time; each role is renewed at least once, and at least 100 renewals are counted). Only the agent's own
process is measured: the database's time is in the seconds to ready and to the end, and nowhere else. Figures are the
medians of the rounds; the last column, which alone is a claim, is that of 1,000 roles to that of 10, per role or
renewal. Linux only (/proc).
"""

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle, islice

import psycopg

from agent import log
from agent.clock import SystemClock
from agent.config.model import Duration, PostgreSQL, Role
from agent.dev import database
from agent.engines import postgres
from bench.estate import Agent, Connection, Sample, Scene, configuration, role_name, scene
from bench.many import per_lease

SIZES = (10, 100, 1000)
ROUNDS = 3
TTLS = {10: 6, 100: 30, 1000: 90}
"""Seconds: between 3 and 20 renewals a second, of which the database makes hundreds."""

RENEWALS = 100
REST = 10.0
"""Seconds in which nothing is due: what the agent uses then is taken off what it uses at work."""

PATIENT = 'stop_timeout = "110s"'
"""To revoke a thousand users takes half of the default on an idle machine, and more on a busy one."""

READS = 5000
MANY = 10_000
EXPIRED = 2000


@dataclass(frozen=True, kw_only=True)
class Rest:
    """An agent whose leases are an hour long.

    Attributes:
        ready: seconds from exec until every role was published and verified.
        first: once it is ready.
        idle: share of a CPU it uses then.
        reads: per second, over one connection, role after role; and
        read_cpu: seconds of CPU per read.
        health: seconds for one report on all roles.
        stop: seconds until every user was revoked and the process gone.
    """

    ready: float
    first: Sample
    idle: float
    reads: float
    read_cpu: float
    health: float
    stop: float


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one size cost in one round: at rest, and in seconds of CPU per renewal."""

    rest: Rest
    renewal: float


def _ready(agent: Agent) -> float:
    began = time.monotonic()
    agent.until(lambda: agent.ask("/readyz")[0] == 200, "ready")
    return time.monotonic() - began


def _read(agent: Agent, roles: int) -> float:
    """Reads per second, each of another role."""
    connection = Connection(agent.socket)
    targets = [f"/v1/{role_name(number)}" for number in range(roles)]
    began = time.monotonic()
    for target in islice(cycle(targets), READS):
        status, _ = connection.ask(target)
        if status != 200:
            raise RuntimeError(f"{target} answers {status}")
    took = time.monotonic() - began
    connection.close()
    return READS / took


def _at_rest(at: Scene, roles: int) -> Rest:
    with Agent(at, configuration(at, roles=roles, ttl="1h", max_ttl="24h", agent=PATIENT)) as agent:
        ready = _ready(agent)
        first = agent.sample()
        time.sleep(REST)
        second = agent.sample()
        reads = _read(agent, roles)
        third = agent.sample()
        began = time.monotonic()
        agent.ask("/v1/sys/health")
        health = time.monotonic() - began
        return Rest(
            ready=ready,
            first=first,
            idle=(second.cpu - first.cpu) / REST,
            reads=reads,
            read_cpu=(third.cpu - second.cpu) / READS,
            health=health,
            stop=agent.stop(),
        )


def _at_work(at: Scene, roles: int, idle: float) -> float:
    """Seconds of CPU per renewal, less what the agent would have used at rest."""
    wanted = max(roles, RENEWALS)
    with Agent(at, configuration(at, roles=roles, ttl=f"{TTLS[roles]}s", max_ttl="24h", agent=PATIENT)) as agent:
        _ready(agent)
        renewed, before, began = agent.logged("renewed"), agent.sample(), time.monotonic()
        agent.until(lambda: agent.logged("renewed") - renewed >= wanted, "renewing", every=0.5)
        counted, after, took = agent.logged("renewed") - renewed, agent.sample(), time.monotonic() - began
        if wrong := [event for event in ("renew-failed", "issue-failed", "expired") if agent.logged(event)]:
            raise RuntimeError(f"{roles} roles: {', '.join(wrong)}: the machine is too busy to measure on")
        agent.stop()
    return (after.cpu - before.cpu - idle * took) / counted


# -- the sweep -------------------------------------------------------------------------------------------------------


async def _sweep(at: Scene) -> list[tuple[float, int]]:
    """How long each sweep took that it needed for 2,000 expired leases, and how many it ended."""
    server = at.prepared.cluster
    config = PostgreSQL(
        host=server.host,
        port=server.port,
        dbname=database.DATABASE,
        user=database.ADMIN,
        password_file=str(at.prepared.admin_password_file),
        sslmode="disable",
    )
    role = Role(upstream="postgresql", group=database.GROUP, default_ttl=Duration(3600.0))
    engine = postgres.build("postgresql", config, {"r": role}, holder="bench", incarnation=1, clock=SystemClock())
    for _ in range(EXPIRED // 100):
        await asyncio.gather(*(engine.issue("r", str(uuid.uuid4())) for _ in range(100)))
    with psycopg.connect(server.conninfo(database.DATABASE)) as session:
        session.execute("UPDATE leasehold.lease SET expires = clock_timestamp() WHERE revoked_at IS NULL")
    sweeps: list[tuple[float, int]] = []
    while sum(reaped for _, reaped in sweeps) < EXPIRED:
        began = time.monotonic()
        swept = await engine.sweep()
        sweeps.append((time.monotonic() - began, swept.reaped))
        if not swept.reaped:
            raise RuntimeError(f"the sweep ends nothing: {swept.failed[:1]}")
    await engine.close()
    return sweeps


# -- the table -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row: a figure per size, and how it grew from 10 to 1,000."""

    name: str
    figures: tuple[float, ...]

    def __str__(self) -> str:
        ratio = self.figures[-1] / self.figures[0] if self.figures[0] > 0 else float("nan")
        return f"{self.name:48}" + "".join(f"{figure:10.2f}" for figure in self.figures) + f"{ratio:12.2f}"


def _memory(costs: dict[int, list[Cost]], alone: float) -> tuple[float, ...]:
    """KiB per lease, over what an agent with one role holds."""
    sizes = {size: statistics.median(cost.rest.first.pss for cost in costs[size]) for size in SIZES}
    return tuple((sizes[size] - alone) * 1024 / (size - 1) for size in SIZES)


def _lines(costs: dict[int, list[Cost]], alone: float) -> list[Line]:
    def per(name: str, pick: Callable[[Cost, int], float]) -> Line:
        return Line(
            name=name,
            figures=tuple(statistics.median(pick(cost, size) for cost in costs[size]) for size in SIZES),
        )

    return [
        per("CPU per renewal, ms", lambda cost, _: cost.renewal * 1e3),
        Line(name="memory per lease, KiB", figures=_memory(costs, alone)),
        per("exec to all ready, ms per role", lambda cost, size: cost.rest.ready / size * 1e3),
        per("CPU until then, ms per role", lambda cost, size: cost.rest.first.cpu / size * 1e3),
        per("stop, all revoked, ms per role", lambda cost, size: cost.rest.stop / size * 1e3),
        per("CPU per read, role after role, µs", lambda cost, _: cost.rest.read_cpu * 1e6),
        per("health report, µs per role", lambda cost, size: cost.rest.health / size * 1e6),
        per("tasks per role", lambda cost, size: cost.rest.first.tasks / size),
        per("-- in all: exec to all ready, s", lambda cost, _: cost.rest.ready),
        per("   PSS, MiB", lambda cost, _: cost.rest.first.pss),
        per("   reads per second, one connection", lambda cost, _: cost.rest.reads),
        per("   CPU while nothing is due, %", lambda cost, _: cost.rest.idle * 100),
        per("   descriptors", lambda cost, _: cost.rest.first.descriptors),
        per("   threads", lambda cost, _: cost.rest.first.threads),
    ]


def show() -> None:
    """Measure, and print the table."""
    costs: dict[int, list[Cost]] = {size: [] for size in SIZES}
    ones: list[float] = []
    with scene() as at:
        for _ in range(ROUNDS):
            ones.append(_at_rest(at, 1).first.pss)
            for size in SIZES:
                rest = _at_rest(at, size)
                costs[size].append(Cost(rest=rest, renewal=_at_work(at, size, rest.idle)))
    print(f"{'roles':48}" + "".join(f"{size:10,}" for size in SIZES) + f"{'1,000 to 10':>12}")
    for line in _lines(costs, statistics.median(ones)):
        print(line)
    print(f"\n{MANY:,} leases in one process, upstream in memory: {per_lease(MANY):.1f} KiB each")
    log.configure(level="error")
    with scene() as at:
        sweeps = asyncio.run(_sweep(at))
    longest, rate = max(took for took, _ in sweeps), EXPIRED / sum(took for took, _ in sweeps)
    print(f"{EXPIRED:,} expired leases: {len(sweeps)} sweeps of {longest:.1f} s at most, {rate:.0f} leases a second")
