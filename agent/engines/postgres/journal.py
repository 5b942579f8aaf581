"""The journal: one row per lease, in the database it was minted in, and the only say on what is ours.

The table belongs to the agent's login and nobody else may read it. It never holds a password. A row is inserted in the
transaction that makes its user; every later change locks it first. Times are the server's.
"""

from dataclasses import dataclass, field
from typing import Literal

from psycopg import AsyncCursor, InternalError, sql
from psycopg.rows import TupleRow

from agent.engines.postgres.connections import Connection

_COLUMNS = (
    "id::text, role, username, holder, incarnation, extract(epoch FROM issued)::float8, "
    "extract(epoch FROM expires)::float8, extract(epoch FROM max_expires)::float8, requested_ttl, granted_ttl, "
    "extract(epoch FROM revoked_at)::float8"
)


@dataclass(frozen=True, kw_only=True)
class Row:
    """One lease of the journal; instants are Unix times by the server's clock.

    Attributes:
        id: the lease.
        username: its user, "" for a tombstone: a lease revoked before it was issued.
        holder, incarnation: who minted it.
        max_expires: renewals end there.
        requested_ttl, granted_ttl: seconds, at the issue or the newest renewal.
        revoked_at: when its user was gone; None while it is not.
    """

    id: str = field(repr=False)
    role: str
    username: str = field(repr=False)
    holder: str
    incarnation: int
    issued: float
    expires: float
    max_expires: float
    requested_ttl: float
    granted_ttl: float
    revoked_at: float | None


@dataclass(frozen=True, kw_only=True)
class Mint:
    """What is known of a lease before its transaction begins."""

    id: str = field(repr=False)
    role: str
    username: str = field(repr=False)
    requested_ttl: float
    granted_ttl: float
    longest: float


@dataclass(frozen=True, kw_only=True)
class Search:
    """Which leases to look for; what is not said does not matter.

    Attributes:
        prefix: of the role's path: "database/creds" finds every role below it, "database/creds/app" that one alone.
        username, lease_id: exactly this.
        since: something happened to it in the last so many seconds: issued, revoked, or alive.
        state: "active" (neither ended nor revoked), "overdue" (ended, and its user still there) or "unrevoked" (both).
        most: rows, the newest ones.
        after: a row of an earlier page: what comes after it, so that nothing is met twice.
    """

    prefix: str = ""
    username: str = field(default="", repr=False)
    lease_id: str = field(default="", repr=False)
    since: float | None = None
    state: Literal["", "active", "overdue", "unrevoked"] = ""
    most: int = 10_000
    after: tuple[float, str] | None = field(default=None, repr=False)
    """`issued` and `id` of that row."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a search found.

    Attributes:
        rows: newest first.
        now: Unix time by the server's clock.
        cut: there were more than the search asked for.
    """

    rows: tuple[Row, ...]
    now: float
    cut: bool


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many leases of one role there are, whoever holds them.

    Attributes:
        active: neither ended nor revoked.
        overdue: ended, and their users still there.
        failed: of these, those that could not be ended so far.
        revoked: in the last hour.
    """

    role: str
    active: int = 0
    overdue: int = 0
    failed: int = 0
    revoked: int = 0


class Journal:
    """The statements on one journal table."""

    def __init__(self, *, schema: str, holder: str, incarnation: int) -> None:
        self.holder = holder
        self.incarnation = incarnation
        self._table = sql.Identifier(schema, "lease")

    def mine(self, row: Row) -> bool:
        """Whether this incarnation may touch the lease before its end."""
        return row.holder == self.holder and row.incarnation <= self.incarnation

    async def insert(self, conn: Connection, mint: Mint) -> float:
        """Write the row of a lease that is about to be minted; when it ends."""
        cursor = await conn.execute(
            self._sql(
                "INSERT INTO {} (id, role, username, holder, incarnation, issued, expires, max_expires,"
                " requested_ttl, granted_ttl)"
                " SELECT %(id)s::uuid, %(role)s, %(username)s, %(holder)s, %(incarnation)s, t.now,"
                " to_timestamp(ceil(extract(epoch FROM t.now) + %(granted)s::float8)),"
                " to_timestamp(ceil(extract(epoch FROM t.now) + %(longest)s::float8)),"
                " %(requested)s::float8, %(granted)s::float8"
                " FROM (SELECT clock_timestamp() AS now) t"
                " RETURNING extract(epoch FROM expires)::float8"
            ),
            {
                "id": mint.id,
                "role": mint.role,
                "username": mint.username,
                "holder": self.holder,
                "incarnation": self.incarnation,
                "granted": mint.granted_ttl,
                "longest": mint.longest,
                "requested": mint.requested_ttl,
            },
        )
        return float((await one(cursor))[0])

    async def entomb(self, conn: Connection, lease_id: str) -> bool:
        """Make sure that no lease can be minted under this id any more; False if one was, and has to be ended.

        Waits for a mint in flight under the same id.
        """
        cursor = await conn.execute(
            self._sql(
                "INSERT INTO {} (id, role, username, holder, incarnation, issued, expires, max_expires,"
                " requested_ttl, granted_ttl, revoked_at)"
                " SELECT %s::uuid, '', '', %s, %s, t.now, t.now, t.now, 0, 0, t.now"
                " FROM (SELECT clock_timestamp() AS now) t ON CONFLICT (id) DO NOTHING"
            ),
            (lease_id, self.holder, self.incarnation),
        )
        return cursor.rowcount == 1

    async def lock(self, conn: Connection, lease_id: str, *, skip: bool = False) -> Row | None:
        """The row, locked until the transaction ends; None if there is none, or if `skip` and another has it."""
        query = f"SELECT {_COLUMNS} FROM {{}} WHERE id = %s::uuid FOR UPDATE{' SKIP LOCKED' if skip else ''}"  # noqa: S608
        cursor = await conn.execute(self._sql(query), (lease_id,))
        found = await cursor.fetchone()
        return None if found is None else _row(found)

    async def extend(self, conn: Connection, row: Row, *, requested: float, granted: float) -> float:
        """Move the end of a locked row to `granted` seconds from now, not back, not past its longest; the end."""
        cursor = await conn.execute(
            self._sql(
                "UPDATE {} SET requested_ttl = %s::float8, granted_ttl = %s::float8, expires = greatest(expires,"
                " least(max_expires, to_timestamp(ceil(extract(epoch FROM clock_timestamp()) + %s::float8))))"
                " WHERE id = %s::uuid RETURNING extract(epoch FROM expires)::float8"
            ),
            (requested, granted, granted, row.id),
        )
        return float((await one(cursor))[0])

    async def end(self, conn: Connection, row: Row) -> None:
        """Bring the end of a locked row forward to now: it is renewed no more, and anyone may finish ending it."""
        await conn.execute(
            self._sql("UPDATE {} SET expires = least(expires, clock_timestamp()) WHERE id = %s::uuid"), (row.id,)
        )

    async def bury(self, conn: Connection, row: Row) -> None:
        """Note that the lease's user is gone."""
        await conn.execute(self._sql("UPDATE {} SET revoked_at = clock_timestamp() WHERE id = %s::uuid"), (row.id,))

    async def one_at_a_time(self, conn: Connection) -> None:
        """Wait until no other transaction of any agent is here: for changes that collide on one catalog row.

        The lock is on our table because any user of the server may hold an advisory lock.
        """
        await conn.execute(self._sql("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE"))

    async def rows(self, conn: Connection, *, role: str | None, live_only: bool) -> list[Row]:
        """The journal, oldest first; without tombstones."""
        cursor = await conn.execute(
            self._sql(
                f"SELECT {_COLUMNS} FROM {{}} WHERE username <> '' AND (%(role)s::text IS NULL OR role = %(role)s)"  # noqa: S608
                " AND (NOT %(live)s OR (revoked_at IS NULL AND expires > clock_timestamp())) ORDER BY issued, id"
            ),
            {"role": role, "live": live_only},
        )
        return [_row(found) for found in await cursor.fetchall()]

    async def find(self, conn: Connection, search: Search) -> list[Row]:
        """What matches, newest first, one row more than `search.most` where there are more; without tombstones."""
        prefix = search.prefix.strip("/")
        cursor = await conn.execute(
            self._sql(
                f"SELECT {_COLUMNS} FROM {{}}, (SELECT clock_timestamp() AS now) t WHERE username <> ''"  # noqa: S608
                " AND (%(prefix)s = '' OR role = %(prefix)s OR starts_with(role, %(prefix)s || '/'))"
                " AND (%(username)s = '' OR username = %(username)s) AND (%(id)s = '' OR id::text = %(id)s)"
                " AND (%(state)s = '' OR revoked_at IS NULL)"
                " AND (%(state)s <> 'active' OR expires > t.now) AND (%(state)s <> 'overdue' OR expires <= t.now)"
                " AND (%(since)s::float8 IS NULL OR revoked_at IS NULL"
                " OR greatest(issued, revoked_at) >= t.now - make_interval(secs => %(since)s::float8))"
                " AND (%(past)s::float8 IS NULL OR extract(epoch FROM issued)::float8 < %(past)s::float8"
                " OR extract(epoch FROM issued)::float8 = %(past)s::float8 AND id > %(last)s::uuid)"
                " ORDER BY issued DESC, id LIMIT %(most)s"
            ),
            {
                "prefix": prefix,
                "username": search.username,
                "id": search.lease_id,
                "since": search.since,
                "state": search.state,
                "most": search.most + 1,
                "past": search.after[0] if search.after else None,
                "last": search.after[1] if search.after else None,
            },
        )
        return [_row(found) for found in await cursor.fetchall()]

    async def page(self, conn: Connection, search: Search) -> Page:
        """What matches, and when that was."""
        rows = await self.find(conn, search)
        return Page(rows=tuple(rows[: search.most]), now=await server_time(conn), cut=len(rows) > search.most)

    async def due(self, conn: Connection) -> list[Row]:
        """Every lease that has ended and still has its user.

        The latest dead come first: what could not be ended before does not hold them up.
        """
        cursor = await conn.execute(
            self._sql(
                f"SELECT {_COLUMNS} FROM {{}} WHERE revoked_at IS NULL AND expires <= clock_timestamp()"  # noqa: S608
                " ORDER BY expires DESC"
            )
        )
        return [_row(found) for found in await cursor.fetchall()]

    async def live(self, conn: Connection, role: str) -> int:
        """How many leases of `role` have neither ended nor been revoked."""
        cursor = await conn.execute(
            self._sql("SELECT count(*) FROM {} WHERE role = %s AND revoked_at IS NULL AND expires > clock_timestamp()"),
            (role,),
        )
        return int((await one(cursor))[0])

    async def tallies(self, conn: Connection) -> list[Tally]:
        """Every role that has leases or had some lately; nothing is said of those that could not be ended."""
        cursor = await conn.execute(
            self._sql(
                "SELECT role, sum(active)::bigint, sum(overdue)::bigint, sum(revoked)::bigint FROM ("
                " SELECT role, count(*) FILTER (WHERE expires > t.now) AS active,"
                " count(*) FILTER (WHERE expires <= t.now) AS overdue, 0 AS revoked"
                " FROM {0}, (SELECT clock_timestamp() AS now) t WHERE revoked_at IS NULL GROUP BY role UNION ALL"
                " SELECT role, 0, 0, count(*) FROM {0} WHERE username <> ''"
                " AND revoked_at >= (SELECT clock_timestamp() - interval '1 hour') GROUP BY role"
                ") counted GROUP BY role ORDER BY role"
            )
        )
        return [
            Tally(role=role, active=active, overdue=overdue, revoked=revoked)
            for role, active, overdue, revoked in await cursor.fetchall()
        ]

    async def taken(self, conn: Connection) -> list[str]:
        """Ids of this holder's leases that were revoked in the last ten minutes, by whomever.

        An operator's revocation does not ask the agent, which must not go on serving what is dead.
        """
        cursor = await conn.execute(
            self._sql(
                "SELECT id::text FROM {} WHERE holder = %s"
                " AND revoked_at >= (SELECT clock_timestamp() - interval '10 minutes')"
            ),
            (self.holder,),
        )
        return [lease_id for (lease_id,) in await cursor.fetchall()]

    async def forget(self, conn: Connection, retention: float) -> None:
        """Delete the rows of leases revoked more than `retention` seconds ago.

        The limit is a query of its own: a function that changes while a statement runs keeps an index from being used.
        """
        limit = "(SELECT clock_timestamp() - make_interval(secs => %s::float8))"
        await conn.execute(self._sql(f"DELETE FROM {{}} WHERE revoked_at < {limit}"), (retention,))  # noqa: S608

    async def strangers(self, conn: Connection, marker: str) -> int:
        """How many members of the marker group have no live row: made by hand, or left by a lost journal.

        Who may administer the group, such as the login that made it, is none.
        """
        cursor = await conn.execute(
            self._sql(
                "SELECT count(*) FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
                " WHERE m.roleid = (SELECT oid FROM pg_roles WHERE rolname = %s) AND NOT m.admin_option"
                " AND NOT EXISTS (SELECT FROM {} l WHERE l.username = r.rolname AND l.revoked_at IS NULL)"
            ),
            (marker,),
        )
        return int((await one(cursor))[0])

    def _sql(self, query: str) -> sql.Composed:
        return sql.SQL(query).format(self._table)


async def one(cursor: AsyncCursor[TupleRow]) -> TupleRow:
    """The only row of an answer."""
    row = await cursor.fetchone()
    if row is None:
        raise InternalError("the server answered with no row")
    return row


async def server_time(conn: Connection) -> float:
    """Unix time by the server's clock, at this moment and not at the transaction's begin."""
    return float((await one(await conn.execute("SELECT extract(epoch FROM clock_timestamp())::float8")))[0])


def _row(found: TupleRow) -> Row:
    names = Row.__dataclass_fields__
    return Row(**dict(zip(names, found, strict=True)))
