"""Who gets what a lease user owned: its role's group, or a role of ours that nobody is. Also: acting as such a role.

Never the agent's own login: a function the user made SECURITY DEFINER would from then on run with CREATEROLE.
"""

import contextlib
from collections.abc import AsyncIterator

import psycopg
from psycopg import sql

from agent.engines.postgres.connections import Connection
from agent.engines.postgres.errors import Refused
from agent.engines.postgres.users import ORPHANED, REACHED, take_rights
from agent.errors import Forbidden

_ABOUT = """
SELECT r.rolcanlogin OR EXISTS (SELECT FROM reached JOIN powers USING (oid)), pg_has_role(r.oid, 'USAGE'),
  EXISTS (SELECT FROM pg_auth_members m JOIN pg_roles u ON u.oid = m.member
    WHERE m.roleid = r.oid AND u.rolname <> current_user AND NOT u.rolsuper)
FROM pg_roles r WHERE r.rolname = %(name)s
"""
_LOOK = REACHED + _ABOUT


async def heir(conn: Connection, group: str | None, where: str) -> str:
    """A role that may own what a user leaves, and over which the agent's login has the rights; outside a transaction.

    Raises:
        Refused: `leasehold_orphaned` is somebody's login, or somebody is a member of it.
    """
    if group is not None and await fit(conn, group):
        return group
    # Another agent may be making it at this moment, which is as good.
    if not await _exists(conn, ORPHANED):
        with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            await conn.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(ORPHANED)))
    if not await fit(conn, ORPHANED, alone=True):
        raise Refused(
            Forbidden(
                f"{where}: role {ORPHANED} has LOGIN, another attribute or members: it is to own what users leave; "
                f"make it a plain NOLOGIN role without members"
            )
        )
    return ORPHANED


_SHARED = """
SELECT pg_has_role(%(user)s, r.oid, 'MEMBER')
  AND NOT (r.rolcanlogin OR EXISTS (SELECT FROM reached JOIN powers USING (oid))),
  pg_has_role(r.oid, 'USAGE')
FROM pg_roles r WHERE r.rolname = %(name)s
"""


@contextlib.asynccontextmanager
async def lent(conn: Connection, name: str, *, user: str) -> AsyncIterator[bool]:
    """Let our login have the rights of the role `name` for this block; yields whether it has them.

    Only if `user` can act as that role, and nobody logs in as it. Outside a transaction.
    """
    found = await (await conn.execute(REACHED + _SHARED, {"name": name, "user": user})).fetchone()
    fit_for_it, ours = found or (False, False)
    if not fit_for_it or ours:
        yield fit_for_it
        return
    await take_rights(conn, name)
    try:
        yield True
    finally:
        if not conn.closed:
            await conn.execute(sql.SQL("REVOKE {} FROM CURRENT_USER").format(sql.Identifier(name)))


async def _exists(conn: Connection, name: str) -> bool:
    return await (await conn.execute("SELECT FROM pg_roles WHERE rolname = %s", (name,))).fetchone() is not None


async def fit(conn: Connection, name: str, *, alone: bool = False) -> bool:
    """Whether the role may own what is left: nobody's login, without any power, `alone` without members; ours then.

    Giving our login the role's rights, where it lacks them, needs no transaction either.
    """
    found = await (await conn.execute(_LOOK, {"name": name})).fetchone()
    if found is None:
        return False
    powerful, ours, has_members = found
    if powerful or (alone and has_members):
        return False
    if not ours:
        with contextlib.suppress(psycopg.errors.UniqueViolation):
            await take_rights(conn, name)
    return True
