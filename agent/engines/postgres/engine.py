"""The embedded engine: a lease is a PostgreSQL role that this agent made, with a row in the journal beside it."""

import math
import uuid
from collections.abc import Mapping

import psycopg

from agent import failpoints, log
from agent.clock import Clock
from agent.config.model import PostgreSQL
from agent.engines.postgres import names, scram, setup, users
from agent.engines.postgres.connections import Connection, Connections, transaction
from agent.engines.postgres.ending import Ending
from agent.engines.postgres.errors import Refused, translated
from agent.engines.postgres.journal import Journal, Mint, Page, Row, Search, server_time
from agent.engines.postgres.minting import mint, run
from agent.engines.postgres.recipe import Recipe
from agent.engines.postgres.statements import Values
from agent.engines.postgres.sweeping import Sweeper, Swept
from agent.errors import Forbidden, LeaseGone, MaxTtlReached, NotFound, Unavailable
from agent.failpoints import Failpoint
from agent.leases.lease import Grant, Lease, Secret
from agent.log import Event

_log = log.get(__name__)
_RENEW_WAIT = 0.5


class PostgresEngine:
    """Mints, renews and revokes database users. Satisfies `agent.leases.engine.Engine`."""

    def __init__(
        self,
        name: str,
        config: PostgreSQL,
        recipes: Mapping[str, Recipe],
        *,
        holder: str,
        incarnation: int,
        clock: Clock,
    ) -> None:
        self._name = name
        self._config = config
        self._recipes = recipes
        self._clock = clock
        self._version = 0
        self._journal = Journal(schema=config.schema, holder=holder, incarnation=incarnation)
        self._connections = Connections(config, where=name, clock=clock, greet=self._greet)
        self._ending = Ending(
            config,
            upstream=name,
            journal=self._journal,
            connections=self._connections,
            recipes=recipes,
            clock=clock,
        )
        self._sweeper = Sweeper(
            config,
            where=f"{name}: sweep",
            journal=self._journal,
            connections=self._connections,
            ending=self._ending,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"PostgresEngine({self._name}, {self._connections!r})"

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """A new user for `role`, recorded under `proposed_id` (a UUID).

        Raises:
            LeaseGone: the id was revoked before.
            UpstreamError: no user was made, or (`outcome_unknown`) perhaps one.
            ValueError: `proposed_id` is no UUID.
        """
        lease_id = str(uuid.UUID(proposed_id))
        recipe = self._recipes.get(role)
        if recipe is None:
            raise NotFound(f"{self._name}: role {role} is not configured")
        where = f"{self._name}: issue {role}"
        settings = recipe.role
        ttl = _whole(min(settings.ttl, settings.longest))
        username = names.username(
            role, style=self._config.username_style, prefix=self._config.username_prefix, wall=self._clock.wall()
        )
        password = names.password(
            length=settings.password_length, alphabet=settings.password_alphabet, bits=settings.password_bits
        )
        with translated(where, secrets=(username,)):
            async with self._connections.use() as conn:
                await mint(
                    conn,
                    self._journal,
                    recipe,
                    Mint(
                        id=lease_id,
                        role=role,
                        username=username,
                        requested_ttl=settings.ttl,
                        granted_ttl=ttl,
                        longest=settings.longest,
                    ),
                    verifier=scram.verifier(password),
                    marker=self._config.marker_group,
                    where=where,
                )
        return Grant(
            id=proposed_id,
            data={"username": Secret(username), "password": Secret(password)},
            ttl=ttl,
            renewable=True,
            max_ttl=settings.longest,
        )

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """The lease, `increment` seconds long from now, as far as its longest life allows; never shorter than it is.

        Raises:
            LeaseGone: it was revoked, has expired, or its user is gone.
            MaxTtlReached: less than a second of its longest life is left.
            Forbidden: another holder, or a later incarnation, minted it.
        """
        where = f"{self._name}: renew"
        with translated(where):
            async with self._connections.use() as conn:
                ttl = await self._renew(conn, _uuid(lease.id, where), increment, where, told=lease.last.ttl)
        failpoints.reach(Failpoint.RENEW_COMMITTED)
        return Grant(id=lease.id, data={}, ttl=ttl, renewable=True, max_ttl=lease.first.max_ttl)

    async def _renew(self, conn: Connection, lease_id: str, increment: float, where: str, *, told: float) -> float:
        async with transaction(conn):
            row = await self._journal.lock(conn, lease_id)
            failpoints.reach(Failpoint.RENEW_LOCKED)
            now = await server_time(conn)
            row = self._renewable(row, now, where)
            granted = _whole(min(increment, row.max_expires - now))
            expires = await self._journal.extend(conn, row, requested=increment, granted=granted)
            await self._prolong(conn, row, expires, f"{where} {row.role}")
        # Never shorter than it is; but nobody counts on what a server's clock that was set back has added.
        return max(granted, min(float(math.floor(row.expires - now)), told))

    def _renewable(self, row: Row | None, now: float, where: str) -> Row:
        if row is None or row.revoked_at is not None or row.expires <= now:
            raise Refused(LeaseGone(f"{where}: the lease was revoked or has expired"))
        if not self._journal.mine(row):
            raise Refused(Forbidden(f"{where} {row.role}: the lease was minted by another agent"))
        if row.max_expires - now < 1.0:
            raise Refused(MaxTtlReached(f"{where} {row.role}: the lease has reached its max_ttl"))
        return row

    async def _prolong(self, conn: Connection, row: Row, expires: float, where: str) -> None:
        user = await users.look(conn, row.username, self._config.marker_group)
        if user is None or not user.can_login:
            raise Refused(LeaseGone(f"{where}: its user was dropped or locked out by somebody else"))
        recipe = self._recipes.get(row.role)
        # A user can hold its own role's row for as long as it likes; the connection has others to serve.
        await users.wait_at_most(conn, _RENEW_WAIT)
        if recipe is None or not recipe.renewal:
            await self._default_renewal(conn, row.username, expires, where)
            return
        values = Values(name=row.username, expiration=users.iso(expires))
        await run(conn, recipe.renewal, values, key="renewal_statements", where=where)
        user = await users.look(conn, row.username, self._config.marker_group)
        if user is None or user.ends is None or abs(user.ends - expires) > 0.001:
            raise Refused(Forbidden(f"{where}: renewal_statements did not set VALID UNTIL to '{{{{expiration}}}}'"))

    async def _default_renewal(self, conn: Connection, username: str, expires: float, where: str) -> None:
        try:
            await users.prolong(conn, username, expires)
        except psycopg.errors.LockNotAvailable:
            raise Refused(
                Unavailable(
                    f"{where}: a transaction, most likely its user's own, keeps it from being renewed (ALTER ROLE on "
                    "itself): end that transaction, or the lease is replaced"
                )
            ) from None

    async def revoke(self, lease_id: str) -> None:
        """End the lease and its user; one that is not known can never be issued any more.

        Raises:
            Forbidden: it is another agent's, and has not expired.
            UpstreamError: not all was done. The text says what is in the way; what was done stays done.
        """
        where = f"{self._name}: revoke"
        known = _known(lease_id)
        if known is None:
            return
        with translated(where):
            async with self._connections.use() as conn:
                if await self._journal.entomb(conn, known):
                    failpoints.reach(Failpoint.REVOKE_COMMITTED)
                    return
                await self._ending.end(conn, known, where=where, reap=False)

    async def ping(self) -> None:
        """Return if the server answers, accepts our login, and the journal is ours."""
        with translated(f"{self._name}: ping"):
            async with self._connections.use() as conn:
                await conn.execute("SELECT 1")

    async def list(self, *, role: str | None = None, live_only: bool = True) -> list[Row]:
        """The journal's rows, oldest first; only leases that have neither ended nor been revoked, unless told."""
        with translated(f"{self._name}: list"):
            async with self._connections.use() as conn:
                return await self._journal.rows(conn, role=role, live_only=live_only)

    async def find(self, search: Search) -> Page:
        """The journal's rows that match, whoever holds them."""
        with translated(f"{self._name}: journal"):
            async with self._connections.use() as conn:
                return await self._journal.page(conn, search)

    async def sweep(self) -> Swept:
        """End leases that have expired, whoever minted them, for 8 s at most, and forget rows past their retention.

        Raises:
            UpstreamError: the server cannot be asked; a single lease that cannot be ended is in the answer instead.
        """
        return await self._sweeper.sweep()

    async def close(self) -> None:
        """Close every connection, one in use when its call ends; every later call fails."""
        self._connections.close()

    async def _greet(self, conn: Connection) -> None:
        """Look a new connection's server over."""
        version = conn.pgconn.server_version
        if version != self._version:
            self._version = version
            old = "PostgreSQL 12 is no longer supported by its makers" if version < setup.SUPPORTED else None
            said = {"warning": old} if old else {}
            tell = _log.warning if old else _log.info
            tell(Event.UPSTREAM, upstream=self._name, version=f"{version // 10000}.{version % 10000}", **said)
        await setup.prepare(conn, self._config, self._name)


def _whole(seconds: float) -> float:
    """Grants are whole seconds, never more than asked and at least one."""
    return float(max(1, math.floor(seconds)))


def _known(lease_id: str) -> str | None:
    try:
        return str(uuid.UUID(lease_id))
    except ValueError:
        return None


def _uuid(lease_id: str, where: str) -> str:
    known = _known(lease_id)
    if known is None:
        raise LeaseGone(f"{where}: the lease is not one of this journal")
    return known
