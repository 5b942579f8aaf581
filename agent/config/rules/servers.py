"""[postgresql]: what must hold for a server on which the agent mints users."""

import re
from collections.abc import Iterator

from agent.config.model import Config, PostgreSQL
from agent.config.places import SERVER, Path, Problem
from agent.config.rules import shapes

_PREFIX = re.compile(r"[a-z][a-z0-9]{0,11}", re.ASCII)
_RESERVED = ("public", "none", "information_schema", "current_user", "session_user", "current_role", "user")


def mistakes(config: Config, *, short: bool) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    for name, server in config.postgresql.items():
        place = (SERVER, name)
        yield from shapes.upstream(place, name)
        yield from shapes.server(place, server)
        yield from shapes.root_certificate(place, server.sslmode, server.sslrootcert)
        yield from _login(place, server)
        yield from _names(place, server)
        yield from _limits(place, server, short=short)


def _login(place: Path, server: PostgreSQL) -> Iterator[Problem]:
    yield from shapes.identifier((*place, "user"), server.user, what="agent's own role")
    yield from shapes.absolute((*place, "password_file"), server.password_file)
    yield from shapes.pair(place, server, "sslcert", "sslkey")


def _names(place: Path, server: PostgreSQL) -> Iterator[Problem]:
    for key, what in (("schema", "journal's schema"), ("marker_group", "group that marks our users")):
        name: str = getattr(server, key)
        yield from shapes.identifier((*place, key), name, what=what)
        if name.lower().startswith("pg_") or name.lower() in _RESERVED:
            yield (*place, key), "is reserved by PostgreSQL; choose another name"
    if server.marker_group == server.user:
        yield (*place, "marker_group"), "is the agent's own role; it must be a NOLOGIN group of its own"
    if server.username_prefix is not None and not _PREFIX.fullmatch(server.username_prefix):
        yield (*place, "username_prefix"), "must be 1 to 12 lower-case letters and digits, the first a letter"


def _limits(place: Path, server: PostgreSQL, *, short: bool) -> Iterator[Problem]:
    least = 0.05 if short else 1.0
    yield from shapes.between((*place, "cleanup_interval"), server.cleanup_interval, least, 86400.0)
    # A row must outlive every doubt about its lease: it is what keeps a late mint from taking effect.
    yield from shapes.at_least((*place, "journal_retention"), server.journal_retention, 0.0 if short else 3600.0)
    yield from shapes.between((*place, "connect_timeout"), server.connect_timeout, least, 60.0)
    yield from shapes.count((*place, "max_calls"), server.max_calls, 1, 64)


def warnings(config: Config) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    for name, server in config.postgresql.items():
        place = (SERVER, name)
        if server.password_file is None and server.sslcert is None and not server.host.startswith("/"):
            yield place, "has neither password_file nor sslcert; a login over TCP will hardly succeed"
        if not any(role.upstream == name for role in config.role.values()):
            yield place, "is used by no role"
