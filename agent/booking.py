"""The commands for who holds the admin login: sweep, audit, leases and revoke with --everyone. They need no agent."""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import codes, harden, ledger, listing, log
from agent.clock import Clock, SystemClock
from agent.codes import duration, say, shown
from agent.config.load import load_file
from agent.config.model import Config
from agent.errors import ConfigError
from agent.ledger import Act, Entry, Outcome, Search
from agent.managing import confirmed, named

RunLoop = Callable[[Coroutine[Any, Any, int]], int]

# A Vault keeps its own account of leases, and ends them with or without agents. What to do there instead:
_AT_VAULT = {
    "sweep": "nothing is left to sweep: the server ends leases by itself, agent or no agent",
    "leases": "the server tells who has sudo there: `bao list sys/leases/lookup/PATH`; what an agent holds: "
    "`leasehold leases` without --everyone",
    "revoke": "the server does it for who has sudo there: `bao lease revoke -prefix PATH`; what an agent holds: "
    "`leasehold revoke` without --everyone",
    "audit": "the server's own audit log tells; what an agent did, and who read: the file of [audit]",
}


def sweep(arguments: argparse.Namespace, run_loop: RunLoop) -> int:
    """End what has expired; exit code 6 where something could not be ended."""
    timeout = duration("--timeout", arguments.timeout)
    config = _config(arguments, "sweep")
    if arguments.dry_run:
        return run_loop(_due(config, as_json=arguments.json))

    async def work() -> int:
        done = [each async for each in ledger.sweep(config, SystemClock(), timeout=timeout)]
        if arguments.json:
            print(json.dumps([asdict(each) for each in done], indent=2))
        else:
            for each in done:
                print(f"{each.upstream}: {each.ended} expired leases ended, {len(each.left)} left")
        for line in (line for each in done for line in _remains(each)):
            say(line)
        if any(each.error for each in done):
            return codes.NO_AGENT
        return codes.LEFT_BEHIND if any(each.left for each in done) else codes.OK

    return run_loop(work())


def _remains(swept: ledger.Sweep) -> Iterator[str]:
    yield from swept.left
    if swept.error:
        yield swept.error
    if swept.strangers:
        yield (
            f"{swept.upstream}: {swept.strangers} users in the marker group have no lease and are not touched: "
            "`leasehold check --users` names them"
        )


async def _due(config: Config, *, as_json: bool) -> int:
    found = await ledger.find(config, SystemClock(), Search(state="overdue"))
    return _listed(found, as_json=as_json)


def leases(arguments: argparse.Namespace, run_loop: RunLoop) -> int:
    """The leases of every holder, by the journals."""
    config = _config(arguments, "leases", arguments.upstream or "")
    if arguments.upstream and arguments.upstream not in config.postgresql:
        raise ConfigError([f"--upstream {arguments.upstream}: the file has {', '.join(config.postgresql) or 'none'}"])
    search = Search(prefix=arguments.role or "", state="unrevoked")

    async def work() -> int:
        found = await ledger.find(config, SystemClock(), search, upstream=arguments.upstream or "")
        return _listed(found, as_json=arguments.json, by=arguments.group_by or "")

    return run_loop(work())


def _listed(found: ledger.Found, *, as_json: bool, by: str = "") -> int:
    plain = [_plain(entry) for entry in found.entries]
    if as_json:
        print(json.dumps({"leases": plain, "total": len(plain), "cut": list(found.cut)}, indent=2))
    else:
        _print(listing.groups(plain, by) if by else listing.leases(plain))
    return _unheard(found)


def _unheard(found: ledger.Found) -> int:
    for upstream in found.cut:
        say(f"{upstream}: only the newest are shown; narrow the search")
    for line in found.errors:
        say(line)
    return codes.NO_AGENT if found.errors else codes.OK


def revoke(arguments: argparse.Namespace, run_loop: RunLoop) -> int:
    """End leases of every holder; exit code 6 where some could not be."""
    named(arguments)
    config = _config(arguments, "revoke")
    search = Search(prefix=arguments.prefix or "", lease_id=arguments.lease or "", state="unrevoked")
    return run_loop(end(config, SystemClock(), search, yes=arguments.yes))


async def end(config: Config, clock: Clock, search: Search, *, yes: bool) -> int:
    """End all that matches, page by page, as far as a journal's answer is bounded; the exit code.

    Raises:
        ConfigError: the search names neither a prefix nor a lease, so it means everything.
    """
    if not (search.prefix.strip("/").strip() or search.lease_id.strip()):
        raise ConfigError(["revoke: name a lease, or a path with --prefix"])
    code, ended, failed, asked = codes.OK, 0, 0, False
    async for found in ledger.pages(config, clock, search):
        for line in found.errors:
            say(f"{line}; leases may be left there" if asked else line)
        if found.errors:
            code = codes.LEFT_BEHIND if asked else codes.NO_AGENT
        if not asked and not found.entries:
            say(f"{search.prefix or search.lease_id}: no lease is to be revoked there")
            return code or codes.REFUSED
        if not asked and not _meant(found, yes=yes):
            return codes.REFUSED
        asked = True
        outcomes = await _end(config, clock, found)
        ended += len(outcomes)
        failed += sum(1 for outcome in outcomes if outcome.error)
    print(f"revoked {ended - failed} of {ended}")
    return codes.LEFT_BEHIND if failed else code


def _meant(found: ledger.Found, *, yes: bool) -> bool:
    """Whether the person means these leases, and those that come after them where a journal's answer was cut."""
    for upstream in found.cut:
        say(f"{upstream}: there are more than these {len(found.entries)}; they are revoked after them")
    return confirmed([_plain(entry) for entry in found.entries], yes=yes)


async def _end(config: Config, clock: Clock, found: ledger.Found) -> list[Outcome]:
    outcomes: list[Outcome] = []

    def tell(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if outcome.error:
            say(outcome.error)

    await ledger.revoke(config, clock, found.entries, tell)
    return outcomes


def audit(arguments: argparse.Namespace, run_loop: RunLoop) -> int:
    """What happened to leases, by the journals, oldest first."""
    config = _config(arguments, "audit")
    since = duration("--since", arguments.since) if arguments.since else None
    search = Search(
        prefix=arguments.role or "", username=arguments.user or "", lease_id=arguments.lease or "", since=since
    )

    async def work() -> int:
        found = await ledger.find(config, SystemClock(), search)
        acts = ledger.acts(found.entries, since=math.inf if since is None else since)
        if arguments.json:
            print(json.dumps([_act(act) for act in acts], indent=2))
        else:
            _print(listing.acts([_act(act) for act in acts]))
        return _unheard(found)

    return run_loop(work())


def _act(act: Act) -> dict[str, Any]:
    return {
        "time": listing.instant(act.at),
        "what": act.what,
        "role": act.entry.role,
        "user": act.entry.username,
        "owner": act.entry.owner,
        "incarnation": act.entry.incarnation,
        "upstream": act.entry.upstream,
        "lease_id": act.entry.lease_id,
        "requested_ttl": act.requested_ttl,
        "granted_ttl": act.granted_ttl,
    }


def _plain(entry: Entry) -> dict[str, Any]:
    found = asdict(entry)
    for name in ("issued", "expires", "max_expires", "revoked_at"):
        found[name] = None if found[name] is None else listing.instant(found[name])
    return found


def _config(arguments: argparse.Namespace, command: str, upstream: str = "") -> Config:
    """The configuration; for each Vault in it that is meant, what to do there instead is said.

    Raises:
        ConfigError: none but those is meant, so the command can do nothing. To sweep nothing is no mistake.
    """
    config = load_file(Path(arguments.config), environ=dict(os.environ))
    vaults = [name for name in config.vault if upstream in ("", name)]
    told = [f"{name}: has no journal: {_AT_VAULT[command]}" for name in vaults]
    if told and command != "sweep" and (upstream or not config.postgresql):
        raise ConfigError(told)
    if command != "sweep" or not config.postgresql:  # a cron job that sweeps the others has nothing to report
        for line in told:
            say(line)
    harden.harden()
    harden.drop_ambient(os.environ)
    log.configure(level="error", json=False, stream=sys.stderr)
    return config


def _print(lines: Sequence[str]) -> None:
    for line in lines:
        print(shown(line))
