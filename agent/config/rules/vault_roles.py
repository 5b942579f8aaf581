"""[role.NAME] at a Vault: what must hold for its path, and what only a PostgreSQL of ours can do."""

import re
from collections.abc import Iterator

from agent.config.durations import format_duration, parse_duration
from agent.config.model import Role
from agent.config.places import Path, Problem
from agent.config.rules import shapes

UNLEASED = ("static", "kv")
"""Kinds whose secret nobody leases: it stands there until it changes."""

_PATH = re.compile(r"[A-Za-z0-9._~@:+=, -]+(?:/[A-Za-z0-9._~@:+=, -]+)*", re.ASCII)
_MAX_PATH = 512
_PARAMETER = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_OURS = ("sys", "auth", "cubbyhole")
_VERSION_1 = ("secret", "kv")
"""Where key-value secrets of version 1 stand by custom; version 2 has "data" in their paths. Below, names are free."""

_KINDS = {"creds": ("lease", "write"), "static-creds": ("static", "kv")}
"""What a path of three parts or more can be, by the last but one."""

_WRITTEN = ("issue", "sign", "sign-verbatim")
_SECONDS = re.compile(r"[0-9]{1,10}", re.ASCII)
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
    yield from _kind((*place, "kind"), role.kind, path.split("/"))
    for key, value in role.parameters.items():
        if key == "ttl" and not _length(value):
            yield (*place, "parameters", key), 'is no duration; write it like "24h"'
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
    elif parts[0] in _OURS or (any(part in _OURS for part in parts[1:-1]) and not _free(parts)):
        yield (
            place,
            "is where the server manages itself and its logins; for the agent's own there is [[auto_auth.sink]]",
        )


def _free(parts: list[str]) -> bool:
    """Whether it is a key-value secret's path, which may say anything; behind a namespace too."""
    return parts[0] in _VERSION_1 or "data" in parts[1:-1]


def _kind(place: Path, kind: str, parts: list[str]) -> Iterator[Problem]:
    """A path that another kind is for: each look of a "kv" or a "static" at a leased path would mint a user."""
    last = parts[-2] if len(parts) > 2 and not _free(parts) else ""
    if kind not in _KINDS.get(last, (kind,)):
        what = "which is leased" if last == "creds" else "which nobody leases"
        yield place, f'"{kind}" is not for {"/".join(("…", last, "…"))}, {what}; write kind = "{_KINDS[last][0]}"'


def _length(text: str) -> bool:
    """Whether a server reads it as a duration: seconds, or Go's notation."""
    try:
        return _SECONDS.fullmatch(text) is not None or parse_duration(text) >= 0
    except ValueError:
        return False


def warnings(place: Path, name: str, role: Role) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    parts = (role.path if role.path is not None else name).split("/")
    if role.kind == "lease" and len(parts) > 2 and parts[-2] in _WRITTEN:
        yield (*place, "kind"), f'"lease" reads, but …/{parts[-2]}/… is written to, as a rule; write kind = "write"'
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
