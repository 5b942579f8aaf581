"""The engine's place in the database: journal table, its schema and the marker group, made on first use.

Everything is looked at again on every new connection: what somebody else planted under our names is refused, since the
journal decides which roles are dropped.
"""

from dataclasses import dataclass

import psycopg
from psycopg import sql

from agent.config.model import PostgreSQL
from agent.engines.postgres.connections import Connection, transaction
from agent.engines.postgres.errors import CommitFailed, Refused, error_of
from agent.engines.postgres.journal import one
from agent.errors import Forbidden, NotFound, Unavailable

_TRIES = 3
# Two agents that start at once both find nothing and both create: one of them then meets these.
_BEATEN = {"23505", "42710", "42P06", "42P07", "XX000", "40P01"}
OLDEST = 120000
SUPPORTED = 130000

COLUMNS = {
    "id": "uuid PRIMARY KEY",
    "role": "text NOT NULL",
    "username": "text NOT NULL",
    "holder": "text NOT NULL",
    "incarnation": "bigint NOT NULL",
    "issued": "timestamptz NOT NULL",
    "expires": "timestamptz NOT NULL",
    "max_expires": "timestamptz NOT NULL",
    "requested_ttl": "float8 NOT NULL",
    "granted_ttl": "float8 NOT NULL",
    "revoked_at": "timestamptz",
}
"""The journal's table: each column with its type, and what PostgreSQL keeps it to."""

INDEXES = {
    "lease_due": ("expires", "revoked_at IS NULL"),
    "lease_username": ("username", "revoked_at IS NULL"),
    # Rows stay for weeks. Without these, every sweep and every look into the past would read them all.
    "lease_revoked": ("revoked_at", "revoked_at IS NOT NULL"),
    "lease_issued": ("issued", None),
}
"""The journal's indexes beside its key: the column of each, and which rows it has."""

_LOOK = """
SELECT
  (SELECT nspowner FROM pg_namespace WHERE nspname = %(schema)s) IS NOT NULL,
  (SELECT nspowner FROM pg_namespace WHERE nspname = %(schema)s) IS NOT DISTINCT FROM me.oid,
  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = 'lease'),
  EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %(schema)s AND c.relname = 'lease' AND c.relowner = me.oid AND c.relkind = 'r'),
  marker.oid IS NOT NULL,
  marker.rolcanlogin OR marker.rolsuper OR marker.rolcreaterole OR marker.rolcreatedb OR marker.rolreplication
    OR marker.rolbypassrls OR EXISTS (SELECT FROM pg_auth_members WHERE member = marker.oid),
  pg_has_role(marker.oid, 'MEMBER WITH ADMIN OPTION')
FROM pg_roles me LEFT JOIN pg_roles marker ON marker.rolname = %(marker)s WHERE me.rolname = current_user
"""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What stands where journal and marker group belong.

    Attributes:
        schema, table, marker: there is something of that name.
        schema_ours, table_ours: it is the agent's own, and an ordinary table.
        marker_tainted: it has LOGIN, an attribute or a membership; None where there is none.
        marker_ours: the agent's login has ADMIN OPTION on it; None where there is none.
    """

    schema: bool
    schema_ours: bool
    table: bool
    table_ours: bool
    marker: bool
    marker_tainted: bool | None
    marker_ours: bool | None

    @property
    def complete(self) -> bool:
        return self.schema and self.table and self.marker


async def prepare(conn: Connection, config: PostgreSQL, where: str) -> None:
    """Make sure that journal and marker group are there and ours.

    Raises:
        Refused: they are somebody else's, or the server is too old.
    """
    _check_version(conn, where)
    for _ in range(_TRIES):
        seen = await look(conn, config)
        _judge(seen, config, where)
        _judge_marker(seen, config, where, version=conn.pgconn.server_version)
        if seen.complete:
            return
        try:
            async with transaction(conn):
                await _make(conn, seen, config)
        except psycopg.Error as exc:
            if exc.sqlstate not in _BEATEN:
                raise _cannot_make(exc, config, where) from None
        except CommitFailed:
            pass  # the next look tells
    raise Refused(
        Unavailable(f"{where}: making the journal met another agent doing the same; the next try will find it")
    )


async def find(conn: Connection, config: PostgreSQL, where: str) -> None:
    """Make sure that there is a journal and that it is ours, for who only reads it; changes nothing.

    Raises:
        Refused: there is none, it is somebody else's, or the server is too old.
    """
    _check_version(conn, where)
    seen = await look(conn, config)
    _judge(seen, config, where)
    if not seen.table:
        raise Refused(
            NotFound(
                f"{where}: there is no journal in database {config.dbname}: no {config.schema}.lease, which the first "
                "agent makes; see `dbname` and `schema`"
            )
        )


def _check_version(conn: Connection, where: str) -> None:
    version = conn.pgconn.server_version
    if version < OLDEST:
        raise Refused(Forbidden(f"{where}: the server is PostgreSQL {version // 10000}: 13 to 18 are supported"))


async def look(conn: Connection, config: PostgreSQL) -> Seen:
    """What stands there now; changes nothing."""
    found = await one(await conn.execute(_LOOK, {"schema": config.schema, "marker": config.marker_group}))
    return Seen(**dict(zip(Seen.__dataclass_fields__, found, strict=True)))


def _judge(seen: Seen, config: PostgreSQL, where: str) -> None:
    if seen.schema and not seen.schema_ours:
        raise Refused(
            Forbidden(
                f"{where}: schema {config.schema} belongs to another role: it cannot be trusted as the journal; "
                f"drop it, or set `schema`"
            )
        )
    if seen.table and not seen.table_ours:
        raise Refused(
            Forbidden(f"{where}: {config.schema}.lease is not a table of {config.user}: drop it, or set `schema`")
        )


def _judge_marker(seen: Seen, config: PostgreSQL, where: str, *, version: int) -> None:
    if seen.marker_tainted:
        raise Refused(
            Forbidden(
                f"{where}: role {config.marker_group} has LOGIN, another attribute or a membership: every lease user "
                "would inherit from it; make it a plain NOLOGIN role, or set `marker_group`"
            )
        )
    # Before 16, CREATEROLE may grant any role; from 16 on, whoever made the group has this right.
    if seen.marker and not seen.marker_ours and version >= 160000:
        raise Refused(
            Forbidden(
                f"{where}: {config.user} may not grant {config.marker_group}, which another login made: "
                f"GRANT {config.marker_group} TO {config.user} WITH ADMIN OPTION, or set `marker_group`"
            )
        )


async def _make(conn: Connection, seen: Seen, config: PostgreSQL) -> None:
    schema = sql.Identifier(config.schema)
    table = sql.Identifier(config.schema, "lease")
    if not seen.marker:
        await conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(config.marker_group)))
    if not seen.schema:
        await conn.execute(sql.SQL("CREATE SCHEMA {}").format(schema))
        await conn.execute(sql.SQL("REVOKE ALL ON SCHEMA {} FROM PUBLIC").format(schema))
    if not seen.table:
        columns = sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), sql.SQL(kind)) for name, kind in COLUMNS.items()
        )
        await conn.execute(sql.SQL("CREATE TABLE {} ({})").format(table, columns))
        await conn.execute(sql.SQL("REVOKE ALL ON {} FROM PUBLIC").format(table))
        for name in INDEXES:
            await conn.execute(create_index(config, name))


def create_index(config: PostgreSQL, name: str) -> sql.Composed:
    """The statement that makes one of INDEXES."""
    column, only = INDEXES[name]
    where = sql.SQL("" if only is None else f" WHERE {only}")
    table = sql.Identifier(config.schema, "lease")
    return sql.SQL("CREATE INDEX {} ON {} ({}){}").format(sql.Identifier(name), table, sql.Identifier(column), where)


def _cannot_make(exc: psycopg.Error, config: PostgreSQL, where: str) -> Refused:
    if exc.sqlstate != "42501":
        return Refused(error_of(exc, f"{where}: making the journal"))
    return Refused(
        Forbidden(
            f"{where}: {config.user} may not make its journal: it needs CREATEROLE, and CREATE on database "
            f"{config.dbname} (or a schema of its own: CREATE SCHEMA {config.schema} AUTHORIZATION {config.user})"
        )
    )
