"""[role.NAME]: what must hold for a role, and the numbers that follow from what it says."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

from agent.config.durations import format_duration
from agent.config.model import Config, PostgreSQL, Role
from agent.config.places import SERVER, Path, Problem
from agent.config.rules import shapes, vault_roles
from agent.config.values import number

SHORTEST = 5.0
"""Leases under this many seconds cannot be renewed and replaced with an overlap."""

_SHORTEST_IN_TESTS = 1.0
_JITTER = 0.10  # the schedule's; a renewal comes up to this share of the lease early
_ROOM = 0.8  # of a lease may be margin and overlap; the rest is what it is used for
_NAME = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)
_MAX_NAME = 255
_STATEMENTS = ("creation_statements", "renewal_statements", "revocation_statements", "rollback_statements")


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """What a role's lease looks like when the upstream grants all that is asked for; seconds.

    Attributes:
        ttl: the lease's length.
        longest: the credential is replaced before this age.
        overlap: the replacement is there this long before the old one ends.
        margin: the credential is served until this long before its end.
        renew_from, renew_until: the age at which it is renewed, first and last.
    """

    ttl: float
    longest: float
    overlap: float
    margin: float
    renew_from: float
    renew_until: float


def numbers(role: Role) -> Numbers:
    """The effective numbers of `role`; the Renewer computes the same from the lease it gets.

    At a Vault, which grants what it likes, they are those of a lease as long as `default_ttl`.
    """
    ttl = role.ttl
    longest = min(
        math.inf if role.at_vault else role.longest, role.max_lifetime if role.max_lifetime is not None else math.inf
    )
    margin = role.margin if role.margin is not None else max(1.0, min(10.0, 0.05 * ttl))
    margin = min(margin, 0.5 * ttl)
    overlap = min(role.overlap if role.overlap is not None else 0.25 * ttl, 0.5 * ttl, _ROOM * ttl - margin)
    edge = ttl - margin - overlap
    return Numbers(
        ttl=ttl,
        longest=longest,
        overlap=overlap,
        margin=margin,
        renew_from=min((role.lease_renewal_threshold - _JITTER) * ttl, edge),
        renew_until=min(role.lease_renewal_threshold * ttl, edge),
    )


def mistakes(config: Config, *, short: bool) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    if not config.role:
        yield ("role",), 'is missing; add a table such as [role."database/creds/app"], the name apps ask for'
    for name, role in config.role.items():
        place = ("role", name)
        yield from _name(place, name, role)
        yield from _upstream(place, role, config)
        yield from _lengths(place, role, short=short)
        yield from _renewal(place, role, short=short)
        yield from _readers(place, role)
        yield from _targets(place, role)
        yield from vault_roles.strangers(place, role)
        if role.at_vault:
            yield from vault_roles.mistakes(place, name, role, short=short)
        else:
            yield from _rights(place, role, config.postgresql.get(role.upstream))
            yield from _bounds_of_users(place, role)


def _name(place: Path, name: str, role: Role) -> Iterator[Problem]:
    segments = name.split("/")
    if not _NAME.fullmatch(name) or len(name) > _MAX_NAME or any(set(segment) == {"."} for segment in segments):
        yield place, f"is no role name; letters, digits, . _ - in parts between slashes, at most {_MAX_NAME} bytes"
    elif ".." in name:
        yield place, 'is no role name; it must not contain ".."'
    elif segments[0] == "sys" or segments[-1] == "rotate":
        yield place, 'is taken by the agent\'s own paths; a role does not begin with "sys" or end with "rotate"'
    elif _on_postgresql(role) and (len(segments) != 3 or segments[1] != "creds"):
        yield place, 'is no name for a role on [postgresql]; name it <mount>/creds/<name>, as "database/creds/app"'


def _on_postgresql(role: Role) -> bool:
    return role.upstream.partition(".")[0] == SERVER


def _upstream(place: Path, role: Role, config: Config) -> Iterator[Problem]:
    if role.upstream not in config.postgresql and role.upstream not in config.vault:
        known = shapes.listed([*config.postgresql, *config.vault])
        remedy = f"there are: {known}" if known else "there is none; add a [postgresql] or a [vault] table"
        yield (*place, "upstream"), f"is no configured upstream; {remedy}"


def _lengths(place: Path, role: Role, *, short: bool) -> Iterator[Problem]:
    least = _SHORTEST_IN_TESTS if short else SHORTEST
    yield from shapes.at_least((*place, "default_ttl"), role.default_ttl, least)
    yield from shapes.at_least((*place, "max_lifetime"), role.max_lifetime, least)
    if role.ttl > role.longest and not role.at_vault:
        key = "default_ttl" if role.default_ttl is not None else "max_ttl"
        lengths = f'default_ttl "{format_duration(role.ttl)}" is longer than max_ttl "{format_duration(role.longest)}"'
        yield (*place, key), f"{lengths}; shorten one or lengthen the other"
    least = 0.0 if short else 1.0
    yield from shapes.at_least((*place, "margin"), role.margin, least)
    yield from shapes.at_least((*place, "overlap"), role.overlap, 0.1 if short else 1.0)
    if _known(role) and role.ttl >= _SHORTEST_IN_TESTS:
        yield from _room(place, role)


def _known(role: Role) -> bool:
    """Whether the file says how long a lease is; a Vault may grant any length."""
    return not role.at_vault or role.default_ttl is not None


def _room(place: Path, role: Role) -> Iterator[Problem]:
    life = min(role.ttl, numbers(role).longest)
    overlap = role.overlap if role.overlap is not None else numbers(role).overlap
    margin = role.margin if role.margin is not None else numbers(role).margin
    shown = f'"{format_duration(life)}"'
    if overlap > life / 2:
        text = f'overlap "{format_duration(overlap)}" is more than half of the lease {shown}'
        yield (*place, "overlap"), f'{text}; at most "{format_duration(life / 2)}"'
    elif margin + overlap > _ROOM * life:
        text = f'margin "{format_duration(margin)}" and overlap "{format_duration(overlap)}"'
        yield (
            (*place, "margin" if role.margin is not None else "overlap"),
            f'{text} leave no room in a lease of {shown}; together at most "{format_duration(_ROOM * life)}"',
        )


def _renewal(place: Path, role: Role, *, short: bool) -> Iterator[Problem]:
    share = role.lease_renewal_threshold
    if not 0.0 < share < 1.0:
        yield (*place, "lease_renewal_threshold"), f"{number(share)} is no share of the lease; between 0 and 1"
    elif share <= _JITTER:
        text = f"{number(share)} leaves no room for jitter, which renews up to {_JITTER} of the lease earlier"
        yield (*place, "lease_renewal_threshold"), f"{text}; more than {_JITTER}"
    yield from shapes.count((*place, "retries"), role.retries, 1, 1000)
    yield from shapes.count((*place, "max_leases"), role.max_leases, 2, 1_000_000)
    yield from shapes.count((*place, "lease_warning"), role.lease_warning, 0, 1_000_000)
    yield from shapes.at_least((*place, "rotate_min_interval"), role.rotate_min_interval, 0.0 if short else 1.0)
    if role.verify_every:
        yield from shapes.at_least((*place, "verify_every"), role.verify_every, 0.1 if short else 1.0)
    if role.on_failed:
        yield from shapes.absolute((*place, "on_failed", 0), role.on_failed[0])


def _readers(place: Path, role: Role) -> Iterator[Problem]:
    yield from shapes.allow((*place, "allow"), role.allow)
    yield from shapes.allow((*place, "allow_rotate"), role.allow_rotate or ())
    if role.lazy and role.required:
        text = "readiness cannot wait for what nobody has asked for yet; write required = false beside lazy = true"
        yield (*place, "required"), text


def _targets(place: Path, role: Role) -> Iterator[Problem]:
    if role.connection is not None:
        yield from shapes.server((*place, "connection"), role.connection)
    for n, target in enumerate(role.verify or ()):
        at = (*place, "verify", n)
        yield from shapes.server(at, target)
        yield from shapes.root_certificate(at, target.sslmode, target.sslrootcert)
        if target.probe is not None and not target.probe.strip():
            yield (*at, "probe"), "is empty; write a query, or leave it out"


def _rights(place: Path, role: Role, server: PostgreSQL | None) -> Iterator[Problem]:
    if role.group is not None:
        yield from shapes.identifier((*place, "group"), role.group, what="NOLOGIN role that holds the privileges")
        if server is not None and role.group == server.marker_group:
            text = "is the upstream's marker_group, which must carry no privileges; name the role that has them"
            yield (*place, "group"), text
    elif not role.creation_statements:
        yield (
            place,
            "says nothing of the users' rights; give group, the NOLOGIN role that has them, or creation_statements",
        )
    for key in _STATEMENTS:
        for n, statement in enumerate(getattr(role, key)):
            if not statement.strip():
                yield (*place, key, n), "is empty; write a statement, or leave it out"


def _bounds_of_users(place: Path, role: Role) -> Iterator[Problem]:
    yield from shapes.count((*place, "password_length"), role.password_length, 16, 128)
    yield from shapes.count((*place, "password_bits"), role.password_bits, 1, 512)
    yield from shapes.count((*place, "connection_limit"), role.connection_limit, 1, 100_000)


def warnings(config: Config) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    read = {name for template in config.template for name in template.roles}
    for name, role in config.role.items():
        place = ("role", name)
        yield from _recommended(place, role)
        yield from _overlapping(place, role)
        yield from _careless(place, role)
        if role.at_vault:
            yield from vault_roles.warnings(place, name, role)
        if config.listener.unix is None and name not in read:
            yield place, "is obtained, but nobody can read it: no listener, and no template uses it"


def _recommended(place: Path, role: Role) -> Iterator[Problem]:
    for key, value, low, high in (
        ("default_ttl", role.ttl, 300.0, 86400.0),
        ("max_ttl", role.longest, 3600.0, 604800.0),
    ):
        if not low <= value <= high and (not role.at_vault or getattr(role, key) is not None):
            span = f'"{format_duration(low)}" to "{format_duration(high)}"'
            yield (*place, key), f'"{format_duration(value)}" is outside what is recommended: {span}'
    if role.profile is not None and role.default_ttl is not None:
        yield (*place, "profile"), "has no effect beside default_ttl"


def _overlapping(place: Path, role: Role) -> Iterator[Problem]:
    if not _known(role) or role.kind in vault_roles.UNLEASED:
        return
    overlap = numbers(role).overlap
    shown = f'"{format_duration(overlap)}"'
    if overlap < 30.0:
        text = f"{shown} is shorter than a pooled connection lives; some pools (HikariCP) keep one at least 30s"
        yield (*place, "overlap"), text
    if role.drain is not None and role.drain < overlap:
        yield (*place, "drain"), f'"{format_duration(role.drain)}" revokes before the overlap of {shown} has passed'
    if role.drain is not None and role.drain > role.ttl:
        yield (*place, "drain"), "has no effect: the lease ends earlier"


def _careless(place: Path, role: Role) -> Iterator[Problem]:
    for key, entries in (("allow", role.allow), ("allow_rotate", role.allow_rotate or ())):
        if "any" in entries:
            yield (*place, key), '"any" admits whoever reaches the socket'
    if role.verify == () and not role.at_vault:
        yield (*place, "verify"), "is empty: credentials are published without a login having succeeded"
    if role.verify == () and role.verify_every:
        yield (*place, "verify_every"), "has no effect: verify is empty"


def advice(config: Config) -> Iterator[Problem]:
    """Per role what its lease will look like, and what that asks of a connection pool."""
    for name, role in config.role.items():
        if role.at_vault:
            yield ("role", name), vault_roles.advice(role)
            continue
        n = numbers(role)
        overlap = _round(n.overlap)
        lease = f"ttl {_round(n.ttl)}, renewed {_round(n.renew_from)} to {_round(n.renew_until)} after each grant"
        old = _round(max(n.longest - n.overlap - n.margin, 0.0))
        rule = f"pools: longest connection life + longest transaction must stay within the overlap of {overlap}"
        yield (
            ("role", name),
            f"{lease}, replaced when {old} old, served until {_round(n.margin)} before its end; {rule}",
        )


def _round(seconds: float) -> str:
    return format_duration(round(seconds, 0 if seconds >= 60 else 1))
