"""Judges the journal: whether it is there or can be made, is nobody else's, and is read quickly. Pure."""

from collections.abc import Iterator

from agent.config.model import PostgreSQL
from agent.engines.postgres import setup
from agent.engines.postgres.rights.facts import Facts
from agent.engines.postgres.rights.finding import Finding, Level, grantee, identifier, plain


def judge(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    """The journal's schema and table."""
    problems = [*_place(facts, config), *_shape(facts, config), *_openness(facts, config), *_indexes(facts, config)]
    yield from problems
    if not problems:
        made = "is the agent's own, and closed to others" if facts.journal.seen.table else "will be made at first use"
        yield Finding(level=Level.OK, subject=_subject(config), text=made)


def _subject(config: PostgreSQL) -> str:
    return f"journal {plain(config.schema)}.lease"


def _place(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    seen, user, schema = facts.journal.seen, identifier(config.user), identifier(config.schema)
    if not seen.schema and not facts.login.may_create:
        text = f"cannot be made: {plain(config.user)} has no schema of its own here, and may make none"
        remedy = (f"CREATE SCHEMA {schema} AUTHORIZATION {user}",)
        yield Finding(level=Level.MISSING, subject=_subject(config), text=text, remedy=remedy)
    elif seen.schema and not seen.schema_ours:
        text = (
            f"schema {plain(config.schema)} belongs to another role: look at what is in it; if it was meant for the "
            "agent, give it to it, else set `schema`"
        )
        remedy = (f"ALTER SCHEMA {schema} OWNER TO {user}",)
        yield Finding(level=Level.MISSING, subject=_subject(config), text=text, remedy=remedy)
    elif seen.table and not seen.table_ours:
        text = "is not an ordinary table of the agent's login: somebody else made it; drop it, or set `schema`"
        yield Finding(level=Level.MISSING, subject=_subject(config), text=text)


def _shape(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    journal, table = facts.journal, identifier(config.schema, "lease")
    if journal.lacking:
        yield Finding(
            level=Level.MISSING,
            subject=_subject(config),
            text=f"lacks {', '.join(journal.lacking)}: no lease can be written to it",
            remedy=tuple(
                f"ALTER TABLE {table} ADD COLUMN {identifier(name)} {setup.COLUMNS[name].split()[0]}"
                for name in journal.lacking
            ),
        )
    if journal.wrong:
        text = f"has columns of another type: {', '.join(journal.wrong)}; it is not the agent's, set `schema`"
        yield Finding(level=Level.MISSING, subject=_subject(config), text=text)


def _openness(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    schema, table = identifier(config.schema), identifier(config.schema, "lease")
    for shared in facts.journal.shared:
        what = f"SCHEMA {schema}" if shared.kind == "SCHEMA" else table
        whose = "everybody (PUBLIC)" if shared.grantee == "" else plain(shared.grantee)
        yield Finding(
            level=Level.TOO_MUCH,
            subject=_subject(config),
            text=f"is open to {whose}: {shared.privileges} on its {shared.kind.lower()}; it is the agent's alone",
            remedy=(f"REVOKE ALL ON {what} FROM {grantee(shared.grantee)}",),
        )
    for default in facts.journal.defaults:
        whose = "everybody (PUBLIC)" if default.grantee == "" else plain(default.grantee)
        place = "" if default.everywhere else f" IN SCHEMA {schema}"
        yield Finding(
            level=Level.WARNING,
            subject=_subject(config),
            text=f"default privileges open {default.kind.lower()} of the agent's login to {whose} as they are made",
            remedy=(
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {identifier(config.user)}{place} "
                f"REVOKE ALL ON {default.kind} FROM {grantee(default.grantee)}",
            ),
        )


def _indexes(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    for name in facts.journal.unindexed:
        column, _ = setup.INDEXES[name]
        yield Finding(
            level=Level.WARNING,
            subject=_subject(config),
            text=f"has no index on {column}: it is read whole again and again, which gets slow as rows gather",
            # What has its name is no such index, or an invalid one.
            remedy=(
                f"DROP INDEX IF EXISTS {identifier(config.schema, name)}",
                setup.create_index(config, name).as_string(),
            ),
        )
