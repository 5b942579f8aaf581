"""What our login may do, too little or too much, and how long it lives: judged from what the server says. Pure.

A policy is the least where it names every path in full. That none holds a wildcard is found out by asking for paths
that nobody has any business with: a right on one of them was given by a pattern.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.config.model import Role
from agent.engines.finding import Finding, Level, plain
from agent.engines.vault import values

Capabilities = Mapping[str, Sequence[str]]
"""By path, as sys/capabilities-self answers: "read", "update", …; "deny" or "root"."""

NOBODYS = "leasehold-check-5f0c1b"
"""No path of anybody's holds this name."""

_CHANGES = ("create", "update", "patch", "delete", "sudo")
_ADMIN = {
    f"{NOBODYS}/{NOBODYS}": "any path there is",
    f"sys/policies/acl/{NOBODYS}": "policies, its own too",
    f"sys/mounts/{NOBODYS}": "mounts",
    f"sys/auth/{NOBODYS}": "ways to log in",
    "auth/token/create": "tokens that nobody logged in for",
    f"sys/leases/revoke-prefix/{NOBODYS}": "everybody's leases",
}
_EVERYTHING = f"{NOBODYS}/{NOBODYS}"
_MANY = 5
"""A login should live this many times as long as the leases made with it, or be renewed for ever."""


@dataclass(frozen=True, kw_only=True)
class Need:
    """A right that the agent uses.

    Attributes:
        level: of the finding where it is not given.
        without: what follows from that.
    """

    path: str
    right: str
    level: Level
    without: str

    @property
    def remedy(self) -> str:
        """The policy's line."""
        return f'path "{self.path}" {{ capabilities = ["{self.right}"] }}'


@dataclass(frozen=True, kw_only=True)
class TokenFacts:
    """What the server says of a login's token.

    Attributes:
        ttl: seconds from now.
        longest: seconds after which no renewal helps; `math.inf` where that is not told, or never.
        period: of a periodic token, else 0.
        batch: a token that the server keeps no record of.
        policies: their names; None where they are not told.
    """

    ttl: float
    renewable: bool
    longest: float = math.inf
    period: float = 0.0
    batch: bool = False
    policies: tuple[str, ...] | None = None


def looked_up(data: Mapping[str, Any], *, ttl: float, renewable: bool, longest: float) -> TokenFacts:
    """The token as `auth/token/lookup-self` describes it.

    Args:
        ttl, renewable, longest: what is known already.
    """
    named = [data.get(key) for key in ("policies", "identity_policies")]
    policies = [values.name(each) for one in named if isinstance(one, list) for each in one]
    return TokenFacts(
        ttl=ttl,
        renewable=renewable,
        longest=longest,
        period=float(values.whole(data.get("period")) or 0),
        batch=data.get("type") == "batch",
        policies=tuple(dict.fromkeys(filter(None, policies))),
    )


# -- too little -------------------------------------------------------------------------------------------------------


def needs(roles: Mapping[str, Role], *, renewable: bool, ours: bool) -> list[Need]:
    """What the agent asks a server for that serves these roles.

    Args:
        renewable: whether the login's token is.
        ours: whether we made the login; a token from a file is somebody else's, and not ours to revoke.
    """
    found = [
        Need(
            path=role.path or name,
            right="update" if role.kind == "write" else "read",
            level=Level.MISSING,
            without=f"{name} can never be had",
        )
        for name, role in roles.items()
    ]
    if any(role.kind in ("lease", "write") for role in roles.values()):
        found += [
            _need("sys/leases/renew", Level.MISSING, "no lease is renewed, each is replaced before its first TTL ends"),
            _need("sys/leases/revoke", Level.WARNING, "replaced leases live to their end, the last ones to the stop"),
        ]
    if renewable:
        text = "the login is not renewed: at its first TTL a new one and new leases take its place"
        found.append(_need("auth/token/renew-self", Level.MISSING, text))
    if ours:
        text = "a stop leaves the login, and what hangs on it, to their ends"
        found.append(_need("auth/token/revoke-self", Level.MISSING, text))
    text = "after a refusal the agent cannot always tell an ended login from a missing right"
    found.append(Need(path="auth/token/lookup-self", right="read", level=Level.WARNING, without=text))
    return found


def _need(path: str, level: Level, without: str) -> Need:
    return Need(path=path, right="update", level=level, without=without)


def asked(wanted: Sequence[Need]) -> list[str]:
    """The paths to ask the server about."""
    return list(dict.fromkeys([*(need.path for need in wanted), *map(_sibling, _secrets(wanted)), *_ADMIN]))


def lacking(wanted: Sequence[Need], may: Capabilities) -> Iterator[Finding]:
    """Each need that is not met, and one line for those that are."""
    missing = [need for need in wanted if not {need.right, "root"} & set(may.get(need.path, ()))]
    for need in missing:
        yield Finding(
            level=need.level,
            subject=f"path {plain(need.path)}",
            text=f"the login may not {need.right} it: {need.without}",
            remedy=(need.remedy,),
        )
    if not missing:
        yield Finding(level=Level.OK, subject="policy", text=f"allows all {len(wanted)} things that the agent does")


# -- too much ---------------------------------------------------------------------------------------------------------


def too_much(wanted: Sequence[Need], may: Capabilities, policies: Sequence[str] = ()) -> Iterator[Finding]:
    """Rights that nothing here needs: whoever takes over the pod has them too (R004-042)."""
    if "root" in policies or any("root" in words for words in may.values()):
        yield _excess("login", 'may do anything: it has the policy "root"; give its role a policy of its own')
        return
    if _given(may, _EVERYTHING):
        yield _excess("policy", f'has a right to {_ADMIN[_EVERYTHING]}: path "*", or nearly; name each path in full')
    else:
        yield from (
            _excess(f"path {path}", f"may {', '.join(_given(may, path))} {what}; the agent needs nothing of it")
            for path, what in _ADMIN.items()
            if _powerful(may, path)
        )
    for need in _secrets(wanted):
        yield from _around(need, may)
    for need in wanted:
        if "sudo" in may.get(need.path, ()):
            yield _excess(f"path {plain(need.path)}", "has sudo there; the agent never needs it", need.remedy)


def _around(need: Need, may: Capabilities) -> Iterator[Finding]:
    """A role's own path, and the one beside it."""
    if need.right in may.get(_sibling(need), ()) and not _given(may, _EVERYTHING):
        yield _excess(
            f"path {plain(_parent(need.path))}/…",
            f"a wildcard allows to {need.right} whatever is there, {plain(need.path)} only being used: name it in full",
            need.remedy,
        )
    # Issuing by writing is often given both, as servers differ in which they ask for.
    excused = {need.right, "sudo", *(["create"] if need.right == "update" else [])}
    beyond = [word for word in _CHANGES if word in may.get(need.path, ()) and word not in excused]
    if beyond:
        text = f"may also {', '.join(beyond)}; the agent needs {need.right} alone"
        yield _excess(f"path {plain(need.path)}", text, need.remedy)


def _secrets(wanted: Sequence[Need]) -> list[Need]:
    """The roles' own paths."""
    return [need for need in wanted if not need.path.startswith(("sys/", "auth/token/")) and "/" in need.path]


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _sibling(need: Need) -> str:
    return f"{_parent(need.path)}/{NOBODYS}"


def _given(may: Capabilities, path: str) -> list[str]:
    return [word for word in may.get(path, ()) if word != "deny"]


def _powerful(may: Capabilities, path: str) -> bool:
    return path != _EVERYTHING and any(word in _CHANGES for word in may.get(path, ()))


def _excess(subject: str, text: str, remedy: str = "") -> Finding:
    return Finding(level=Level.TOO_MUCH, subject=subject, text=text, remedy=(remedy,) if remedy else ())


# -- how long ---------------------------------------------------------------------------------------------------------


def lifetime(login: str, facts: TokenFacts) -> Iterator[Finding]:
    """What kind of token the login gives, and what that means for the leases that hang on it."""
    subject = f"login {login}"
    if facts.ttl >= values.LONGEST:
        yield Finding(level=Level.WARNING, subject=subject, text="works, and its token never ends: set a token_ttl")
        return
    yield Finding(level=Level.OK, subject=subject, text=f"works: {_told(facts)}")
    if facts.batch:
        text = "gives batch tokens: they are never renewed nor revoked, and all leases end with them; is that meant?"
        yield Finding(level=Level.WARNING, subject=subject, text=text)
    elif not facts.renewable:
        text = f"gives tokens that are not renewed: every {facts.ttl:.0f} s a new login replaces all leases"
        yield Finding(level=Level.WARNING, subject=subject, text=text)


def _told(facts: TokenFacts) -> str:
    kind = "a batch token" if facts.batch else "a token"
    if facts.period:
        return f"{kind} for {facts.ttl:.0f} s, renewed for as long as it is used (period {facts.period:.0f} s)"
    if not facts.renewable:
        return f"{kind} for {facts.ttl:.0f} s"
    most = "" if facts.longest == math.inf else f", with renewals for {facts.longest:.0f} s at most"
    return f"{kind} for {facts.ttl:.0f} s{most}"


def beside_lease(ttl: float, facts: TokenFacts) -> Iterator[str]:
    """What a login's length does to a lease of `ttl` seconds: docs/adr/0009, consequences."""
    if facts.ttl < ttl:
        key = "token_period" if facts.period else "token_ttl"
        yield (
            f"its lease of {ttl:.0f} s hangs on a login of {facts.ttl:.0f} s, and readers are told the shorter: set "
            f"{key} of the login's role to {ttl:.0f} s or more"
        )
    most = facts.longest if facts.renewable else facts.ttl
    if not facts.period and most < _MANY * ttl:
        yield (
            f"its lease of {ttl:.0f} s is replaced with every new login, each {most:.0f} s at the latest: set "
            f"token_max_ttl of the login's role to many times {ttl:.0f} s, or a token_period"
        )
