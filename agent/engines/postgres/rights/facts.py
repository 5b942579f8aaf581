"""What a server's catalogs say of the agent's login, its groups, its journal and what lives there: read, not judged.

Nothing here changes anything, and every catalog used is one that any login may read.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.config.model import PostgreSQL
from agent.engines.postgres import setup
from agent.engines.postgres.connections import Connection
from agent.engines.postgres.journal import one
from agent.engines.postgres.users import ORPHANED


@dataclass(frozen=True, kw_only=True)
class Login:
    """The agent's own login.

    Attributes:
        bootstrap: it is the role that the server was made with, which stays a superuser.
        limit: connections it may have at once, -1 for any number.
        ends_in: seconds until its own VALID UNTIL; None where it has none.
        owns_database, may_create: of the database it logs in to; `may_create` is the privilege CREATE.
    """

    superuser: bool
    bootstrap: bool
    createrole: bool
    createdb: bool
    replication: bool
    bypassrls: bool
    limit: int
    ends_in: float | None
    owns_database: bool
    may_create: bool


@dataclass(frozen=True, kw_only=True)
class Group:
    """A role that lease users are members of.

    Attributes:
        powerful: it has an attribute that no lease user may have.
        powers: the roles it is directly a member of, and by which it reaches such an attribute.
        member_of: every role it is directly a member of.
        grantable: our login has ADMIN OPTION on it.
        holds: it, or a role that it reaches, has privileges on something in some database, or owns something.
        owns: it owns something itself.
    """

    name: str
    can_login: bool
    powerful: bool
    powers: tuple[str, ...]
    member_of: tuple[str, ...]
    grantable: bool
    holds: bool
    owns: bool


@dataclass(frozen=True, kw_only=True)
class Access:
    """Whether a group may CONNECT to a database; `exists` is the database's."""

    group: str
    dbname: str
    exists: bool
    connect: bool


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What somebody else may do with the journal: on its SCHEMA or TABLE; `grantee` may be PUBLIC."""

    kind: str
    grantee: str
    privileges: str


@dataclass(frozen=True, kw_only=True)
class Default:
    """A default privilege of our login that the journal would get; `everywhere` or only in its schema."""

    everywhere: bool
    kind: str
    grantee: str


@dataclass(frozen=True, kw_only=True)
class Journal:
    """The journal as it stands.

    Attributes:
        seen: whether schema, table and marker group are there, and ours.
        lacking: its columns that the table does not have.
        wrong: those it has of another type.
        unindexed: names of `setup.INDEXES` without which it is read slowly.
    """

    seen: setup.Seen
    lacking: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    unindexed: tuple[str, ...] = ()
    shared: tuple[Shared, ...] = ()
    defaults: tuple[Default, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of the rights at one server.

    Attributes:
        version: as PostgreSQL numbers it, 160014 for 16.14.
        first: the name of the role that the server was made with, a superuser.
        acts_as: roles whose rights our login has and does not need.
        grantors: who granted a membership, by member and role.
        shut_out: databases that a group may enter and our login may not.
    """

    version: int
    first: str
    login: Login
    acts_as: tuple[str, ...]
    marker: Group | None
    groups: Mapping[str, Group]
    access: tuple[Access, ...]
    shut_out: tuple[str, ...]
    grantors: Mapping[tuple[str, str], str]
    journal: Journal


# It lets the login in when ordinary connections have run out, which the runbook advises, and does nothing else.
_HARMLESS = ("pg_use_reserved_connections",)

_LOGIN = """
SELECT me.rolsuper, me.oid = 10, me.rolcreaterole, me.rolcreatedb, me.rolreplication, me.rolbypassrls, me.rolconnlimit,
  CASE WHEN isfinite(me.rolvaliduntil) THEN extract(epoch FROM me.rolvaliduntil - clock_timestamp())::float8 END,
  d.datdba = me.oid, has_database_privilege(d.oid, 'CREATE')
FROM pg_roles me, pg_database d WHERE me.rolname = current_user AND d.datname = current_database()
"""

_GROUPS = """
WITH RECURSIVE reached (root, via, oid) AS (
  SELECT r.oid, NULL::oid, r.oid FROM pg_roles r WHERE r.rolname = ANY (%(names)s)
  UNION
  SELECT d.root, coalesce(d.via, m.roleid), m.roleid FROM pg_auth_members m JOIN reached d ON m.member = d.oid
), power (oid) AS (
  SELECT oid FROM pg_roles WHERE rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls
)
SELECT g.rolname::text, g.rolcanlogin, g.oid IN (SELECT oid FROM power),
  ARRAY(SELECT DISTINCT v.rolname::text FROM reached d JOIN power USING (oid) JOIN pg_roles v ON v.oid = d.via
    WHERE d.root = g.oid ORDER BY 1),
  ARRAY(SELECT DISTINCT r.rolname::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
    WHERE m.member = g.oid ORDER BY 1),
  pg_has_role(g.oid, 'MEMBER WITH ADMIN OPTION'),
  EXISTS (SELECT FROM reached d WHERE d.root = g.oid AND (pg_get_userbyid(d.oid) LIKE 'pg\\_%%' OR EXISTS (
    SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = d.oid
      AND s.dbid <> 0 AND s.deptype IN ('a', 'o')))),
  EXISTS (SELECT FROM pg_shdepend s WHERE s.refclassid = 'pg_authid'::regclass AND s.refobjid = g.oid
    AND s.deptype = 'o')
FROM pg_roles g WHERE g.rolname = ANY (%(names)s)
"""

# Ending a lease makes our login a member of its user for a moment, and of the heirs for good: these are not too much.
_ACTS_AS = """
SELECT DISTINCT r.rolname::text FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid
WHERE pg_get_userbyid(m.member) = current_user AND NOT r.rolname = ANY (%(ours)s) {}
  AND NOT EXISTS (SELECT FROM pg_auth_members k WHERE k.member = r.oid AND pg_get_userbyid(k.roleid) = %(marker)s)
ORDER BY 1
"""
_RIGHTS_16 = "AND (m.inherit_option OR m.set_option)"

_GRANTORS = """
SELECT pg_get_userbyid(member)::text, pg_get_userbyid(roleid)::text, pg_get_userbyid(grantor)::text
FROM pg_auth_members WHERE pg_get_userbyid(member) = ANY (%(members)s)
"""

_ACCESS = """
SELECT w.role, w.dbname, d.oid IS NOT NULL, coalesce(has_database_privilege(g.oid, d.oid, 'CONNECT'), false)
FROM unnest(%(roles)s::text[], %(dbnames)s::text[]) AS w (role, dbname)
JOIN pg_roles g ON g.rolname = w.role LEFT JOIN pg_database d ON d.datname = w.dbname
"""

_SHUT_OUT = """
SELECT d.datname::text FROM pg_database d
WHERE d.datallowconn AND NOT has_database_privilege(d.oid, 'CONNECT') AND EXISTS (
  SELECT FROM pg_roles g WHERE g.rolname = ANY (%(names)s) AND has_database_privilege(g.oid, d.oid, 'CONNECT'))
ORDER BY 1
"""

_COLUMNS = """
SELECT w.name, EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = %(table)s AND a.attname = w.name)
FROM unnest(%(names)s::text[], %(types)s::text[]) AS w (name, type)
WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = %(table)s AND a.attname = w.name
  AND a.atttypid = w.type::regtype AND NOT a.attisdropped)
"""

_INDEXES = """
SELECT a.attname::text, coalesce(pg_get_expr(i.indpred, i.indrelid), '')
FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
WHERE i.indrelid = %(table)s AND i.indisvalid
"""

_SHARED = """
SELECT s.kind, coalesce(g.rolname::text, ''), string_agg(DISTINCT a.privilege_type, ', ')
FROM (
  SELECT 'SCHEMA' AS kind, nspacl AS acl, nspowner AS owner FROM pg_namespace WHERE nspname = %(schema)s
  UNION ALL
  SELECT 'TABLE', relacl, relowner FROM pg_class WHERE oid = %(table)s
) s, aclexplode(s.acl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
WHERE a.grantee <> s.owner GROUP BY 1, 2 ORDER BY 1, 2
"""

_DEFAULTS = """
SELECT DISTINCT d.defaclnamespace = 0, CASE d.defaclobjtype WHEN 'n' THEN 'SCHEMAS' ELSE 'TABLES' END,
  coalesce(g.rolname::text, '')
FROM pg_default_acl d, aclexplode(d.defaclacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee
WHERE pg_get_userbyid(d.defaclrole) = current_user AND a.grantee <> d.defaclrole AND d.defaclobjtype IN ('r', 'n')
  AND (d.defaclnamespace = 0 OR d.defaclnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s))
ORDER BY 1, 2, 3
"""

_TABLE = """
SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %(schema)s AND c.relname = 'lease'
"""


async def read(conn: Connection, config: PostgreSQL, groups: Mapping[str, Sequence[str]]) -> Facts:
    """Look everything up.

    Args:
        groups: by name, the databases that their users are to log in to.
    """
    version = conn.pgconn.server_version
    names = [config.marker_group, *groups]
    found = await _groups(conn, names)
    ours = {"ours": [*names, ORPHANED, *_HARMLESS], "marker": config.marker_group}
    acts_as = _ACTS_AS.format(_RIGHTS_16 if version >= 160000 else "")
    return Facts(
        version=version,
        first=str((await one(await conn.execute("SELECT pg_get_userbyid(10)::text")))[0]),
        login=Login(**dict(zip(Login.__dataclass_fields__, await one(await conn.execute(_LOGIN)), strict=True))),
        acts_as=tuple(await _column(conn, acts_as, ours)),
        marker=found.pop(config.marker_group, None),
        groups=found,
        access=await _access(conn, groups),
        shut_out=tuple(await _column(conn, _SHUT_OUT, {"names": list(groups)})),
        grantors=await _grantors(conn, [config.user, *names]),
        journal=await _journal(conn, config),
    )


async def _column(conn: Connection, query: str, values: Mapping[str, object]) -> list[str]:
    cursor = await conn.execute(query.encode(), values)
    return [str(name) for (name,) in await cursor.fetchall()]


async def _groups(conn: Connection, names: Sequence[str]) -> dict[str, Group]:
    cursor = await conn.execute(_GROUPS.encode(), {"names": list(names)})
    rows = [dict(zip(Group.__dataclass_fields__, found, strict=True)) for found in await cursor.fetchall()]
    lists = ("powers", "member_of")
    return {row["name"]: Group(**{**row, **{key: tuple(row[key]) for key in lists}}) for row in rows}


async def _access(conn: Connection, groups: Mapping[str, Sequence[str]]) -> tuple[Access, ...]:
    pairs = [(group, dbname) for group, dbnames in groups.items() for dbname in dbnames]
    wanted = {"roles": [group for group, _ in pairs], "dbnames": [dbname for _, dbname in pairs]}
    cursor = await conn.execute(_ACCESS, wanted)
    fields = Access.__dataclass_fields__
    return tuple(Access(**dict(zip(fields, found, strict=True))) for found in await cursor.fetchall())


async def _grantors(conn: Connection, members: Sequence[str]) -> dict[tuple[str, str], str]:
    cursor = await conn.execute(_GRANTORS, {"members": list(members)})
    return {(member, role): grantor for member, role, grantor in await cursor.fetchall()}


async def _journal(conn: Connection, config: PostgreSQL) -> Journal:
    seen = await setup.look(conn, config)
    defaults = await conn.execute(_DEFAULTS, {"schema": config.schema})
    known = [Default(everywhere=e, kind=k, grantee=g) for e, k, g in await defaults.fetchall()]
    if not (seen.schema_ours and seen.table_ours):
        return Journal(seen=seen, defaults=tuple(known))
    table = (await one(await conn.execute(_TABLE, {"schema": config.schema})))[0]
    types = {name: kind.split()[0] for name, kind in setup.COLUMNS.items()}
    said = {"table": table, "names": list(types), "types": list(types.values())}
    columns = await (await conn.execute(_COLUMNS, said)).fetchall()
    indexed = set(await (await conn.execute(_INDEXES, {"table": table})).fetchall())
    shared = await conn.execute(_SHARED, {"schema": config.schema, "table": table})
    return Journal(
        seen=seen,
        lacking=tuple(name for name, there in columns if not there),
        wrong=tuple(name for name, there in columns if there),
        unindexed=tuple(name for name, of in setup.INDEXES.items() if not _has(indexed, *of)),
        shared=tuple(Shared(kind=k, grantee=g, privileges=p) for k, g, p in await shared.fetchall()),
        defaults=tuple(known),
    )


def _has(indexed: set[tuple[str, str]], column: str, only: str | None) -> bool:
    """Whether some index begins with the column and has at least the rows that ours would have."""
    return (column, "") in indexed or (column, f"({only})") in indexed
