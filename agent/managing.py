"""`leases`, `stats` and `revoke` over the socket of a running agent: its own leases, and for operators to end them."""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from agent import codes, listing
from agent.client import Answer, ask, report, target
from agent.codes import Unknown, say, shown
from agent.errors import ConfigError, LeaseholdError

_PATH = "/v1/sys/leases"
_PATIENCE = 30.0
"""Seconds for a revocation: the agent answers once its upstream has confirmed, or after some seconds without."""


def leases(arguments: argparse.Namespace) -> int:
    """The leases that the agent holds, as far as this uid may know of them."""
    rows = [
        row
        for row in _held(arguments.socket)
        if below(row["role"], arguments.role or "") and arguments.upstream in (None, row.get("upstream"))
    ]
    if arguments.json:
        print(json.dumps({"leases": rows, "total": len(rows)}, indent=2))
        return codes.OK
    by = arguments.group_by
    for line in listing.groups(rows, by) if by else listing.leases(rows):
        print(shown(line))
    return codes.OK


def stats(arguments: argparse.Namespace) -> int:
    """How many leases there are, by state, role and upstream."""
    counts = _granted(ask(arguments.socket, "GET", f"{_PATH}/stats")).body
    counts = counts.get("data", counts)
    if arguments.json:
        print(json.dumps(counts, indent=2))
    else:
        for line in listing.counts(counts):
            print(shown(line))
    return codes.OK


def revoke(arguments: argparse.Namespace) -> int:
    """End leases for good; the agent obtains others where it needs them."""
    named(arguments)
    if report(arguments.socket).get("scope") != "operator":
        # To a reader the agent answers success and does nothing: every client library revokes what it lets go of.
        raise Unknown(f'uid {os.geteuid()} is no operator: add "uid:{os.geteuid()}" to listener.unix.allow_admin')
    chosen = [row for row in _held(arguments.socket) if _meant(row, arguments)]
    if not chosen:
        wanted = arguments.lease or arguments.prefix
        raise Unknown(f"{wanted}: this agent holds no such lease; --everyone looks into the journals")
    if not confirmed(chosen, yes=arguments.yes):
        return codes.REFUSED
    if arguments.prefix:
        prefix = target(arguments.prefix.strip("/")).removeprefix("/v1/")
        answer = ask(arguments.socket, "POST", f"{_PATH}/revoke-prefix/{prefix}", timeout=_PATIENCE)
    else:
        body = {"lease_id": arguments.lease}
        answer = ask(arguments.socket, "POST", f"{_PATH}/revoke", body=body, timeout=_PATIENCE)
    _granted(answer)
    if answer.status == 202:
        say("; ".join(answer.body.get("warnings") or ["not confirmed by the upstream yet; the agent goes on trying"]))
        for line in _left(arguments.socket, {row["lease_id"] for row in chosen}):
            say(line)
        return codes.LEFT_BEHIND
    print(f"revoked {len(chosen)}")
    return codes.OK


def named(arguments: argparse.Namespace) -> None:
    """Refuse an id or a prefix that means everything: it is more likely an empty variable.

    Raises:
        ConfigError: so it is, or what is named is not printable.
    """
    lease, prefix = arguments.lease, arguments.prefix
    if lease is not None and not lease.strip():
        raise ConfigError(["LEASE_ID: name a lease; `leasehold leases` has the ids"])
    if lease is None and not (prefix or "").strip("/").strip():
        raise ConfigError(["--prefix: name a path, such as database/creds or database/creds/app"])
    if prefix and not prefix.isprintable():
        raise ConfigError([f"--prefix {shown(prefix)}: a path has no control characters"])


def below(role: str, prefix: str) -> bool:
    """Whether `role` is `prefix` or stands below it: "database/creds/app" does not mean "database/creds/app-2"."""
    prefix = prefix.strip("/")
    return not prefix or role == prefix or role.startswith(f"{prefix}/")


def confirmed(rows: Sequence[Mapping[str, Any]], *, yes: bool) -> bool:
    """Whether the person at the terminal means it.

    Raises:
        ConfigError: nobody is there to be asked, and --yes was not given.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ConfigError(["revoke: nobody can be asked here: add --yes"])
    for role, count in sorted(Counter(row["role"] for row in rows).items()):
        print(shown(f"  {role}: {count}"), file=sys.stderr)
    print(f"Revoke {len(rows)} now? Sessions of their users are ended. [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _meant(row: Mapping[str, Any], arguments: argparse.Namespace) -> bool:
    if arguments.lease:
        return bool(row["lease_id"] == arguments.lease)
    return below(row["role"], arguments.prefix)


def _left(path: str, asked: Collection[str]) -> Iterator[str]:
    """The leases of `asked` that are still there, and what the agent says of their roles, a line each.

    It says why a role cannot be served, not why a lease cannot be ended: that is in its log alone.
    """
    try:
        rows = [row for row in _held(path) if row["lease_id"] in asked]
        told = report(path)["roles"]
    except LeaseholdError as error:
        yield f"what is left cannot be told: {error}"
        rows, told = [], {}
    for row in rows:
        yield f"{row['lease_id']} of {row['role']} is left{', tried and failed' if row.get('failed') else ''}"
    for role in sorted({row["role"] for row in rows}):
        if why := told.get(role, {}).get("error"):
            yield f"{role}: newest failure: {why}"
    yield "why it could not be revoked: the agent's log, `revoke-failed`; how its role is doing: `leasehold status`"


def _held(path: str) -> list[Mapping[str, Any]]:
    body = _granted(ask(path, "GET", _PATH)).body
    rows: list[Mapping[str, Any]] = body.get("data", body)["leases"]
    return rows


def _granted(answer: Answer) -> Answer:
    if answer.status == 404:  # an agent older than this command
        raise Unknown("this agent does not tell of its leases; --everyone reads the journals")
    if answer.status not in (200, 202, 204):
        raise Unknown(answer.error)
    return answer
