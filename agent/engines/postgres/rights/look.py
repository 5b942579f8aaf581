"""One look at one server: log in as the agent does, read the catalogs, judge what they say."""

import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping

from agent.clock import Clock
from agent.config.model import PostgreSQL, Role
from agent.engines.finding import Inspection as Inspection
from agent.engines.finding import sorted_by_level
from agent.engines.postgres import setup
from agent.engines.postgres.connections import Connection, Connections
from agent.engines.postgres.errors import translated
from agent.engines.postgres.rights import estate, facts, groups, journal, login, surroundings
from agent.engines.postgres.rights.estate import Estate
from agent.engines.postgres.rights.facts import Facts
from agent.engines.postgres.rights.finding import Finding, Level, identifier, plain
from agent.engines.verify import targets_for
from agent.errors import UpstreamError
from agent.leases.schedule import CALL_DEADLINE


async def inspect(name: str, config: PostgreSQL, roles: Mapping[str, Role], clock: Clock) -> Inspection:
    """Look over the server of one upstream; changes nothing there, and raises nothing.

    Args:
        name: of the upstream.
        roles: those whose users it makes, by name.
    """
    reached = False
    try:
        async with clock.timeout(CALL_DEADLINE), session(name, config, clock) as conn:
            reached = True
            found = await _look(conn, config, roles)
    except TimeoutError:
        found = [_unanswered(f"{name}: {config.host}:{config.port} gave no answer within {CALL_DEADLINE:.0f} s")]
    except UpstreamError as error:
        found = [_unanswered(str(error)) if reached else _refused(error, config)]
    return Inspection(
        upstream=name,
        place=f"{config.host}:{config.port}/{config.dbname}",
        user=config.user,
        reached=reached,
        findings=sorted_by_level(found),
    )


@contextlib.asynccontextmanager
async def session(name: str, config: PostgreSQL, clock: Clock) -> AsyncIterator[Connection]:
    """A login as the engine's, which looks at nothing and makes nothing by itself.

    Raises:
        UpstreamError: the login, or the block, failed.
    """

    async def greet(conn: Connection) -> None:
        pass

    connections = Connections(config, where=name, clock=clock, greet=greet)
    try:
        with translated(name):
            async with connections.use() as conn:
                yield conn
    finally:
        connections.close()


async def _look(conn: Connection, config: PostgreSQL, roles: Mapping[str, Role]) -> list[Finding]:
    version = conn.pgconn.server_version
    if version < setup.OLDEST:
        return [login.version(version)]
    known = await facts.read(conn, config, databases(config, roles))
    seen = known.journal.seen
    readable = seen.schema_ours and seen.table_ours and not (known.journal.lacking or known.journal.wrong)
    around = await estate.read(conn, config, journal=readable)
    return list(_judged(known, around, config, users_of(roles)))


def _judged(known: Facts, around: Estate, config: PostgreSQL, users: Mapping[str, list[str]]) -> Iterator[Finding]:
    yield login.version(known.version)
    yield from login.judge(known, config)
    yield from groups.marker(known, config)
    yield from groups.judge(known, config, users)
    yield from journal.judge(known, config)
    yield from surroundings.judge(around, config, version=known.version)


def users_of(roles: Mapping[str, Role]) -> dict[str, list[str]]:
    """The roles of each group."""
    found: dict[str, list[str]] = {}
    for name, role in roles.items():
        if role.group is not None:
            found.setdefault(role.group, []).append(name)
    return found


def databases(config: PostgreSQL, roles: Mapping[str, Role]) -> dict[str, list[str]]:
    """For each group the databases of this server that its users are to log in to."""
    found: dict[str, list[str]] = {}
    for role in roles.values():
        if role.group is None:
            continue
        here = {one.dbname for one in targets_for(role, config) if (one.host, one.port) == (config.host, config.port)}
        known = found.setdefault(role.group, [])
        known += sorted(here.difference(known))
    return found


def _unanswered(text: str) -> Finding:
    return Finding(level=Level.MISSING, subject="server", text=text)


def _refused(error: UpstreamError, config: PostgreSQL) -> Finding:
    """A login that failed; where the server said why, SQL may mend it."""
    dbname, user = identifier(config.dbname), identifier(config.user)
    remedies = {
        "3D000": (f"CREATE DATABASE {dbname}",),
        "42501": (f"GRANT CONNECT ON DATABASE {dbname} TO {user}",),
    }
    return Finding(
        level=Level.MISSING,
        subject=f"login {plain(config.user)}",
        text=str(error),
        remedy=remedies.get(error.code, ()),
    )
