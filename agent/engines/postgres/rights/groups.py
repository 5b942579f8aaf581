"""Judges the groups: the one that marks our users, and those that hold the users' privileges. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from agent.config.model import PostgreSQL
from agent.engines.postgres.rights.facts import Facts, Group
from agent.engines.postgres.rights.finding import (
    Finding,
    Level,
    grant_admin,
    identifier,
    plain,
    revoke_membership,
)
from agent.engines.postgres.users import ATTRIBUTES

_PLAIN_ROLE = "NOLOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS"


def marker(facts: Facts, config: PostgreSQL) -> Iterator[Finding]:
    """The marker group, as `setup` will demand it."""
    group, name = facts.marker, identifier(config.marker_group)
    subject = f"marker group {plain(config.marker_group)}"
    if group is None:
        yield Finding(level=Level.OK, subject=subject, text="is not there yet: it is made at first use")
        return
    problems = [*_tainted(group, facts, subject), *_ungrantable(group, facts, config, subject)]
    yield from problems
    if group.holds and not group.member_of:
        # REASSIGN first: DROP OWNED alone would drop what it owns.
        first = (f"REASSIGN OWNED BY {name} TO {identifier(facts.first)}",) if group.owns else ()
        yield Finding(
            level=Level.TOO_MUCH,
            subject=subject,
            text="has privileges or owns something, here or in another database: every lease user inherits that",
            remedy=(*first, f"DROP OWNED BY {name}"),
        )
    elif not problems:
        yield Finding(level=Level.OK, subject=subject, text="marks the agent's users, and gives them nothing")


def _tainted(group: Group, facts: Facts, subject: str) -> Iterator[Finding]:
    if not (group.can_login or group.powerful or group.member_of):
        return
    leave = [
        revoke_membership(role, group.name, version=facts.version, grantors=facts.grantors) for role in group.member_of
    ]
    own = [f"ALTER ROLE {identifier(group.name)} {_PLAIN_ROLE}"] if group.can_login or group.powerful else []
    yield Finding(
        level=Level.MISSING,
        subject=subject,
        text="has LOGIN, another attribute or a membership: the agent refuses it, every lease user would inherit that",
        remedy=(*own, *leave),
    )


def _ungrantable(group: Group, facts: Facts, config: PostgreSQL, subject: str) -> Iterator[Finding]:
    """Before 16 CREATEROLE may grant every role but superusers; from 16 on it takes ADMIN OPTION."""
    if facts.version >= 160000 and not group.grantable:
        yield Finding(
            level=Level.MISSING,
            subject=subject,
            text=f"may not be granted by {plain(config.user)}: it makes no users without ADMIN OPTION on it",
            remedy=(grant_admin(group.name, config.user, version=facts.version),),
        )


def judge(facts: Facts, config: PostgreSQL, users: Mapping[str, Sequence[str]]) -> Iterator[Finding]:
    """The groups by which roles get their privileges; `users` names the roles of each."""
    for name, roles in users.items():
        subject = f"group {plain(name)}"
        group = facts.groups.get(name)
        if group is None:
            yield _absent(name, roles, facts, config)
            continue
        problems = [
            *_unfit(group, facts, subject),
            *_ungrantable(group, facts, config, subject),
            *_shut_out(group, facts, subject),
            *_idle(group, subject),
        ]
        yield from problems
        if not problems:
            yield Finding(
                level=Level.OK, subject=subject, text="is NOLOGIN, may be granted, may CONNECT and has privileges"
            )


def _absent(name: str, roles: Sequence[str], facts: Facts, config: PostgreSQL) -> Finding:
    make = [f"CREATE ROLE {identifier(name)} NOLOGIN"]
    if facts.version >= 160000:
        make.append(grant_admin(name, config.user, version=facts.version))
    text = f"does not exist: no users can be made for {', '.join(roles)}"
    return Finding(level=Level.MISSING, subject=f"group {plain(name)}", text=text, remedy=tuple(make))


def _unfit(group: Group, facts: Facts, subject: str) -> Iterator[Finding]:
    """What the engine refuses at every mint: its users' sessions act as the group."""
    if group.can_login or group.powerful:
        yield Finding(
            level=Level.MISSING,
            subject=subject,
            text=f"has LOGIN, {ATTRIBUTES}: the agent makes no users for it, since they act as it",
            remedy=(f"ALTER ROLE {identifier(group.name)} {_PLAIN_ROLE}",),
        )
    for role in group.powers:
        yield Finding(
            level=Level.MISSING,
            subject=subject,
            text=f"reaches {ATTRIBUTES} as a member of {plain(role)}: the agent makes no users for it",
            remedy=(revoke_membership(role, group.name, version=facts.version, grantors=facts.grantors),),
        )


def _shut_out(group: Group, facts: Facts, subject: str) -> Iterator[Finding]:
    for access in facts.access:
        if access.group != group.name or access.connect:
            continue
        dbname = identifier(access.dbname)
        if not access.exists:
            text = f"database {plain(access.dbname)}, where its users are to log in, does not exist"
            yield Finding(level=Level.MISSING, subject=subject, text=text, remedy=(f"CREATE DATABASE {dbname}",))
            continue
        text = f"may not CONNECT to database {plain(access.dbname)}: its users are refused there"
        remedy = (f"GRANT CONNECT ON DATABASE {dbname} TO {identifier(group.name)}",)
        yield Finding(level=Level.MISSING, subject=subject, text=text, remedy=remedy)


def _idle(group: Group, subject: str) -> Iterator[Finding]:
    if not group.holds:
        name = identifier(group.name)
        yield Finding(
            level=Level.WARNING,
            subject=subject,
            text="has no privilege on anything in any database: its users can do what PUBLIC can; grant, for example",
            remedy=(
                f'GRANT USAGE ON SCHEMA "public" TO {name}',
                f'GRANT SELECT ON ALL TABLES IN SCHEMA "public" TO {name}',
            ),
        )
