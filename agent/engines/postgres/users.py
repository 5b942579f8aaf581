"""What the server's catalogs say of a minted user, and the statements that make, keep and end it.

Each function is one step on a connection whose transaction belongs to the caller. Roles are addressed by name in DDL
and by oid in look-ups; both come from one read under the lease's row lock.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql
from psycopg.rows import TupleRow

from agent.engines.postgres.connections import Connection
from agent.engines.postgres.journal import one
from agent.engines.postgres.prepared import decoded, plain

ORPHANED = "leasehold_orphaned"
"""Owns what users of roles without a group left behind; nobody's login."""


@dataclass(frozen=True, kw_only=True)
class User:
    """A role of the server, as far as we care.

    Attributes:
        ends: its VALID UNTIL as Unix time, None where it has none.
        privileged: SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS.
        reaches: it is, directly or not, a member of a role with one of these: it can act as that role.
        marked: it is a member of the marker group.
        ours: the agent's login has the rights of this role.
    """

    oid: int
    superuser: bool
    can_login: bool
    ends: float | None
    privileged: bool
    reaches: bool
    marked: bool
    ours: bool


@dataclass(frozen=True, kw_only=True)
class Dependents:
    """What in one database, or shared by all (`dbname` ""), depends on a user.

    Attributes:
        here: it is seen from the database we are in.
        owned: the user owns some of it; otherwise there are only rights.
    """

    dbname: str
    here: bool
    owned: bool


ATTRIBUTES = "SUPERUSER, CREATEROLE, CREATEDB, REPLICATION or BYPASSRLS"
REACHED = """
WITH RECURSIVE reached (oid) AS (
  SELECT oid FROM pg_roles WHERE rolname = %(name)s
  UNION
  SELECT m.roleid FROM pg_auth_members m JOIN reached r ON m.member = r.oid
), powers (oid) AS (
  SELECT oid FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
)
"""
"""Begins a query on the role `name`: the roles it can act as, itself included, and those with one of ATTRIBUTES."""

_ABOUT = """
SELECT u.oid, u.rolsuper, u.rolcanlogin,
  CASE WHEN isfinite(u.rolvaliduntil) THEN extract(epoch FROM u.rolvaliduntil)::float8 END,
  u.oid IN (SELECT oid FROM powers),
  EXISTS (SELECT FROM reached JOIN powers USING (oid)),
  EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = u.oid AND g.rolname = %(marker)s),
  pg_has_role(u.oid, 'USAGE')
FROM pg_roles u WHERE u.rolname = %(name)s
"""
_LOOK = REACHED + _ABOUT

_DEPENDENTS = """
SELECT coalesce(b.datname, ''), d.dbid = 0 OR b.datname = current_database(), bool_or(d.deptype = 'o')
FROM pg_shdepend d LEFT JOIN pg_database b ON b.oid = d.dbid
WHERE d.refclassid = 'pg_authid'::regclass AND d.refobjid = %s
GROUP BY 1, 2 ORDER BY 1
"""

_HOLDERS = """
SELECT DISTINCT l.pid, coalesce(textsend(a.datname::text), ''), textsend(p.gid), textsend(p.database::text)
FROM (
  SELECT dbid, classid, objid FROM pg_shdepend WHERE refclassid = 'pg_authid'::regclass AND refobjid = %(oid)s
  UNION ALL
  SELECT 0, 'pg_authid'::regclass, %(oid)s
) d JOIN pg_locks l ON l.granted AND l.database = d.dbid AND CASE l.locktype
    WHEN 'relation' THEN d.classid = 'pg_class'::regclass AND l.relation = d.objid
    WHEN 'object' THEN l.classid = d.classid AND l.objid = d.objid END
LEFT JOIN pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_locks own ON l.pid IS NULL AND own.pid IS NULL AND own.locktype = 'transactionid'
  AND own.virtualtransaction = l.virtualtransaction
LEFT JOIN pg_prepared_xacts p ON p.transaction = own.transactionid
WHERE l.pid IS DISTINCT FROM pg_backend_pid()
  AND NOT coalesce(a.usename = current_user AND a.application_name = 'leasehold', false)
ORDER BY 1 LIMIT 5
"""


async def look(conn: Connection, name: str, marker: str) -> User | None:
    """The role called `name`, None if there is none."""
    found: TupleRow | None = await (await conn.execute(_LOOK, {"name": name, "marker": marker})).fetchone()
    return None if found is None else User(**dict(zip(User.__dataclass_fields__, found, strict=True)))


async def create(conn: Connection, name: str, *, verifier: str, expires: float, group: str | None) -> None:
    """The default way to make a user: its rights come from its group."""
    statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {}").format(
        sql.Identifier(name), sql.Literal(verifier), sql.Literal(iso(expires))
    )
    await conn.execute(statement + (sql.SQL(" IN ROLE {}").format(sql.Identifier(group)) if group else sql.SQL("")))


async def join(conn: Connection, name: str, group: str) -> None:
    """Make the user a member of `group`, with its rights."""
    await conn.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), sql.Identifier(name)))


async def mark(conn: Connection, name: str, marker: str) -> None:
    """Make the user a member of the marker group; from PostgreSQL 16 on, one that cannot act as it.

    As it, a user could own what every other lease user may then change, and prepare transactions that are nobody's.
    """
    in_name_only = " WITH INHERIT FALSE, SET FALSE" if conn.pgconn.server_version >= 160000 else ""
    await conn.execute(sql.SQL("GRANT {} TO {}" + in_name_only).format(sql.Identifier(marker), sql.Identifier(name)))


async def bound(conn: Connection, name: str, sessions: int) -> None:
    """Let the user have at most that many sessions at once."""
    await conn.execute(sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(name), sql.Literal(sessions)))


async def act_as(conn: Connection, name: str, group: str) -> None:
    """Let the user's sessions begin as `group`, which then owns what they create."""
    await conn.execute(sql.SQL("ALTER ROLE {} SET role = {}").format(sql.Identifier(name), sql.Literal(group)))


async def prolong(conn: Connection, name: str, expires: float) -> None:
    """Move the user's VALID UNTIL."""
    await conn.execute(sql.SQL("ALTER ROLE {} VALID UNTIL {}").format(sql.Identifier(name), sql.Literal(iso(expires))))


async def lock_out(conn: Connection, name: str) -> None:
    """No new logins."""
    await conn.execute(sql.SQL("ALTER ROLE {} NOLOGIN").format(sql.Identifier(name)))


async def take_rights(conn: Connection, name: str) -> None:
    """Make the agent's login a member of the role, with its rights.

    Only at its end: from PostgreSQL 16 on every statement gets slower with each role we hold.
    """
    with_rights = " WITH INHERIT TRUE, SET TRUE" if conn.pgconn.server_version >= 160000 else ""
    await conn.execute(sql.SQL("GRANT {} TO CURRENT_USER" + with_rights).format(sql.Identifier(name)))


async def terminate(conn: Connection, user: User) -> int:
    """Ask the server to end the user's sessions; how many there were.

    The one-argument form: with a timeout, pg_terminate_backend looks only every 100 ms whether the session has gone.
    """
    await conn.execute("SELECT pg_stat_clear_snapshot()")
    cursor = await conn.execute(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usesysid = %s", (user.oid,)
    )
    return int((await one(cursor))[0])


async def throw_out(conn: Connection, name: str, user: User) -> None:
    """Ask the server to end the user's sessions, inside a transaction of which nothing else may remain.

    A login that may not signal them joins the user for this moment. Before PostgreSQL 15 the user may hold that up, by
    a GRANT of its own that it does not commit; then it goes through a role of this moment. Only then: making one can
    be held up on every version, by a lock that waits for the table of roles.
    """
    if user.ours:
        await terminate(conn, user)
        return
    await conn.execute("SAVEPOINT moment")
    try:
        await take_rights(conn, name)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.UniqueViolation, psycopg.errors.InternalError_):
        await conn.execute("ROLLBACK TO SAVEPOINT moment")
        moment = f"leasehold_{secrets.token_hex(8)}"
        await conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(moment)))
        await take_rights(conn, moment)
        await join(conn, moment, name)
    await terminate(conn, user)
    await conn.execute("ROLLBACK TO SAVEPOINT moment")


async def wait_at_most(conn: Connection, seconds: float) -> None:
    """Bound each wait for a lock in this transaction from here on; the row's lock is worth waiting for longer."""
    await conn.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{round(seconds * 1000)}ms")))


async def run_at_most(conn: Connection, seconds: float) -> None:
    """Bound each statement of this transaction from here on; to a moment where no time is left."""
    timeout = f"{max(10, round(seconds * 1000))}ms"
    await conn.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(sql.Literal(timeout)))


async def holders(conn: Connection, user: User) -> list[str]:
    """Who holds a lock on the user's role or on something of it, in any database; fit for a message."""
    cursor = await conn.execute(_HOLDERS, {"oid": user.oid})
    return [
        f"prepared transaction {plain(decoded(gid or b'?'))} in database {plain(decoded(prepared_in or b'?'))}"
        if pid is None
        else f"process {pid} in database {plain(decoded(dbname))}"
        for pid, dbname, gid, prepared_in in await cursor.fetchall()
    ]


async def dependents(conn: Connection, user: User) -> list[Dependents]:
    """Where something depends on the user."""
    cursor = await conn.execute(_DEPENDENTS, (user.oid,))
    return [Dependents(dbname=dbname, here=here, owned=owned) for dbname, here, owned in await cursor.fetchall()]


async def disown(conn: Connection, name: str, *, heir: str | None) -> None:
    """In this database, give what the user owns to `heir` and take every right from it."""
    if heir is not None:
        await conn.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(sql.Identifier(name), sql.Identifier(heir)))
    await conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))


async def drop(conn: Connection, name: str) -> None:
    """The user's end."""
    await conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def iso(instant: float) -> str:
    """Unix time as PostgreSQL reads it under any DateStyle: ISO 8601 in UTC, whole seconds."""
    return datetime.fromtimestamp(instant, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
