"""How a lease's user ends, step by step, so that each step holds whatever happens to the next.

1. Under the row's lock: the lease's end comes forward to now. Committed by itself: whatever the user does to its own
   role, the lease is renewed no more, and every sweep tries again to end it.
2. Under the row's lock again: the user may log in no more. That comes before the next step, or a client that reconnects
   in a loop would be back after every termination. Committed by itself, before our login takes the user's rights: an
   uncommitted GRANT may hold that up. The user can hold the NOLOGIN up by an open transaction that has changed its own
   password: then its sessions end first, again and again until it sticks. Where that transaction is a prepared one, it
   is rolled back (docs/adr/0006).
3. Its sessions are terminated.
4. The role's own revocation statements run, each by itself: one that fails is undone and reported, and ends nothing.
5. Under the row's lock again: what it owns goes to its heir, its rights go, database by database; then the role itself.
   A session of somebody else that holds a lock there is named; it is not ours to end.

A call that dies in between leaves an expired row, which the sweep of any agent takes up. Two callers at once wait for
each other at the row; the later one finds the work done.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import psycopg

from agent import failpoints, log
from agent.clock import Clock
from agent.config.model import PostgreSQL
from agent.engines.postgres import users
from agent.engines.postgres.connections import Connection, Connections, transaction
from agent.engines.postgres.errors import Refused, condition
from agent.engines.postgres.heirs import fit, heir
from agent.engines.postgres.journal import Journal, Row, server_time
from agent.engines.postgres.prepared import none_of
from agent.engines.postgres.recipe import Recipe
from agent.engines.postgres.statements import Values, render
from agent.engines.postgres.sticking import Sticking, guarded
from agent.engines.postgres.users import Dependents, User
from agent.errors import Forbidden, Unavailable
from agent.failpoints import Failpoint
from agent.log import Event

_log = log.get(__name__)
_PATIENCE = 5.0
# Longer than deadlock_timeout, after which an autovacuum that is in the way gives up.
_OBJECT_WAIT = 1.5
# Own statements of a role that hang must not keep its user, nor hold up the end of others: seconds for all of them.
_OWN_TIME = 2.0
_DEFAULT = "the role has no revocation_statements: its users end by the default ones"
_LOOKS = (0.002, 0.005, 0.01, 0.02, 0.05)
_SHUT = "its user can log in no more"


class Ending:
    """Ends leases of one journal."""

    def __init__(
        self,
        config: PostgreSQL,
        *,
        upstream: str,
        journal: Journal,
        connections: Connections,
        recipes: Mapping[str, Recipe],
        clock: Clock,
    ) -> None:
        self._config = config
        self._upstream = upstream
        self._journal = journal
        self._connections = connections
        self._recipes = recipes
        self._clock = clock
        self._sticking = Sticking(config, upstream=upstream, journal=journal, connections=connections, clock=clock)
        self._reported: set[str] = set()
        self._defaulted: set[str] = set()

    async def end(self, conn: Connection, lease_id: str, *, where: str, reap: bool) -> bool:
        """End the lease and its user; False if there was nothing left to do, or (reaping) another is at it.

        Args:
            reap: it is to be ended because it has expired, whoever minted it.

        Raises:
            Refused, CommitFailed, psycopg.Error: see `errors.translated`.
        """
        row = await self._shut(conn, lease_id, where=where, reap=reap)
        if row is None:
            return False
        where = where if reap else f"{where} {row.role}"
        if not await self._sticking.stick(conn, row, users.lock_out, where, "its user can still log in", reap=reap):
            return False
        failpoints.reach(Failpoint.REVOKE_NOLOGIN)
        user = await users.look(conn, row.username, self._config.marker_group)
        if user is not None:
            if not user.ours and not await self._sticking.stick(conn, row, users.take_rights, where, _SHUT, reap=reap):
                return False
            await self._terminate(conn, user, where)
        failpoints.reach(Failpoint.REVOKE_TERMINATED)
        await self._own_statements(conn, row, reap=reap)
        return await self._remove(conn, row, where=where, reap=reap)

    async def _shut(self, conn: Connection, lease_id: str, *, where: str, reap: bool) -> Row | None:
        """Step 1; the row if there is more to do."""
        async with transaction(conn):
            row = await self._journal.lock(conn, lease_id, skip=reap)
            if row is None or row.revoked_at is not None:
                return None
            if row.expires > await server_time(conn):
                if reap:
                    return None
                if not self._journal.mine(row):
                    raise Refused(Forbidden(f"{where} {row.role}: the lease was minted by another agent, and lives"))
            failpoints.reach(Failpoint.REVOKE_LOCKED)
            await guarded(conn, row, self._config, where)
            await self._journal.end(conn, row)
        return row

    async def _terminate(self, conn: Connection, user: User, where: str) -> None:
        """Step 3: returns when no session is left."""
        end = self._clock.now() + _PATIENCE
        looks = 0
        while await users.terminate(conn, user):
            if self._clock.now() > end:
                raise Refused(Unavailable(f"{where}: sessions of its user did not end within {_PATIENCE:g} s"))
            await self._clock.sleep(_LOOKS[min(looks, len(_LOOKS) - 1)])
            looks += 1

    async def _own_statements(self, conn: Connection, row: Row, *, reap: bool) -> None:
        """Step 4."""
        recipe = self._recipes.get(row.role)
        if recipe is None or not recipe.revocation:
            self._say_default(row.role)
            return
        failed: list[str] = []
        async with transaction(conn):
            locked = await self._journal.lock(conn, row.id, skip=reap)
            if locked is None or locked.revoked_at is not None:
                return
            conn.soiled = True
            end = self._clock.now() + _OWN_TIME
            for index, statement in enumerate(recipe.revocation):
                try:
                    await users.run_at_most(conn, end - self._clock.now())
                    async with conn.transaction():  # a savepoint
                        await conn.execute(render(statement, Values(name=row.username), conn))
                except psycopg.DatabaseError as exc:
                    if conn.closed:
                        raise
                    failed.append(f"revocation_statements[{index}]: {condition(exc)}")
            await conn.execute("RESET SESSION AUTHORIZATION")
        self._report(row.role, failed)

    def _say_default(self, role: str) -> None:
        if role not in self._defaulted:
            self._defaulted.add(role)
            _log.info(Event.UPSTREAM, upstream=self._upstream, role=role, reason=_DEFAULT)

    def _report(self, role: str, failed: Sequence[str]) -> None:
        """Say once per role that its own statements fail; the default revocation has done the work."""
        if failed and role not in self._reported:
            self._reported.add(role)
            _log.warning(Event.UPSTREAM, upstream=self._upstream, role=role, warning="; ".join(failed))

    async def _remove(self, conn: Connection, row: Row, *, where: str, reap: bool) -> bool:
        """Step 5."""
        await none_of(conn, row.username, f"{where}: {_SHUT}")
        heritage = await self._heritage(conn, row, where)
        try:
            return await self._drop(conn, row, heritage, where, reap=reap)
        except psycopg.errors.LockNotAvailable as exc:
            found, user = condition(exc), await users.look(conn, row.username, self._config.marker_group)
        held = await users.holders(conn, user) if user is not None else []
        raise Refused(
            Unavailable(
                f"{where}: {_SHUT}, but {found} for what its user left: "
                f"{', '.join(held) or 'the lock is held by a transaction that cannot be seen'}; end that transaction"
            )
        )

    async def _drop(self, conn: Connection, row: Row, heritage: "_Heritage", where: str, *, reap: bool) -> bool:
        async with transaction(conn):
            locked = await self._journal.lock(conn, row.id, skip=reap)
            if locked is None or locked.revoked_at is not None:
                return False
            user = await guarded(conn, row, self._config, where)
            if user is not None:
                if heritage.found:
                    await self._journal.one_at_a_time(conn)
                await users.wait_at_most(conn, _OBJECT_WAIT)
                await self._disown(conn, row, heritage)
                await users.terminate(conn, user)  # one that was logging in while we shut the door
                await users.drop(conn, row.username)
            await self._journal.bury(conn, row)
            failpoints.reach(Failpoint.REVOKE_DROPPED)
        failpoints.reach(Failpoint.REVOKE_COMMITTED)
        return True

    async def _heritage(self, conn: Connection, row: Row, where: str) -> "_Heritage":
        """What depends on the user, and who gets it; our login has that one's rights afterwards."""
        user = await users.look(conn, row.username, self._config.marker_group)
        found = await users.dependents(conn, user) if user is not None else []
        recipe = self._recipes.get(row.role)
        group = recipe.role.group if recipe is not None else None
        taker: str | None = None
        if any(one.owned for one in found):
            taker = await heir(conn, group, where)
        elif found and group is not None:
            await fit(conn, group)  # rights that the group gave can be taken back with the group's rights only
        return _Heritage(found=tuple(found), heir=taker)

    async def _disown(self, conn: Connection, row: Row, heritage: "_Heritage") -> None:
        if not heritage.found:
            return
        for dbname in heritage.elsewhere:
            async with self._connections.elsewhere(dbname) as other, transaction(other):
                await users.wait_at_most(other, _OBJECT_WAIT)
                await users.disown(other, row.username, heir=heritage.heir)
        await users.disown(conn, row.username, heir=heritage.heir)


@dataclass(frozen=True, kw_only=True)
class _Heritage:
    found: tuple[Dependents, ...]
    heir: str | None

    @property
    def elsewhere(self) -> tuple[str, ...]:
        return tuple(one.dbname for one in self.found if not one.here)
