"""Everything that is counted beyond the listeners, gathered when somebody scrapes: see agent.catalogue.

Upstream calls are counted as they end; the rest is read from where it lives. Gathering reads and awaits nothing.
"""

import asyncio
import platform
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from agent import __version__, catalogue, errors, standing
from agent.api.health import Probes
from agent.certificates import Certificates
from agent.clock import Clock
from agent.config.model import Config, Role
from agent.leases.cache import LeaseCache, Phase
from agent.leases.held import Held
from agent.leases.observed import INCONCLUSIVE, NO_ANSWER, OK, Call, Operation
from agent.leases.session import key_of
from agent.meters import Family, Histogram, Metric, Peak, Tally
from agent.parts import Parts
from agent.translate import certificates_of, logins_of, policy_of

BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a local database's answer to the longest call there is."""

_PULSE = 1.0
_LAG_WINDOW = 60.0
_ENDED = ("MaxTtlReached", "NotRenewable")  # a renewal so answered has not failed: the lease is replaced
_OTHER = "Other"
_COUNTED: dict[Operation, tuple[Metric, tuple[str, ...]]] = {
    Operation.ISSUE: (catalogue.ISSUES, ("ok", "failed")),
    Operation.RENEW: (catalogue.RENEWALS, ("ok", "failed", "ended")),
    Operation.VERIFY: (catalogue.VERIFICATIONS, ("ok", "failed", "inconclusive")),
    Operation.REVOKE: (catalogue.REVOCATIONS, ("ok", "failed")),
    Operation.LOOK: (catalogue.LOOKS, ("ok", "failed")),
}
_POLLED = ("kv", "static")
_STATES = ("published", "draining", "doomed")


def _kinds() -> frozenset[str]:
    kinds = [errors.UpstreamError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return frozenset({*(kind.__name__ for kind in kinds), errors.CredentialRefused.__name__, NO_ANSWER})


class CallMeter:
    """Counts and times the calls of upstreams.

    Args:
        config: its roles and upstreams are counted from zero on.
    """

    def __init__(self, config: Config) -> None:
        roles = {
            operation: [(name, role.upstream) for name, role in config.role.items() if _made(role, operation)]
            for operation in Operation
        }
        for operation in (Operation.ISSUE, Operation.RENEW, Operation.REVOKE):
            roles[operation] += [(key_of(name), name) for name in logins_of(config)]
        self._kinds = _kinds()
        self._counts = {
            operation: Tally(metric, known=((*role, outcome) for role in roles[operation] for outcome in outcomes))
            for operation, (metric, outcomes) in _COUNTED.items()
        }
        calls = sorted({(upstream, operation.value) for operation in Operation for _, upstream in roles[operation]})
        self._errors = Tally(catalogue.ERRORS, known=((*c, kind) for c in calls for kind in sorted(self._kinds)))
        self._took = Histogram(catalogue.DURATION, BOUNDS, known=calls)

    def called(self, call: Call) -> None:
        """One call has ended."""
        outcome = _outcome(call)
        self._counts[call.operation].add(call.role, call.upstream, outcome)
        self._took.observe(call.took, call.upstream, call.operation)
        if outcome == "failed":
            kind = call.outcome if call.outcome in self._kinds else _OTHER
            self._errors.add(call.upstream, call.operation, kind)

    def families(self) -> Iterator[Family]:
        """All counts."""
        for tally in self._counts.values():
            yield tally.family()
        yield self._errors.family()
        yield self._took.family()


def _made(role: Role, operation: Operation) -> bool:
    """Whether such calls are made for `role`."""
    polled = role.kind in _POLLED
    return operation is Operation.VERIFY or (operation is Operation.LOOK) == polled


def _outcome(call: Call) -> str:
    if call.outcome == OK:
        return "ok"
    if call.outcome == INCONCLUSIVE:
        return "inconclusive"
    return "ended" if call.operation is Operation.RENEW and call.outcome in _ENDED else "failed"


class Vitals:
    """How the process itself is doing: whether its timers come in time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lag = Peak(_LAG_WINDOW)
        self._jumps = 0

    def jumped(self) -> None:
        """The dial ran ahead of the timers."""
        self._jumps += 1

    async def pulse(self) -> None:
        """Measure, for ever, how late a timer of one second comes."""
        while True:
            due_at = self._clock.now() + _PULSE
            await self._clock.sleep(_PULSE)
            now = self._clock.now()
            self._lag.note(max(0.0, now - due_at), now)

    def families(self) -> Iterator[Family]:
        """The same, as metrics."""
        yield catalogue.BUILD.of([((__version__, platform.python_version()), 1)])
        yield catalogue.CLOCK_JUMPS.being(self._jumps)
        yield catalogue.LOOP_LAG.being(self._lag.largest(self._clock.now()))


class Measures:
    """Gathers what the agent's parts have to say of themselves.

    Attributes:
        calls: to be told of every call of an upstream.
        vitals: to be told of every jump of the dial.
    """

    def __init__(self, config: Config, *, cache: LeaseCache, parts: Parts, clock: Clock) -> None:
        self.calls = CallMeter(config)
        self.vitals = Vitals(clock)
        self._certificates = Certificates(certificates_of(config), clock)
        self._policies = {name: policy_of(role) for name, role in config.role.items()}
        self._leased = {name for name, role in config.role.items() if role.kind not in _POLLED}
        self._cache = cache
        self._parts = parts
        self._clock = clock

    @property
    def degraded(self) -> bool:
        """Whether an upstream cannot be reached, a role or a file fails; credentials may still be served (R003-111)."""
        failing = (Phase.STALE, Phase.FAILING)
        files = self._parts.file_states()
        return (
            standing.failing(self._parts.clusters)
            or any(circuit.state == "open" for circuit in self._parts.circuits.values())
            or any(self._cache.status(role).phase in failing for role in self._cache.roles)
            or any(file.state == "failed" for file in files)
        )

    def put_to_work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """A task for everything that must be looked at."""
        return [
            group.create_task(self.vitals.pulse(), name="pulse"),
            group.create_task(self._certificates.run(), name="certificates"),
        ]

    def summary(self) -> str:
        """One line on how the agent is, for people."""
        now = self._clock.now()
        served = sum(1 for role in self._cache.roles if self._cache.read(role, now))
        return f"{served} of {len(self._cache.roles)} roles served{', degraded' if self.degraded else ''}"

    @property
    def stuck(self) -> float:
        """Seconds by which the slowest Renewer is late for its own next step."""
        now = self._clock.now()
        return max((renewer.overdue(now) for renewer in self._parts.keepers.values()), default=0.0)

    def families(self, probes: Probes) -> Iterator[Family]:
        """Everything."""
        asked = (probes.started, probes.ready, probes.live, probes.degraded)
        told = (catalogue.STARTED, catalogue.READY, catalogue.LIVE, catalogue.DEGRADED)
        for metric, holds in zip(told, asked, strict=True):
            yield metric.being(holds())
        yield from self._roles()
        yield from self._published()
        yield from self._held()
        yield from self._upstreams()
        yield from self._files()
        yield from self.calls.families()
        yield from self.vitals.families()

    def _roles(self) -> Iterator[Family]:
        cache, now = self._cache, self._clock.now()
        statuses = {role: cache.status(role) for role in cache.roles}
        yield catalogue.PHASE.of(
            ((role, phase.value), status.phase is phase) for role, status in statuses.items() for phase in Phase
        )
        yield catalogue.FAILURES.of(((role,), status.failures) for role, status in statuses.items())
        keepers = self._parts.keepers
        yield catalogue.OVERDUE.of(((role,), renewer.overdue(now)) for role, renewer in keepers.items())
        counts = {role: cache.counts(role) for role in cache.roles}
        yield catalogue.EXPIRED.of(((role,), count.expired) for role, count in counts.items())
        yield catalogue.REPLACEMENTS.of(((role,), max(0, count.published - 1)) for role, count in counts.items())

    def _published(self) -> Iterator[Family]:
        now = self._clock.now()
        found = {role: self._cache.read(role, now) for role in self._cache.roles}
        served = {role: snapshot for role, snapshot in found.items() if snapshot is not None}
        yield catalogue.REMAINING.of(((role,), one.remaining(now)) for role, one in served.items())
        yield catalogue.TTL.of(((role,), one.lease.last.ttl) for role, one in served.items())
        yield catalogue.OVERLAP.of(
            ((role,), self._policies[role].overlap_of(one.lease))
            for role, one in served.items()
            if role in self._leased  # the others have no end that a replacement must come before
        )
        yield catalogue.GENERATION.of(((role,), one.generation) for role, one in served.items())
        yield catalogue.VERIFIED.of(((role,), one.verified) for role, one in served.items())

    def _held(self) -> Iterator[Family]:
        now = self._clock.now()
        held = {role: renewer.held() for role, renewer in self._parts.keepers.items()}
        states = {role: Counter(each.state for each in leases) for role, leases in held.items()}
        yield catalogue.LEASES.of(((role, state), count[state]) for role, count in states.items() for state in _STATES)
        yield catalogue.UNREVOKED.of(((role,), _unrevoked(leases, now)) for role, leases in held.items())

    def _upstreams(self) -> Iterator[Family]:
        circuits = self._parts.circuits
        yield from standing.families(self._parts.clusters, self._clock.now())
        yield catalogue.CIRCUIT_OPEN.of(((name,), circuit.state == "open") for name, circuit in circuits.items())
        yield catalogue.CERTIFICATE.of(self._certificates.ends.items())
        sweeps = {name: sweeper.sweeps for name, sweeper in self._parts.sweepers.items()}
        yield catalogue.SWEEPS.of(
            ((name, outcome), count)
            for name, each in sweeps.items()
            for outcome, count in (("ok", each.done), ("failed", each.failed))
        )
        yield catalogue.REAPED.of(((name,), each.reaped) for name, each in sweeps.items())
        yield catalogue.UNENDED.of(((name,), each.unended) for name, each in sweeps.items())
        yield catalogue.STRANGERS.of(((name,), each.strangers) for name, each in sweeps.items())
        yield catalogue.JOURNAL.of(
            ((name, tally.role, state), count)
            for name, sweeper in self._parts.sweepers.items()
            for tally in sweeper.tallies
            if tally.role in self._policies  # a journal may hold roles of other agents, as many as they like
            for state, count in (("active", tally.active), ("overdue", tally.overdue))
        )

    def upstreams(self) -> list[dict[str, Any]]:
        """How each upstream is doing, for JSON."""
        now, clusters = self._clock.now(), self._parts.clusters
        return [
            {"name": name, "circuit": circuit.state, "healthy": circuit.state == "closed"}
            | (standing.login_of(clusters[name], now) if name in clusters else {})
            for name, circuit in self._parts.circuits.items()
        ]

    def _files(self) -> Iterator[Family]:
        counts = [] if self._parts.files is None else self._parts.files.counts()
        yield catalogue.RENDERS.of(
            ((path, outcome), count)
            for path, rendered, failed in counts
            for outcome, count in (("ok", rendered), ("failed", failed))
        )
        states = self._parts.file_states()
        yield catalogue.FILE_FAILED.of(((file.path,), file.state == "failed") for file in states)


def _unrevoked(leases: Iterable[Held], now: float) -> int:
    return sum(1 for each in leases if each.tried or each.expires_at <= now)
