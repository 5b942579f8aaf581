"""Judges the agent's own login: what it lacks, and what it could do beyond its work. Pure."""

from collections.abc import Iterator

from agent.config.model import PostgreSQL
from agent.engines.postgres import setup
from agent.engines.postgres.rights.facts import Facts
from agent.engines.postgres.rights.finding import Finding, Level, identifier, plain, revoke_membership

_SOON = 30 * 86400.0


def version(number: int) -> Finding:
    """Whether the server's version is one of ours (R003-127)."""
    major = number // 10000
    if number < setup.OLDEST:
        text = f"PostgreSQL {major} is too old: 13 to 18 are supported"
        return Finding(level=Level.MISSING, subject="server", text=text)
    if number < setup.SUPPORTED:
        text = f"PostgreSQL {major} is no longer supported by its makers: move to 13 or later, better 16"
        return Finding(level=Level.WARNING, subject="server", text=text)
    return Finding(level=Level.OK, subject="server", text=f"PostgreSQL {major}.{number % 10000}")


def judge(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    """The login's attributes and memberships, and what follows from them."""
    yield from _createrole(facts, config)
    if not facts.login.superuser:
        yield from _attributes(facts, config)
        yield from _memberships(facts, config)
    yield from _database(facts, config)
    yield from _bounds(facts, config)


def _createrole(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    login, user = facts.login, identifier(config.user)
    subject = f"login {plain(config.user)}"
    if login.bootstrap:
        text = "is the server's first superuser: make a login of the agent's own, and set `user`"
        remedy: tuple[str, ...] = ()
        yield Finding(level=Level.TOO_MUCH, subject=subject, text=text, remedy=remedy)
    elif login.superuser:
        text = "is a superuser: CREATEROLE is all it needs"
        remedy = (f"ALTER ROLE {user} NOSUPERUSER CREATEROLE",)
        yield Finding(level=Level.TOO_MUCH, subject=subject, text=text, remedy=remedy)
    elif not login.createrole:
        text = "lacks CREATEROLE: it can make no users"
        yield Finding(level=Level.MISSING, subject=subject, text=text, remedy=(f"ALTER ROLE {user} CREATEROLE",))
    else:
        yield Finding(level=Level.OK, subject=subject, text="has CREATEROLE, and is no superuser")
        yield from _before_16(facts, subject)


def _before_16(facts: Facts, subject: str) -> Iterator[Finding]:
    """What CREATEROLE means there: documented, and not to be taken away."""
    if facts.version >= 160000:
        return
    reads = "" if facts.version < 140000 else ", or pg_read_all_data and read every table"
    text = (
        "may, before PostgreSQL 16, join any role that is no superuser: it can grant itself "
        f"pg_execute_server_program and run programs as the server{reads}; keep its password as a superuser's, "
        "or move to 16"
    )
    yield Finding(level=Level.WARNING, subject=subject, text=text)


def _attributes(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    login = facts.login
    for word, has, text in (
        ("CREATEDB", login.createdb, "may make databases"),
        ("REPLICATION", login.replication, "may copy the whole server by replication"),
        ("BYPASSRLS", login.bypassrls, "passes by every row level security policy"),
    ):
        if has:
            remedy = (f"ALTER ROLE {identifier(config.user)} NO{word}",)
            yield Finding(
                level=Level.TOO_MUCH,
                subject=f"login {plain(config.user)}",
                text=f"has {word}: it {text}, and needs nothing of it",
                remedy=remedy,
            )


def _memberships(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    for role in facts.acts_as:
        yield Finding(
            level=Level.TOO_MUCH,
            subject=f"login {plain(config.user)}",
            text=f"has the rights of {plain(role)}, which is no `group` of this configuration",
            remedy=(revoke_membership(role, config.user, version=facts.version, grantors=facts.grantors),),
        )


def _database(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    login = facts.login
    if login.owns_database and not login.superuser:
        journal = () if facts.journal.seen.schema else (_own_schema(config),)
        yield Finding(
            level=Level.TOO_MUCH,
            subject=f"database {plain(config.dbname)}",
            text="belongs to the agent's login, which could drop it: a schema of its own is enough",
            remedy=(*journal, f"ALTER DATABASE {identifier(config.dbname)} OWNER TO {identifier(facts.first)}"),
        )
    for dbname in facts.shut_out:
        yield Finding(
            level=Level.MISSING,
            subject=f"database {plain(dbname)}",
            text="admits lease users and not the agent's login, which could not tidy up after them there",
            remedy=(f"GRANT CONNECT ON DATABASE {identifier(dbname)} TO {identifier(config.user)}",),
        )


def _own_schema(config: PostgreSQL) -> str:
    return f"CREATE SCHEMA {identifier(config.schema)} AUTHORIZATION {identifier(config.user)}"


def _bounds(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    login, user = facts.login, identifier(config.user)
    subject = f"login {plain(config.user)}"
    # One more than it keeps open: to look into the other databases of a user that is ended.
    if 0 <= login.limit <= config.max_calls:
        text = f"may have {login.limit} connections, and needs {config.max_calls + 1}, one more than max_calls"
        yield Finding(
            level=Level.WARNING, subject=subject, text=text, remedy=(f"ALTER ROLE {user} CONNECTION LIMIT -1",)
        )
    if login.ends_in is not None and login.ends_in < _SOON:
        text = f"its password is good for {max(0, int(login.ends_in // 86400))} days more (VALID UNTIL)"
        remedy = (f"ALTER ROLE {user} VALID UNTIL 'infinity'",)
        yield Finding(level=Level.WARNING, subject=subject, text=text, remedy=remedy)
