"""What `leasehold check` found at the servers, as lines for people and as one JSON document: pure.

Names that come from a server are shown so that nothing in them acts on a terminal.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from agent.engines.finding import Finding, Inspection, Level, plain
from agent.engines.postgres.rights import Diagnosis
from agent.engines.postgres.rights.diagnosis import LeaseUser
from agent.examine import Found, Note, sound
from agent.table import columns, seconds
from agent.trial import Tried

_MARGIN = 12
_WORDS = {Level.MISSING: "missing", Level.TOO_MUCH: "too much", Level.WARNING: "to look at"}


def lines(found: Found) -> list[str]:
    """For people."""
    match found:
        case Inspection():
            return list(_inspection(found))
        case Tried():
            return list(_tried(found))
        case Diagnosis():
            return list(_diagnosis(found))
        case Note():
            return [found.text]


def document(path: str, warnings: Sequence[str], everything: Sequence[Found]) -> dict[str, Any]:
    """For scripts: `ok` is what exit code 0 says."""
    return {
        "file": path,
        "ok": all(sound(found) for found in everything),
        "warnings": list(warnings),
        "servers": [found.as_dict() for found in everything if isinstance(found, Inspection)],
        "roles": [asdict(found) for found in everything if isinstance(found, Tried)],
        "users": [found.as_dict() for found in everything if isinstance(found, Diagnosis)],
        "notes": [found.as_dict() for found in everything if isinstance(found, Note)],
    }


def _inspection(found: Inspection) -> Iterator[str]:
    yield f"{found.upstream}: {found.user} at {found.place}"
    for finding in found.findings:
        yield from _finding(finding, end="" if found.upstream.partition(".")[0] == "vault" else ";")
    counts = Counter(finding.level for finding in found.findings)
    told = [f"{counts[level]} {word}" for level, word in _WORDS.items() if counts[level]]
    yield f"  {', '.join(told) or 'nothing is missing, nothing is too much'}"


def _finding(finding: Finding, *, end: str) -> Iterator[str]:
    """The remedy is SQL where `end` is a semicolon, else lines of a policy."""
    yield f"  {finding.level.value:<{_MARGIN - 2}}{finding.subject}: {finding.text}"
    for statement in finding.remedy:
        yield f"{'':<{_MARGIN}}{statement}{end}"


def _tried(found: Tried) -> Iterator[str]:
    if not found.failed:
        how = {
            True: "logged in with it",
            False: "could not find out whether it logs in",
            None: "did not log in with it",
        }
        why = " (no verify target)" if found.verified is None else ""
        took = f"in {found.took * 1000:.0f} ms"
        before, after = found.done
        yield f"{found.role}: {', '.join(filter(None, (before, how[found.verified] + why, after, took)))}"
        yield from (f"  {Level.WARNING.value:<{_MARGIN - 2}}{note}" for note in found.notes)
        return
    yield f"{found.role}: could not {found.failed}: {found.error}"
    for statement in found.remedy:
        yield f"{'':<{_MARGIN}}{statement};"


def _diagnosis(found: Diagnosis) -> Iterator[str]:
    if found.error:
        yield found.error
        return
    yield f"{found.upstream}: lease users at {found.place}: {len(found.users) or 'none'}"
    if found.users:
        head = ("USER", "STATE", "LEFT", "VALID UNTIL", "SESSIONS", "ROLE", "HOLDER")
        yield from (f"  {line}" for line in columns([head, *map(_user, found.users)]))
    yield f"{found.upstream}: what the groups may do at {found.place}"
    rows = [(plain(right.group), right.thing, right.privileges) for right in found.rights]
    shown = columns([("GROUP", "ON", "PRIVILEGES"), *((g, plain(t), p) for g, t, p in rows)])
    yield from (f"  {line}" for line in (shown if rows else ["nothing of their own"]))


def _user(user: LeaseUser) -> tuple[str, ...]:
    return (
        plain(user.user),
        _state(user),
        "-" if user.expires_in is None else seconds(max(0.0, user.expires_in)),
        user.valid_until or "-",
        str(user.sessions),
        user.role or "-",
        plain(user.holder) or "-",
    )


def _state(user: LeaseUser) -> str:
    """`stranger` is no user of ours, `gone` was dropped by somebody else, `ended` waits for a sweep."""
    if user.expires_in is None:
        return "stranger"
    if not user.there:
        return "gone"
    return "live" if user.expires_in > 0 else "ended"
