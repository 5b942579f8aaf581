"""What operators who hold the admin login see and do in the journals, agent or no agent. Values only, no printing."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

from agent.clock import Clock
from agent.config.model import Config
from agent.engines.postgres.books import Books
from agent.engines.postgres.journal import Row, Search
from agent.errors import UpstreamError
from agent.leases.schedule import CALL_DEADLINE

__all__ = ["Act", "Entry", "Found", "Outcome", "Search", "Sweep", "acts", "find", "pages", "revoke", "sweep"]

_PER_LEASE = 30.0
_PAUSE = 1.0


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One lease of a journal; instants are Unix times by its server's clock.

    Attributes:
        owner: the pod it was minted for, and
        incarnation: the run of its agent.
        state: "active", "overdue" (ended, and its user is still there) or "revoked".
        remaining: seconds to its end by that clock, negative after it.
    """

    upstream: str
    lease_id: str = field(repr=False)
    role: str
    username: str = field(repr=False)
    owner: str
    incarnation: int
    state: str
    issued: float
    expires: float
    remaining: float
    max_expires: float
    requested_ttl: float
    granted_ttl: float
    revoked_at: float | None


@dataclass(frozen=True, kw_only=True)
class Found:
    """What was found in every journal, newest first.

    Attributes:
        cut: upstreams that have more.
        errors: a line for each upstream that could not be asked.
    """

    entries: tuple[Entry, ...] = ()
    cut: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How the revocation of one lease ended; `error` is "" where it is gone."""

    entry: Entry
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What was done for one upstream.

    Attributes:
        ended: expired leases whose users are gone now.
        left: a line for each that is not, with what is in the way.
        strangers: members of the marker group that no journal row explains; they are never touched.
        error: why its server could not be asked, "" where it could.
    """

    upstream: str
    ended: int = 0
    left: tuple[str, ...] = ()
    strangers: int = 0
    error: str = ""


async def find(config: Config, clock: Clock, search: Search, *, upstream: str = "") -> Found:
    """The leases that match, in all journals or in that of `upstream`."""
    entries: list[Entry] = []
    cut: list[str] = []
    errors: list[str] = []
    for books in _books(config, clock, upstream):
        with _open(books):
            try:
                async with clock.timeout(CALL_DEADLINE):
                    page = await books.find(search)
            except TimeoutError:
                errors.append(_silent(books))
            except UpstreamError as error:
                errors.append(str(error))
            else:
                entries += [_entry(books.name, row, page.now) for row in page.rows]
                cut += [books.name] if page.cut else []
    entries.sort(key=lambda entry: entry.issued, reverse=True)
    return Found(entries=tuple(entries), cut=tuple(cut), errors=tuple(errors))


async def pages(config: Config, clock: Clock, search: Search) -> AsyncIterator[Found]:
    """All that matches, in all journals: newest first, as much at a time as the search is bounded to.

    Every lease is met once, those that cannot be ended too, and what is minted after the first page is not met.
    """
    found = await find(config, clock, search)
    yield found
    for upstream in found.cut:
        last = [entry for entry in found.entries if entry.upstream == upstream][-1]
        while True:
            beyond = replace(search, after=(last.issued, last.lease_id))
            page = await find(config, clock, beyond, upstream=upstream)
            yield page
            if not page.cut:
                break
            last = page.entries[-1]


async def revoke(config: Config, clock: Clock, entries: Sequence[Entry], tell: Callable[[Outcome], None]) -> None:
    """End these leases, whoever holds them, `max_calls` of a server at a time; `tell` each as it is over.

    What is minted meanwhile is left alone.
    """
    for books in _books(config, clock, ""):
        turns = asyncio.Semaphore(config.postgresql[books.name].max_calls)
        with _open(books):
            async with asyncio.TaskGroup() as group:
                for number, entry in enumerate(entry for entry in entries if entry.upstream == books.name):
                    group.create_task(_end(books, entry, clock, turns, tell), name=f"revoke {number}")


async def _end(
    books: Books, entry: Entry, clock: Clock, turns: asyncio.Semaphore, tell: Callable[[Outcome], None]
) -> None:
    error = ""
    async with turns:
        try:
            async with clock.timeout(_PER_LEASE):
                await books.end(_row(entry))
        except TimeoutError:
            error = f"{books.name}: revoke {entry.role}: not done in {_PER_LEASE:.0f} s; every sweep goes on with it"
        except UpstreamError as problem:
            error = str(problem)
    tell(Outcome(entry=entry, error=error))


async def sweep(config: Config, clock: Clock, *, timeout: float) -> AsyncIterator[Sweep]:
    """End what has expired in every journal, until nothing is left or `timeout` seconds have passed."""
    end = clock.now() + timeout
    for books in _books(config, clock, ""):
        with _open(books):
            yield await _swept(books, clock, end)


async def _swept(books: Books, clock: Clock, end: float) -> Sweep:
    done = Sweep(upstream=books.name)
    while True:
        try:
            async with clock.timeout(max(1.0, end - clock.now())):
                swept = await books.sweep()
        except TimeoutError:
            return replace(done, error=_silent(books))
        except UpstreamError as error:
            return replace(done, error=str(error))
        done = replace(done, ended=done.ended + swept.reaped, left=swept.failed, strangers=swept.strangers)
        waiting = swept.due - swept.reaped
        if waiting <= 0:
            return done
        if clock.now() + _PAUSE >= end:
            untried = waiting - len(swept.failed)
            more = (f"{books.name}: {untried} more are due; sweep again",) if untried > 0 else ()
            return replace(done, left=(*swept.failed, *more))
        await clock.sleep(_PAUSE)


def _books(config: Config, clock: Clock, upstream: str) -> Iterator[Books]:
    for name, server in config.postgresql.items():
        if upstream in ("", name):
            roles = {role_name: role for role_name, role in config.role.items() if role.upstream == name}
            yield Books(name, server, roles, clock)


@contextmanager
def _open(books: Books) -> Iterator[None]:
    try:
        yield
    finally:
        books.close()


def _silent(books: Books) -> str:
    return f"{books.name}: no answer in time"


def _entry(upstream: str, row: Row, now: float) -> Entry:
    found = asdict(row)
    found["lease_id"], found["owner"] = found.pop("id"), found.pop("holder")
    state = "revoked" if row.revoked_at is not None else "active" if row.expires > now else "overdue"
    return Entry(upstream=upstream, state=state, remaining=row.expires - now, **found)


def _row(entry: Entry) -> Row:
    found = asdict(entry)
    found["id"], found["holder"] = found.pop("lease_id"), found.pop("owner")
    del found["upstream"], found["state"], found["remaining"]
    return Row(**found)


# -- the past ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Act:
    """Something that happened to a lease.

    Attributes:
        at: Unix time by the server's clock.
        what: "issue", "renew", "expire" (its end came), "revoke" (ended before that) or "sweep" (removed after it).
        requested_ttl, granted_ttl: seconds, for an issue or a renewal; None where a later renewal has taken their place
            in the journal, which keeps the newest alone.
    """

    at: float
    what: str
    entry: Entry
    requested_ttl: float | None = None
    granted_ttl: float | None = None


def acts(entries: Sequence[Entry], *, since: float = math.inf) -> list[Act]:
    """What the journal knows to have happened in the last `since` seconds, oldest first.

    Of renewals it keeps the newest, and that only while the lease has not been revoked: every single one is in the
    audit log of the agent.
    """
    found = [act for entry in entries for act in _acts(entry) if entry.expires - entry.remaining - act.at <= since]
    return sorted(found, key=lambda act: act.at)


def _acts(entry: Entry) -> Iterator[Act]:
    ttls = {"requested_ttl": entry.requested_ttl, "granted_ttl": entry.granted_ttl}
    # The journal's ends are whole seconds, unless somebody brought one forward to end the lease at that moment.
    forced = not entry.expires.is_integer()
    renewed_at = entry.expires - entry.granted_ttl
    renewed = not forced and renewed_at > entry.issued + 1.0
    yield Act(at=entry.issued, what="issue", entry=entry, **({} if renewed else ttls))
    if renewed:
        yield Act(at=math.floor(renewed_at), what="renew", entry=entry, **ttls)
    if entry.state == "active":
        return
    if forced:
        yield Act(at=entry.revoked_at or entry.expires, what="revoke", entry=entry)
        return
    yield Act(at=entry.expires, what="expire", entry=entry)
    if entry.revoked_at is not None:
        yield Act(at=entry.revoked_at, what="sweep", entry=entry)
