"""How a user is made, kept and, where making it failed half way, cleaned up after: row and user in one transaction."""

from collections.abc import Sequence

import psycopg

from agent import failpoints, log
from agent.engines.postgres import users
from agent.engines.postgres.connections import Connection, transaction
from agent.engines.postgres.errors import Refused, condition, error_of, no_privileges
from agent.engines.postgres.journal import Journal, Mint
from agent.engines.postgres.recipe import Recipe
from agent.engines.postgres.statements import Statement, Values, render
from agent.engines.postgres.users import User, iso
from agent.errors import Forbidden, NotFound, RateLimited
from agent.failpoints import Failpoint
from agent.log import Event

_log = log.get(__name__)
_GRANTED_NOTHING = {"01007", "0LP01"}


async def mint(
    conn: Connection, journal: Journal, recipe: Recipe, mint: Mint, *, verifier: str, marker: str, where: str
) -> None:
    """Make the user of `mint`, with its row.

    Raises:
        Refused, CommitFailed, psycopg.Error: see `errors.translated`; then neither exists, save after CommitFailed.
    """
    conn.warnings.clear()
    try:
        async with transaction(conn):
            if recipe.grants or recipe.role.max_leases is not None:
                await journal.one_at_a_time(conn)
            await _admit(conn, journal, recipe, where)
            expires = await journal.insert(conn, mint)
            failpoints.reach(Failpoint.ISSUE_INSERTED)
            values = Values(name=mint.username, password=verifier, expiration=iso(expires))
            await _create(conn, recipe, values, expires, marker=marker, where=where)
            user = await users.look(conn, mint.username, marker)
            _judge(conn, user, expires, where)
            failpoints.reach(Failpoint.ISSUE_CREATED)
    except _Full:
        raise
    except (psycopg.Error, Refused):
        await _roll_back(conn, recipe, mint.username)
        raise
    failpoints.reach(Failpoint.ISSUE_COMMITTED)


class _Full(Refused):
    """Nothing was begun, so there is nothing to clean up after."""


async def _admit(conn: Connection, journal: Journal, recipe: Recipe, where: str) -> None:
    """Whether the role may have one more lease (R003-119); exact, since whoever mints it waits for us."""
    most = recipe.role.max_leases
    if most is None or await journal.live(conn, recipe.name) < most:
        return
    raise _Full(
        RateLimited(
            f"{where}: max_leases = {most} leases of this role live already: `leasehold leases --group-by owner "
            f"--everyone` says whose; revoke what nobody needs, or raise max_leases"
        )
    )


async def _create(conn: Connection, recipe: Recipe, values: Values, expires: float, *, marker: str, where: str) -> None:
    group = recipe.role.group
    if group is not None:
        _judge_group(await users.look(conn, group, marker), group, where)
    if recipe.creation:
        await run(conn, recipe.creation, values, key="creation_statements", where=where)
        if await users.look(conn, values.name, marker) is None:
            raise Refused(Forbidden(f"{where}: creation_statements made no role called {{{{name}}}}"))
        if group is not None:
            await users.join(conn, values.name, group)
    else:
        await users.create(conn, values.name, verifier=values.password, expires=expires, group=group)
    await users.mark(conn, values.name, marker)
    if group is not None:
        await users.act_as(conn, values.name, group)
    if recipe.role.connection_limit is not None:
        await users.bound(conn, values.name, recipe.role.connection_limit)


async def run(conn: Connection, statements: Sequence[Statement], values: Values, *, key: str, where: str) -> None:
    """A role's own SQL, inside the caller's transaction.

    Raises:
        Refused: naming the statement that failed by its place in the configuration.
    """
    conn.soiled = True
    for index, statement in enumerate(statements):
        try:
            await conn.execute(render(statement, values, conn))
        except psycopg.Error as exc:
            raise Refused(error_of(exc, f"{where}: {key}[{index}]", secrets=(values.name,))) from None
    # They may have acted as another role, which is fine; we go on as ourselves.
    await conn.execute("RESET SESSION AUTHORIZATION")


def _judge_group(group: User | None, name: str, where: str) -> None:
    if group is None:
        raise Refused(NotFound(f"{where}: its group {name} does not exist: CREATE ROLE {name} NOLOGIN"))
    if group.can_login or group.privileged or group.reaches:
        raise Refused(
            Forbidden(
                f"{where}: its group {name} has LOGIN, or has, by itself or a membership, {users.ATTRIBUTES}: its "
                "users' sessions act as it; make it a plain NOLOGIN role"
            )
        )


def _judge(conn: Connection, user: User | None, expires: float, where: str) -> None:
    """Whether what was made is what a lease user may be."""
    if _GRANTED_NOTHING.intersection(conn.warnings):
        raise Refused(Forbidden(no_privileges(where)))
    wrong = _wrong(user, expires)
    if wrong is not None:
        raise Refused(Forbidden(f"{where}: creation_statements {wrong}"))


def _wrong(user: User | None, expires: float) -> str | None:
    if user is None or not user.can_login:
        return "made a role without LOGIN"
    if user.ends is None or abs(user.ends - expires) > 0.001:
        return "left VALID UNTIL at something else than '{{expiration}}'"
    if user.privileged:
        return f"gave {users.ATTRIBUTES}, which no lease user may have"
    if user.reaches:
        return f"or group made it a member of a role with {users.ATTRIBUTES}"
    return None


async def _roll_back(conn: Connection, recipe: Recipe, username: str) -> None:
    """The role's rollback statements, after the transaction's own; failing ones are said and change nothing."""
    if not recipe.rollback or conn.closed:
        return
    conn.soiled = True
    for index, statement in enumerate(recipe.rollback):
        try:
            await conn.execute(render(statement, Values(name=username), conn))
        except psycopg.Error as exc:
            _log.warning(Event.UPSTREAM, role=recipe.name, warning=f"rollback_statements[{index}]: {condition(exc)}")
