"""Making a change to an ending user's role stick, although the user, or somebody else, holds the role.

A role is held by a transaction that has changed it and not ended. An open one of the user's ends with its sessions; a
prepared one has none, and is rolled back where it is the user's or that of a group it is in (docs/adr/0006). What
neither helps against is named.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import psycopg

from agent import log
from agent.clock import Clock
from agent.config.model import PostgreSQL
from agent.engines.postgres import prepared, users
from agent.engines.postgres.connections import Connection, Connections, transaction
from agent.engines.postgres.errors import Refused
from agent.engines.postgres.heirs import lent
from agent.engines.postgres.journal import Journal, Row
from agent.engines.postgres.prepared import InTheWay
from agent.engines.postgres.users import User
from agent.errors import Forbidden, Unavailable, UpstreamError
from agent.log import Event

_log = log.get(__name__)
# A sweep has other leases to end, and comes again soon.
_PATIENCE = 5.0
_PATIENCE_REAPING = 1.0
_LOCK_WAIT = 0.5
_HELD_UP = {"55P03", "XX000"}  # XX000: the row was changed while we waited for it

Change = Callable[[Connection, str], Awaitable[None]]
"""One statement on the role of that name."""


async def guarded(conn: Connection, row: Row, config: PostgreSQL, where: str) -> User | None:
    """The lease's user, if there is one and it is ours to end.

    Raises:
        Refused: it is not.
    """
    user = await users.look(conn, row.username, config.marker_group)
    if user is not None and (user.superuser or not user.marked):
        raise Refused(
            Forbidden(
                f"{where}: its user was made a superuser or taken out of {config.marker_group}: it is not touched; "
                "look at it and drop it by hand"
            )
        )
    return user


class Sticking:
    """Changes roles of one journal's users."""

    def __init__(
        self,
        config: PostgreSQL,
        *,
        upstream: str,
        journal: Journal,
        connections: Connections,
        clock: Clock,
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._journal = journal
        self._connections = connections
        self._clock = clock

    async def stick(self, conn: Connection, row: Row, change: Change, where: str, so_far: str, *, reap: bool) -> bool:
        """Make the change under the row's lock, by itself; False if another has ended the lease, or (reaping) is at it.

        Args:
            so_far: how things are with the user while the change is not made; for messages.

        Raises:
            Refused: what is in the way.
        """
        end = self._clock.now() + (_PATIENCE_REAPING if reap else _PATIENCE)
        seen: InTheWay | None = None
        freed = False
        while True:
            try:
                async with self._watching(conn, seen):
                    return await self._changed(conn, row, where, change, reap=reap, by_force=seen is not None)
            except psycopg.DatabaseError as exc:
                if exc.sqlstate not in _HELD_UP or conn.closed:
                    raise
            freed_before = freed
            freed = seen is not None and await self._rolled_back(conn, row, seen, f"{where}: {so_far}")
            # What was set free in the last moment is worth another try; somebody who takes it again and again is not.
            if seen is not None and self._clock.now() > end and (freed_before or not freed):
                await self._give_up(conn, row, seen, f"{where}: {so_far}")
            seen = InTheWay()

    async def _changed(
        self, conn: Connection, row: Row, where: str, change: Change, *, reap: bool, by_force: bool
    ) -> bool:
        async with transaction(conn):
            locked = await self._journal.lock(conn, row.id, skip=reap)
            if locked is None or locked.revoked_at is not None:
                return False
            user = await guarded(conn, row, self._config, where)
            if user is not None:
                await users.wait_at_most(conn, _LOCK_WAIT)
                if by_force:
                    await users.throw_out(conn, row.username, user)
                await change(conn, row.username)
        return True

    async def _give_up(self, conn: Connection, row: Row, seen: InTheWay, where: str) -> None:
        if seen.prepared is None:
            await prepared.none_of(conn, row.username, where, of_roles=True)
        held_by = seen.label or "a transaction that cannot be seen"
        remedy = "COMMIT PREPARED or ROLLBACK PREPARED it as a superuser" if seen.prepared else "end that transaction"
        raise Refused(Unavailable(f"{where}, for its role is held by {held_by}; {remedy}"))

    @contextlib.asynccontextmanager
    async def _watching(self, conn: Connection, seen: InTheWay | None) -> AsyncIterator[None]:
        """While the block runs, note in `seen` what `conn` waits for."""
        if seen is None:
            yield
            return
        watching = asyncio.create_task(self._watch(conn.info.backend_pid, seen), name="watching a lock")
        try:
            yield
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _watch(self, pid: int, seen: InTheWay) -> None:
        # Without a connection of its own, as when the server has none left, what is in the way stays unknown.
        with contextlib.suppress(psycopg.Error, UpstreamError):
            async with self._connections.elsewhere(self._config.dbname) as watcher:
                await prepared.watch(watcher, pid, seen, self._clock)

    async def _rolled_back(self, conn: Connection, row: Row, seen: InTheWay, where: str) -> bool:
        """Whether what was in the way was a prepared transaction of the user or a group of its, and is gone."""
        found = seen.prepared
        if found is None or not found.dbname:
            return False
        try:
            async with self._acting_as(conn, row, found.owner, where) as may:
                if not may:
                    return False
                async with self._connections.elsewhere(found.dbname) as there:
                    await prepared.roll_back(there, found)
        except (psycopg.Error, UpstreamError):
            return False
        said = f"{where}: rolled back prepared transaction {found}, which held its role"
        _log.warning(Event.UPSTREAM, upstream=self._upstream, role=row.role, warning=said)
        return True

    @contextlib.asynccontextmanager
    async def _acting_as(self, conn: Connection, row: Row, owner: str, where: str) -> AsyncIterator[bool]:
        """Let our login act as the user, or as a group that the user's sessions can act as; yields whether it may."""
        if owner != row.username:
            async with lent(conn, owner, user=row.username) as may:
                yield may
            return
        async with transaction(conn):
            user = await guarded(conn, row, self._config, where)
            if user is not None and not user.ours:
                await users.wait_at_most(conn, _LOCK_WAIT)
                await users.take_rights(conn, owner)
        yield True
