"""What surrounds the leases of one server: its settings, who lives there, what fills up. Read, not judged."""

from collections.abc import Mapping
from dataclasses import dataclass

from psycopg import sql

from agent.config.model import PostgreSQL
from agent.engines.postgres.connections import Connection
from agent.engines.postgres.journal import one


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The server's settings that matter to us.

    Attributes:
        connections: for ordinary logins, those in use included.
        used: connections that are open.
        self_grant: createrole_self_grant, "" before PostgreSQL 16.
    """

    standby: bool
    connections: int
    used: int
    password_encryption: str
    log_statement: str
    prepared: int
    self_grant: str


@dataclass(frozen=True, kw_only=True)
class Crowded:
    """Something on which lease users have privileges of their own, and how many others have."""

    thing: str
    lease_users: int
    grantees: int


@dataclass(frozen=True, kw_only=True)
class Estate:
    """What lives on the server.

    Attributes:
        live: leases that have not ended.
        overdue: leases that ended a while ago and still have a row that says so; `oldest` is how long ago, in seconds.
        strangers: members of the marker group without a live row, and who granted that.
        crowded: the five with the most grantees.
        open_schemas: schemas of this database in which everybody may create.
    """

    settings: Settings
    live: int
    overdue: int
    oldest: float
    strangers: Mapping[str, str]
    crowded: tuple[Crowded, ...]
    open_schemas: tuple[str, ...]


_SETTINGS = """
SELECT pg_is_in_recovery(),
  current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
    - coalesce(current_setting('reserved_connections', true), '0')::int,
  (SELECT count(*) FROM pg_stat_activity WHERE datid IS NOT NULL AND usesysid IS NOT NULL)::int,
  current_setting('password_encryption'), current_setting('log_statement'),
  current_setting('max_prepared_transactions')::int, coalesce(current_setting('createrole_self_grant', true), '')
"""

_LEASES = """
SELECT count(*) FILTER (WHERE expires > t.now), count(*) FILTER (WHERE expires < t.now - t.patience),
  coalesce(max(extract(epoch FROM t.now - expires)), 0)::float8
FROM {}, (SELECT clock_timestamp() AS now, make_interval(secs => %s::float8) AS patience) t
WHERE revoked_at IS NULL AND username <> ''
"""

_STRANGERS = """
SELECT r.rolname::text, pg_get_userbyid(m.grantor)::text
FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
WHERE pg_get_userbyid(m.roleid) = %s AND NOT m.admin_option {} ORDER BY 1
"""
_WITHOUT_A_ROW = "AND NOT EXISTS (SELECT FROM {} l WHERE l.username = r.rolname AND l.revoked_at IS NULL)"

_CROWDED = """
SELECT CASE WHEN s.dbid IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
    THEN coalesce(pg_describe_object(s.classid, s.objid, 0), 'something')
    ELSE 'something in database ' || (SELECT datname FROM pg_database WHERE oid = s.dbid) END,
  (count(DISTINCT s.refobjid) FILTER (WHERE m.member IS NOT NULL))::int, count(DISTINCT s.refobjid)::int
FROM pg_shdepend s LEFT JOIN pg_auth_members m ON m.member = s.refobjid AND NOT m.admin_option
  AND pg_get_userbyid(m.roleid) = %s
WHERE s.refclassid = 'pg_authid'::regclass AND s.deptype = 'a'
GROUP BY s.dbid, s.classid, s.objid HAVING count(m.member) > 0 ORDER BY 3 DESC, 1 LIMIT 5
"""

_OPEN_SCHEMAS = """
SELECT n.nspname::text FROM pg_namespace n
WHERE n.nspname !~ '^pg_' AND EXISTS (
  SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a
  WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')
ORDER BY 1
"""


async def read(conn: Connection, config: PostgreSQL, *, journal: bool) -> Estate:
    """Look everything up; `journal` says whether there is one to read."""
    live, overdue, oldest = 0, 0, 0.0
    table = sql.Identifier(config.schema, "lease")
    without: sql.Composable = sql.SQL("")
    if journal:
        patience = max(60.0, 3 * config.cleanup_interval)
        live, overdue, oldest = await one(await conn.execute(sql.SQL(_LEASES).format(table), (patience,)))
        without = sql.SQL(_WITHOUT_A_ROW).format(table)
    strangers = await conn.execute(sql.SQL(_STRANGERS).format(without), (config.marker_group,))
    crowded = await conn.execute(_CROWDED, (config.marker_group,))
    fields = Settings.__dataclass_fields__
    return Estate(
        settings=Settings(**dict(zip(fields, await one(await conn.execute(_SETTINGS)), strict=True))),
        live=live,
        overdue=overdue,
        oldest=oldest,
        strangers=dict(await strangers.fetchall()),
        crowded=tuple(Crowded(thing=t, lease_users=u, grantees=g) for t, u, g in await crowded.fetchall()),
        open_schemas=tuple([str(name) for (name,) in await (await conn.execute(_OPEN_SCHEMAS)).fetchall()]),
    )
