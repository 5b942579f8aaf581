"""The cleanup of one upstream's journal: expired leases are reaped, ours and those of agents that are no more."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent import log
from agent.clock import Clock
from agent.errors import UpstreamError
from agent.leases.circuit import Circuit
from agent.leases.schedule import CALL_DEADLINE
from agent.log import Event

if TYPE_CHECKING:  # psycopg is imported only after the socket listens
    from agent.engines.postgres import PostgresEngine, Row, Swept
    from agent.engines.postgres.journal import Tally

_log = log.get(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """What all sweeps of this run have come to.

    Attributes:
        done, failed: sweeps that ended, and that did not: the server could not be asked.
        reaped: expired leases that they ended.
        unended: expired leases that the newest one left; and
        strangers: members of the marker group that it found without a live row.
    """

    done: int = 0
    failed: int = 0
    reaped: int = 0
    unended: int = 0
    strangers: int = 0


class Sweeper:
    """Sweeps `engine` every `interval` seconds, through its circuit.

    Attributes:
        sweeps: what they have come to.
        tallies: how many leases of each role the newest one has found, whoever holds them.
        swept_at: dial instant of that one, −inf before the first.

    Args:
        expired: told the ids of all leases that have ended by the server's clock and still had their user.
        ended: told of those that a sweep has ended, whoever held them.
        warn_beyond: says of a role how many leases of it are a matter of course; 0 where any number is.
    """

    def __init__(
        self,
        name: str,
        engine: "PostgresEngine",
        circuit: Circuit,
        clock: Clock,
        interval: float,
        *,
        expired: Callable[[frozenset[str]], None],
        ended: "Callable[[str, Sequence[Row]], None]" = lambda name, rows: None,
        warn_beyond: Callable[[str], int] = lambda role: 0,
    ) -> None:
        self.name = name
        self.sweeps = Sweeps()
        self._engine = engine
        self._circuit = circuit
        self._clock = clock
        self._interval = interval
        self._expired = expired
        self._ended = ended
        self._warn_beyond = warn_beyond
        self._piled: frozenset[str] = frozenset()
        self.tallies: tuple[Tally, ...] = ()
        self.swept_at = -math.inf
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Sweep for ever; a sweep that fails is said, and the next one comes as ever."""
        while True:
            await self._clock.sleep(self._interval)
            try:
                async with self._circuit.turn(), self._clock.timeout(CALL_DEADLINE):
                    swept = await self._engine.sweep()
            except TimeoutError:
                self.sweeps = replace(self.sweeps, failed=self.sweeps.failed + 1)
                _log.warning(Event.SWEEP_FAILED, upstream=self.name, error=f"no answer within {CALL_DEADLINE:.0f} s")
            except UpstreamError as error:
                self.sweeps = replace(self.sweeps, failed=self.sweeps.failed + 1)
                _log.warning(Event.SWEEP_FAILED, upstream=self.name, error=str(error))
            else:
                self._tell(swept)

    def _tell(self, swept: "Swept") -> None:
        self.sweeps = replace(
            self.sweeps,
            done=self.sweeps.done + 1,
            reaped=self.sweeps.reaped + swept.reaped,
            unended=max(0, swept.due - swept.reaped),
            strangers=swept.strangers,
        )
        self.tallies, self.swept_at = swept.tallies, self._clock.now()
        self._tell_piles()
        if swept.ended:
            self._ended(self.name, swept.ended)
        failed = frozenset(swept.failed)
        for line in sorted(failed - self._told):  # once each, not every ten seconds
            _log.warning(Event.SWEEP_FAILED, upstream=self.name, error=line)
        self._told = failed
        if swept.expired:
            self._expired(swept.expired)
        if swept.reaped:
            _log.info(Event.SWEPT, upstream=self.name, count=swept.reaped)

    def _tell_piles(self) -> None:
        """Name each role whose leases pile up, once until they are down by a tenth (R000-035, R003-091)."""
        piled = set()
        for each in self.tallies:
            most, found = self._warn_beyond(each.role), max(each.active, each.overdue)
            if not most or found <= (most if each.role not in self._piled else 0.9 * most):
                continue
            piled.add(each.role)
            if each.role not in self._piled:
                kind = "live" if each.active >= each.overdue else "have ended and keep their users"
                _log.warning(
                    Event.LEASES_PILE_UP,
                    upstream=self.name,
                    role=each.role,
                    count=found,
                    reason=f"{kind}; `leasehold leases --group-by owner --everyone` says whose",
                )
        self._piled = frozenset(piled)
