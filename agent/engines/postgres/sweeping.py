"""The sweep: it ends what has expired, whoever minted it, within bounds of its own.

A caller that cancelled a sweep would leave it where it stood, and the next would begin with the same leases. So a sweep
takes no new lease after a while, gives none more than its time, and takes those that failed before last.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from agent.clock import Clock
from agent.config.model import PostgreSQL
from agent.engines.postgres.backlog import Backlog
from agent.engines.postgres.connections import Connections
from agent.engines.postgres.ending import Ending
from agent.engines.postgres.errors import translated
from agent.engines.postgres.journal import Journal, Row, Tally
from agent.errors import UpstreamError

# Together well below the ten seconds that a call may take.
_TAKING = 4.0
_PER_LEASE = 4.0


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What a sweep did.

    Attributes:
        reaped: leases that had expired and are ended now.
        failed: one line for each that could not be ended, now or before.
        strangers: roles in the marker group without a live row; they are never touched.
        expired: ids of all leases that had, by the server's clock, and of this holder's that somebody has revoked; a
            Renewer that still serves one is to replace it.
        due: leases that had expired when it began.
        ended: those that it ended, and
        tallies: what the journal holds after it, by role; leases of all holders both.
    """

    reaped: int
    failed: tuple[str, ...]
    strangers: int
    expired: frozenset[str] = field(default=frozenset(), repr=False)
    due: int = 0
    ended: tuple[Row, ...] = field(default=(), repr=False)
    tallies: tuple[Tally, ...] = ()


class Sweeper:
    """Sweeps one journal."""

    def __init__(
        self,
        config: PostgreSQL,
        *,
        where: str,
        journal: Journal,
        connections: Connections,
        ending: Ending,
        clock: Clock,
    ) -> None:
        self._config = config
        self._where = where
        self._journal = journal
        self._connections = connections
        self._ending = ending
        self._clock = clock
        self._backlog = Backlog()

    async def sweep(self) -> Swept:
        """End what has expired, as far as the time goes; the rest is the next sweep's.

        Raises:
            UpstreamError: the server cannot be asked.
        """
        stop_at = self._clock.now() + _TAKING
        with translated(self._where):
            async with self._connections.use() as conn:
                due = await self._journal.due(conn)
        by_id = {row.id: row for row in due}
        ended: list[Row] = []
        for lease_id, role in self._backlog.turn([(row.id, row.role) for row in due], self._clock.now()):
            if self._clock.now() >= stop_at:
                break
            if await self._reap(lease_id, f"{self._where} {role}"):
                ended.append(by_id[lease_id])
        with translated(self._where):
            async with self._connections.use() as conn:
                await self._journal.forget(conn, self._config.journal_retention)
                strangers = await self._journal.strangers(conn, self._config.marker_group)
                taken = await self._journal.taken(conn)
                tallies = await self._journal.tallies(conn)
        failed = Counter(row.role for row in due if row.id in self._backlog)
        return Swept(
            reaped=len(ended),
            failed=self._backlog.lines,
            strangers=strangers,
            expired=frozenset(by_id) | frozenset(taken),
            due=len(due),
            ended=tuple(ended),
            tallies=tuple(replace(each, failed=failed[each.role]) for each in tallies),
        )

    async def _reap(self, lease_id: str, where: str) -> bool:
        """Whether it was ended, by us. A connection of its own, since running out of time closes it."""
        self._backlog.begin(lease_id, self._clock.now())
        self._backlog.explain(lease_id, f"{where}: not ended within {_PER_LEASE:g} s; it is tried again later")
        try:
            async with self._clock.timeout(_PER_LEASE):
                with translated(where):
                    async with self._connections.use() as conn:
                        ended = await self._ending.end(conn, lease_id, where=where, reap=True)
        except TimeoutError:
            return False
        except UpstreamError as exc:
            self._backlog.explain(lease_id, str(exc))
            if exc.unreachable:
                raise
            return False
        self._backlog.ended(lease_id)
        return ended
