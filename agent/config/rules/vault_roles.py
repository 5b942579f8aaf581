"""[role.NAME] at a Vault: what must hold for its path, and what only a PostgreSQL of ours can do."""

import re
from collections.abc import Iterator

from agent.config.durations import format_duration
from agent.config.model import Role
from agent.config.places import Path, Problem
from agent.config.rules import shapes

UNLEASED = ("static", "kv")
"""Kinds whose secret nobody leases: it stands there until it changes."""

_PATH = re.compile(r"[A-Za-z0-9._~@:+=, -]+(?:/[A-Za-z0-9._~@:+=, -]+)*", re.ASCII)
_MAX_PATH = 512
_PARAMETER = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_OURS = (("sys",), ("auth", "token"), ("cubbyhole",))
_MINTED = "is for users that the agent makes itself; at a Vault, the role there says it"
_QUOTA = "is counted in the journal of a [postgresql]; a Vault has lease-count quotas for it"
_ELSEWHERE = {
    **dict.fromkeys(
        (
            *("group", "creation_statements", "renewal_statements", "revocation_statements", "rollback_statements"),
            *("connection_limit", "password_length", "password_alphabet", "password_bits"),
        ),
        _MINTED,
    ),
    "max_leases": _QUOTA,
    "lease_warning": _QUOTA,
    "max_ttl": "is for the role at the Vault to say; our own ceiling beneath it is max_lifetime",
    "profile": "is no TTL that a Vault knows; write default_ttl, which is asked for at renewals",
}
"""Keys that only a role on PostgreSQL has, and why."""

_DEFAULTS = Role(upstream="")
_HERE = ("path", "kind", "parameters", "poll")
"""Keys that only a role at a Vault has."""

_LEASED = (
    *("default_ttl", "max_lifetime", "lease_renewal_threshold", "overlap", "margin", "drain"),
    "verify_every",
)
"""Keys that say nothing of a secret that nobody leases."""


def strangers(place: Path, role: Role) -> Iterator[Problem]:
    """Keys that mean something only at the other kind of upstream."""
    if role.at_vault:
        for key, why in _ELSEWHERE.items():
            if _set(role, key):
                yield (*place, key), why
    else:
        for key in _HERE:
            if _set(role, key):
                yield (*place, key), "is for roles at a [vault]; the agent makes users at a [postgresql] itself"


def _set(role: Role, key: str) -> bool:
    return bool(getattr(role, key) != getattr(_DEFAULTS, key))


def mistakes(place: Path, name: str, role: Role, *, short: bool) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    path = role.path if role.path is not None else name
    yield from _path((*place, "path") if role.path is not None else place, path)
    if role.kind in UNLEASED and role.parameters:
        yield (*place, "parameters"), f'say nothing of kind = "{role.kind}"; "lease" and "write" take them'
    if role.kind in UNLEASED:
        yield from shapes.between((*place, "poll"), role.poll, 0.05 if short else 1.0, 86400.0)
    elif _set(role, "poll"):
        yield (*place, "poll"), f'says nothing of kind = "{role.kind}"; its lease says when'
    for key in role.parameters:
        if not _PARAMETER.fullmatch(key):
            yield (*place, "parameters", key), "is no parameter; letters, digits, _ and -, at most 64 of them"


def _path(place: Path, path: str) -> Iterator[Problem]:
    parts = path.split("/")
    if path.startswith(("/", "v1/")):
        yield place, 'is written as behind /v1/: "database/creds/app"'
    elif not _PATH.fullmatch(path) or len(path) > _MAX_PATH:
        yield place, f"is no path; parts between slashes, without a query, at most {_MAX_PATH} bytes"
    elif any(set(part) == {"."} for part in parts):
        yield place, 'is no path; no part is "." or ".."'
    elif any(tuple(parts[: len(start)]) == start for start in _OURS):
        yield place, "is where the agent's own login is kept and managed; for that there is [[auto_auth.sink]]"


def warnings(place: Path, role: Role) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    if role.kind == "write" and not role.parameters:
        yield (*place, "parameters"), 'are none; most paths of kind = "write" need some, such as common_name'
    if role.kind in UNLEASED:
        for key in _LEASED:
            if _set(role, key):
                yield (*place, key), f'has no effect: nobody leases what kind = "{role.kind}" reads'
    if role.kind in ("lease", "static") and role.verify is None and role.connection is None:
        text = "has neither connection nor verify: it is published without a login having succeeded"
        yield place, f"{text}; name the database, or write verify = [] if it is for none"
    if role.verify is None and role.connection is not None and role.connection.sslmode.startswith("verify-"):
        text = f'"{role.connection.sslmode}" finds no CA to verify a new credential with'
        yield (*place, "connection", "sslmode"), f"{text}; name it in a verify table, as sslrootcert"


def advice(role: Role) -> str:
    """What is known of a lease before it is granted."""
    if role.kind == "kv":
        return f"looked at every {format_duration(role.poll)}, and handed over again when it has changed"
    if role.kind == "static":
        looked = f"looked at every {format_duration(role.poll)} and after each rotation"
        return f"{looked}, which ends the old password at once"
    asked = "" if role.default_ttl is None else f", {format_duration(role.default_ttl)} asked for at renewals"
    overlap = "a quarter of the lease" if role.overlap is None else format_duration(role.overlap)
    ceiling = "" if role.max_lifetime is None else f", at most {format_duration(role.max_lifetime)} old"
    return (
        f"ttl as granted{asked}, replaced with an overlap of {overlap} before the Vault ends it{ceiling}; "
        "pools: longest connection life + longest transaction must stay within the overlap"
    )
