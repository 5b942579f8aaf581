"""What is counted of calls and read from parts; and what liveness and degradation hang on."""

import asyncio
import socket

import pytest
from attrs import evolve

from agent import catalogue
from agent.api.health import Probes
from agent.app import App
from agent.clock import SystemClock
from agent.config.model import Agent, Config, Duration, HealthListener, Listener, PostgreSQL, Role
from agent.engines.postgres.journal import Tally
from agent.engines.postgres.sweeping import Swept
from agent.errors import Unavailable
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from agent.leases.circuit import Circuit
from agent.leases.observed import INCONCLUSIVE, NO_ANSWER, OK, Call, Operation
from agent.leases.renewer import Renewer
from agent.leases.schedule import Policy
from agent.measures import CallMeter, Measures, Vitals
from agent.meters import Distribution, Labels
from agent.parts import Parts
from agent.sweeper import Sweeper
from agent.translate import certificates_of
from tests.fakes import FakeClock, FakeEngine, settle
from tests.unit.leases.builders import lease

ROLE, LAZY = "database/creds/app", "database/creds/lazy"
UPSTREAM = "postgresql"
SERVER = PostgreSQL(host="127.0.0.1", port=9, dbname="d", user="u", sslmode="disable")
CONFIG = Config(
    agent=Agent(stop_timeout=Duration(2.0)),
    postgresql={UPSTREAM: SERVER},
    role={
        ROLE: Role(upstream=UPSTREAM, group="g"),
        LAZY: Role(upstream=UPSTREAM, group="g", lazy=True, required=False),
    },
)
PROBES = Probes(
    started=lambda: True, ready=lambda: False, live=lambda: True, degraded=lambda: True, files=list, upstreams=list
)


def call(operation: Operation, outcome: str = OK, *, role: str = ROLE, took: float = 0.02) -> Call:
    """A call that has ended."""
    return Call(role=role, upstream=UPSTREAM, operation=operation, outcome=outcome, took=took)


def counted(meter: CallMeter, name: str) -> dict[Labels, float | Distribution]:
    """What moved."""
    rows = next(family.rows for family in meter.families() if family.metric.name == f"leasehold_{name}")
    return {labels: value for labels, value in rows if value}


@pytest.mark.parametrize(
    ("operation", "said", "outcome"),
    [
        (Operation.ISSUE, OK, "ok"),
        (Operation.ISSUE, "Unavailable", "failed"),
        (Operation.ISSUE, NO_ANSWER, "failed"),
        (Operation.ISSUE, "NotRenewable", "failed"),
        (Operation.RENEW, "MaxTtlReached", "ended"),
        (Operation.RENEW, "NotRenewable", "ended"),
        (Operation.RENEW, "LeaseGone", "failed"),
        (Operation.VERIFY, INCONCLUSIVE, "inconclusive"),
        (Operation.VERIFY, "CredentialRefused", "failed"),
        (Operation.REVOKE, "Forbidden", "failed"),
    ],
)
def test_a_call_has_one_of_few_outcomes_and_a_failure_its_kind(operation: Operation, said: str, outcome: str) -> None:
    """R003-084: a lease at its max TTL is no failed renewal."""
    meter = CallMeter(CONFIG)
    before = {family.metric: {labels for labels, _ in family.rows} for family in meter.families()}

    meter.called(call(operation, said))

    name = {"issue": "issues", "renew": "renewals", "verify": "verifications", "revoke": "revocations"}[operation]
    assert counted(meter, f"{name}_total") == {(ROLE, UPSTREAM, outcome): 1}
    kinds = {(UPSTREAM, operation.value, said): 1} if outcome == "failed" else {}
    assert counted(meter, "upstream_errors_total") == kinds
    after = {family.metric: {labels for labels, _ in family.rows} for family in meter.families()}
    assert after == before, "every series was there from the start, at zero"


def test_an_error_that_nobody_foresaw_makes_no_label_of_its_own() -> None:
    meter = CallMeter(CONFIG)

    for kind in ("KeyError", "ZeroDivisionError"):
        meter.called(call(Operation.ISSUE, kind))

    assert counted(meter, "upstream_errors_total") == {(UPSTREAM, "issue", "Other"): 2}


def test_calls_are_timed_by_upstream_and_operation() -> None:
    """R003-085."""
    meter = CallMeter(CONFIG)

    for took in (0.004, 0.2, 30.0):
        meter.called(call(Operation.RENEW, took=took))

    seen = counted(meter, "upstream_call_duration_seconds")[UPSTREAM, "renew"]
    assert isinstance(seen, Distribution)
    assert (dict(seen.buckets)[0.005], dict(seen.buckets)[0.25], dict(seen.buckets)[float("inf")]) == (1, 2, 3)


class Scene:
    """Measures over parts put together by hand."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.cache = LeaseCache(CONFIG.role)
        self.circuit = Circuit(UPSTREAM)
        self.engine = FakeEngine(clock, ttl=60)
        self.renewer = Renewer(ROLE, engine=self.engine, cache=self.cache, policy=Policy(), clock=clock)
        self.parts = Parts(circuits={UPSTREAM: self.circuit}, renewers={ROLE: self.renewer})
        self.measures = Measures(CONFIG, cache=self.cache, parts=self.parts, clock=clock)

    def value(self, name: str, *labels: str) -> object:
        """One value; None where there is none."""
        families = {family.metric.name: dict(family.rows) for family in self.measures.families(PROBES)}
        return families[f"leasehold_{name}"].get(labels)


async def test_the_gauge_of_leases_is_as_long_as_the_list(clock: FakeClock) -> None:
    """R003-086; and R002-015: the exposure is what is left of the published one."""
    scene = Scene(clock)
    running = asyncio.ensure_future(scene.renewer.run())
    await clock.advance(10)
    scene.renewer.replace()
    await settle()

    held = scene.renewer.held()
    assert [scene.value("leases", ROLE, state) for state in ("published", "draining", "doomed")] == [1, 1, 0]
    assert len(held) == 2
    assert scene.value("lease_remaining_seconds", ROLE) == 60.0
    assert scene.value("lease_overlap_seconds", ROLE) == 15.0
    assert scene.value("lease_remaining_seconds", LAZY) is None
    assert scene.value("replacements_total", ROLE) == 1
    assert scene.measures.summary() == "1 of 2 roles served"
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def test_what_nobody_leases_is_looked_at_and_has_no_overlap(clock: FakeClock) -> None:
    """An alert compares what is left with the overlap: a kv is always about to be looked at."""
    config = Config(
        postgresql={UPSTREAM: SERVER},
        role={ROLE: Role(upstream=UPSTREAM, group="g"), "secret/data/app": Role(upstream="vault", kind="kv")},
    )
    cache = LeaseCache(config.role)
    measures = Measures(config, cache=cache, parts=Parts(), clock=clock)
    for role in config.role:
        given = lease(ttl=60, at=clock.now())
        cache.publish(role, given, until=clock.now() + 50, verified=True, now=clock.now(), wall=clock.wall())
    look = Call(role="secret/data/app", upstream="vault", operation=Operation.LOOK, outcome="Forbidden", took=0.1)

    measures.calls.called(look)

    families = {family.metric.name: dict(family.rows) for family in measures.families(PROBES)}
    assert set(families["leasehold_lease_remaining_seconds"]) == {(ROLE,), ("secret/data/app",)}
    assert set(families["leasehold_lease_overlap_seconds"]) == {(ROLE,)}
    assert families["leasehold_looks_total"] == {
        ("secret/data/app", "vault", "ok"): 0,
        ("secret/data/app", "vault", "failed"): 1,
    }
    assert {labels[0] for labels in families["leasehold_issues_total"]} == {ROLE}
    assert families["leasehold_upstream_errors_total"]["vault", "look", "Forbidden"] == 1


async def test_a_renewer_that_sleeps_on_is_stuck(clock: FakeClock) -> None:
    """R003-110."""
    scene = Scene(clock)
    running = asyncio.ensure_future(scene.renewer.run())
    await settle()
    assert scene.measures.stuck == 0.0

    clock.suspend(1000)

    assert scene.measures.stuck > 900
    assert scene.value("renewer_overdue_seconds", ROLE) == scene.measures.stuck
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("phase", "degraded"),
    [(Phase.FRESH, False), (Phase.STARTING, False), (Phase.IDLE, False), (Phase.STALE, True), (Phase.FAILING, True)],
)
def test_a_role_that_fails_degrades_the_agent(clock: FakeClock, phase: Phase, degraded: bool) -> None:
    scene = Scene(clock)

    scene.cache.report(LAZY, RoleStatus(phase=phase))

    assert scene.measures.degraded is degraded
    assert scene.value("role_phase", LAZY, phase.value) == 1
    assert scene.measures.summary().endswith(", degraded") is degraded


async def test_an_upstream_that_cannot_be_reached_degrades_the_agent(clock: FakeClock) -> None:
    """R003-111."""
    scene = Scene(clock)

    with pytest.raises(TimeoutError):
        async with scene.circuit.turn():
            raise TimeoutError

    assert scene.measures.degraded
    assert scene.value("circuit_open", UPSTREAM) == 1
    async with scene.circuit.turn():
        pass
    assert not scene.measures.degraded


class FakeJournal:
    """An engine whose sweeps find what a test wants."""

    def __init__(self) -> None:
        self.found: Swept | Exception = Swept(reaped=0, failed=(), strangers=0)

    async def sweep(self) -> Swept:
        """See PostgresEngine."""
        if isinstance(self.found, Exception):
            raise self.found
        return self.found


async def test_what_sweeps_find_is_told_of_our_own_roles_alone(clock: FakeClock) -> None:
    """R003-091; a journal may be full of other agents' roles, and each would be a series."""
    scene, journal = Scene(clock), FakeJournal()
    sweeper = Sweeper(
        UPSTREAM,
        journal,  # type: ignore[arg-type]
        scene.circuit,
        clock,
        10.0,
        expired=lambda ids: None,
    )
    scene.parts.sweepers[UPSTREAM] = sweeper
    running = asyncio.ensure_future(sweeper.run())
    tallies = (Tally(role=ROLE, active=3, overdue=2), Tally(role="database/creds/theirs", active=9))

    journal.found = Swept(reaped=1, failed=("one",), strangers=4, due=3, tallies=tallies)
    await clock.advance(20)
    journal.found = Unavailable("away", unreachable=True)
    await clock.advance(10)

    assert [scene.value("sweeps_total", UPSTREAM, outcome) for outcome in ("ok", "failed")] == [2, 1]
    assert scene.value("leases_reaped_total", UPSTREAM) == 2
    assert scene.value("leases_unended", UPSTREAM) == 2
    assert scene.value("strangers", UPSTREAM) == 4
    assert [scene.value("journal_leases", UPSTREAM, ROLE, state) for state in ("active", "overdue")] == [3, 2]
    assert scene.value("journal_leases", UPSTREAM, "database/creds/theirs", "active") is None
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_late_timer_is_the_loops_lag(clock: FakeClock) -> None:
    vitals = Vitals(clock)
    beating = asyncio.ensure_future(vitals.pulse())
    await clock.advance(5)
    before = {family.metric: family.rows for family in vitals.families()}[catalogue.LOOP_LAG]

    clock.suspend(3.5)
    await clock.advance(1)

    assert before == (((), 0.0),)
    after = {family.metric: family.rows for family in vitals.families()}[catalogue.LOOP_LAG]
    assert after[0][1] == pytest.approx(2.5)
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


def test_the_certificates_to_watch_are_those_in_files() -> None:
    """R003-098; the system's authorities are the system's business."""
    config = evolve(
        CONFIG,
        postgresql={
            "postgresql.a": evolve(SERVER, sslcert="/c", sslkey="/k", sslrootcert="/r"),
            "postgresql.b": evolve(SERVER, sslrootcert="system"),
        },
    )

    assert certificates_of(config) == {("postgresql.a", "sslcert"): "/c", ("postgresql.a", "sslrootcert"): "/r"}


async def test_the_health_port_is_closed_when_the_run_has_ended() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = int(sock.getsockname()[1])
    listener = Listener(health=HealthListener(address=f"127.0.0.1:{port}"))
    app, stop = App(evolve(CONFIG, listener=listener), clock=SystemClock()), asyncio.Event()
    running = asyncio.create_task(app.run(stop))
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
            else:
                break
        stop.set()
        await running

    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
