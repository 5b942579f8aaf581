"""Who is there now: the lease users with their ends and sessions, and what their groups may do (R003-109).

The two questions of somebody at 3 a.m.; docs/runbook.md has statements for psql that answer them as well.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from psycopg import sql

from agent.clock import Clock
from agent.config.model import PostgreSQL, Role
from agent.engines.postgres import setup
from agent.engines.postgres.connections import Connection
from agent.engines.postgres.errors import Refused
from agent.engines.postgres.rights.look import session, users_of
from agent.errors import Forbidden, UpstreamError
from agent.leases.schedule import CALL_DEADLINE


@dataclass(frozen=True, kw_only=True)
class LeaseUser:
    """A user of ours, or one that is taken for ours.

    Attributes:
        role: of the configuration; "" where no journal knows the user.
        holder: the pod that it was minted for.
        expires_in: seconds left of its lease by the server's clock, negative after its end; None without a row.
        valid_until: when its password ends, RFC 3339; "" where it has no end, or is gone.
        there: it is in the catalog.
        sessions: how many it has open.
    """

    user: str
    role: str
    holder: str
    expires_in: float | None
    valid_until: str
    there: bool
    sessions: int


@dataclass(frozen=True, kw_only=True)
class GroupRight:
    """What a group may do with one thing of this database."""

    group: str
    thing: str
    privileges: str


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Users and rights of one upstream.

    Attributes:
        place: the server and its database, `host:port/dbname`.
        error: why nothing is known; "" where it is.
    """

    upstream: str
    place: str
    users: tuple[LeaseUser, ...] = ()
    rights: tuple[GroupRight, ...] = ()
    error: str = ""

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


_USERS = """
WITH member AS (
  SELECT r.oid, r.rolname::text AS name, r.rolvaliduntil FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
  WHERE pg_get_userbyid(m.roleid) = {marker} AND NOT m.admin_option
), lease AS (
  SELECT username, role, holder, expires FROM {table} WHERE revoked_at IS NULL AND username <> ''
)
SELECT coalesce(l.username, m.name), coalesce(l.role, ''), coalesce(l.holder, ''),
  extract(epoch FROM l.expires - clock_timestamp())::float8,
  coalesce(to_char(m.rolvaliduntil AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'), ''), m.oid IS NOT NULL,
  (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = m.oid)::int
FROM lease l FULL JOIN member m ON m.name = l.username
ORDER BY l.expires NULLS LAST, 1
"""

_RIGHTS = """
SELECT g.rolname::text, s.thing, string_agg(DISTINCT a.privilege_type, ', ' ORDER BY a.privilege_type)
FROM (
  SELECT 'database ' || datname AS thing, datacl AS acl FROM pg_database WHERE datname = current_database()
  UNION ALL SELECT 'schema ' || nspname, nspacl FROM pg_namespace
  UNION ALL SELECT oid::regclass::text, relacl FROM pg_class
) s, aclexplode(s.acl) a JOIN pg_roles g ON g.oid = a.grantee
WHERE g.rolname = ANY (%s) GROUP BY 1, 2 ORDER BY 1, 2
"""


async def diagnose(name: str, config: PostgreSQL, roles: Mapping[str, Role], clock: Clock) -> Diagnosis:
    """Ask the server of one upstream who is there; changes nothing there, and raises nothing."""
    place = f"{config.host}:{config.port}/{config.dbname}"
    try:
        async with clock.timeout(CALL_DEADLINE), session(name, config, clock) as conn:
            users = await _users(conn, name, config)
            rights = await (await conn.execute(_RIGHTS, (list(users_of(roles)),))).fetchall()
    except TimeoutError:
        return Diagnosis(upstream=name, place=place, error=f"{name}: no answer within {CALL_DEADLINE:.0f} s")
    except UpstreamError as error:
        return Diagnosis(upstream=name, place=place, error=str(error))
    known = tuple(GroupRight(group=g, thing=t, privileges=p) for g, t, p in rights)
    return Diagnosis(upstream=name, place=place, users=users, rights=known)


async def _users(conn: Connection, name: str, config: PostgreSQL) -> tuple[LeaseUser, ...]:
    seen = await setup.look(conn, config)
    if not (seen.schema_ours and seen.table_ours):
        text = f"{name}: {config.user} has no journal there yet, or it is not its own: see `leasehold check --engine`"
        raise Refused(Forbidden(text))
    marker, table = sql.Literal(config.marker_group), sql.Identifier(config.schema, "lease")
    cursor = await conn.execute(sql.SQL(_USERS).format(marker=marker, table=table))
    fields = LeaseUser.__dataclass_fields__
    return tuple(LeaseUser(**dict(zip(fields, found, strict=True))) for found in await cursor.fetchall())
