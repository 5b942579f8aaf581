"""Judges what surrounds the leases: server settings, direct grants, strangers, what piles up. Pure."""

from collections.abc import Iterator

from agent.config.model import PostgreSQL
from agent.engines.postgres.rights.estate import Estate, Settings
from agent.engines.postgres.rights.finding import Finding, Level, identifier, plain

_MANY = 1000
_FULL = 2400
_SHOWN = 5


def judge(estate: Estate, config: PostgreSQL, *, version: int) -> Iterator[Finding]:
    """The server's settings and what lives there."""
    if estate.settings.standby:
        text = "is a standby: users are made on the primary; correct `host`"
        yield Finding(level=Level.MISSING, subject="server", text=text)
    yield from _connections(estate.settings, config)
    yield from _passwords(estate.settings)
    yield from _traps(estate.settings, config)
    yield from _schemas(estate)
    yield from _leases(estate, config, version=version)
    yield from _direct_grants(estate)


def _connections(settings: Settings, config: PostgreSQL) -> Iterator[Finding]:
    free = settings.connections - settings.used
    text = f"{settings.used} of {settings.connections} connections are in use"
    if free < max(config.max_calls + 1, settings.connections // 5):
        more = f"{text}: when they run out, neither the agent nor the apps get in; raise max_connections, or end some"
        yield Finding(level=Level.WARNING, subject="server", text=more)
    else:
        yield Finding(level=Level.OK, subject="server", text=text)


def _passwords(settings: Settings) -> Iterator[Finding]:
    if settings.password_encryption != "scram-sha-256":  # noqa: S105 - the name of a method
        yield Finding(
            level=Level.WARNING,
            subject="server",
            text=f"password_encryption is {plain(settings.password_encryption)}: minted passwords are SCRAM all the "
            "same, one that an app sets for itself is not, and the agent's own must be",
            remedy=("ALTER SYSTEM SET password_encryption = 'scram-sha-256'", "SELECT pg_reload_conf()"),
        )
    if settings.log_statement in ("ddl", "mod", "all"):
        text = f"log_statement is {settings.log_statement}: its log shows SCRAM verifiers of minted users, no password"
        yield Finding(level=Level.OK, subject="server", text=text)


def _traps(settings: Settings, config: PostgreSQL) -> Iterator[Finding]:
    if settings.self_grant:
        yield Finding(
            level=Level.WARNING,
            subject=f"login {plain(config.user)}",
            text=f"createrole_self_grant is {plain(settings.self_grant)}: it becomes a member of every user that it "
            "makes, and each one makes its statements slower",
            remedy=(f"ALTER ROLE {identifier(config.user)} SET createrole_self_grant = ''",),
        )
    if settings.prepared:
        text = (
            "max_prepared_transactions is above 0: a lease user can leave a prepared transaction, which keeps its "
            "locks and delays its end; set it to 0 where nobody uses them (needs a restart)"
        )
        yield Finding(level=Level.WARNING, subject="server", text=text)


def _schemas(estate: Estate) -> Iterator[Finding]:
    for schema in estate.open_schemas:
        yield Finding(
            level=Level.WARNING,
            subject=f"schema {plain(schema)}",
            text="everybody may create in it, lease users too: functions and tables that others' queries find",
            remedy=(f"REVOKE CREATE ON SCHEMA {identifier(schema)} FROM PUBLIC",),
        )


def _leases(estate: Estate, config: PostgreSQL, *, version: int) -> Iterator[Finding]:
    if estate.strangers:
        names = ", ".join(plain(name) for name in list(estate.strangers)[:_SHOWN])
        more = f" and {len(estate.strangers) - _SHOWN} more" if len(estate.strangers) > _SHOWN else ""
        marker = identifier(config.marker_group)
        yield Finding(
            level=Level.WARNING,
            subject=f"marker group {plain(config.marker_group)}",
            text=f"has members that no journal knows: {names}{more}; made by hand, or left by a lost journal, and "
            "never dropped by the agent: look at them, and take them out or drop them",
            remedy=tuple(
                f"REVOKE {marker} FROM {identifier(name)}"
                + (f" GRANTED BY {identifier(grantor)}" if version >= 160000 else "")
                for name, grantor in estate.strangers.items()
            ),
        )
    if estate.overdue:
        text = (
            f"{estate.overdue} have ended and still have users, the oldest for {int(estate.oldest)} s: an agent's "
            "sweep ends them; `leasehold check --users` names them, its log (sweep-failed) says what is in the way"
        )
        yield Finding(level=Level.WARNING, subject="leases", text=text)
    yield _crowd(estate, version=version)


def _crowd(estate: Estate, *, version: int) -> Finding:
    text = f"{estate.live} are live"
    if estate.live <= _MANY:
        return Finding(level=Level.OK, subject="leases", text=text)
    slow = ": from PostgreSQL 16 on the login's every statement takes longer with each" if version >= 160000 else ""
    advice = "; divide them among several logins"
    return Finding(level=Level.WARNING, subject="leases", text=f"{text}, more than {_MANY}{slow}{advice}")


def _direct_grants(estate: Estate) -> Iterator[Finding]:
    for one in estate.crowded:
        near = "few more fit" if one.grantees >= _MANY else f"near {_FULL} PostgreSQL makes no more users for it"
        yield Finding(
            level=Level.WARNING,
            subject=plain(one.thing),
            text=f"lease users with rights of their own on it: {one.lease_users}, of {one.grantees} roles in all; "
            f"{near}; grant to a group instead, and set `group`",
        )
