"""`/v1/sys/leases`: the agent's leases in Vault's shapes; never a credential.

Whoever may read a role sees its leases, without user names. A reader's renew answers how its lease is doing now, its
revoke answers success, and neither does anything: client libraries do both as a matter of course, and the lease is
shared. An operator's revoke is real: the lease is served no more from that instant, then revoked, then audited, then
the answer goes out (R003-063).
"""

import json
import math
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import parse_qsl

from agent import log
from agent.api.access import AllowList, Peer, RoleAccess
from agent.api.fastpath import rfc3339
from agent.api.spacing import Allowance, Spacing
from agent.api.wire import NOT_FOUND, Response, as_json, error, plain
from agent.api.witness import Witness
from agent.clock import Clock
from agent.errors import UpstreamError
from agent.leases.cache import LeaseCache
from agent.leases.desk import Booked, Counts, Desk, Journal, Shelf, below, counts, works_until
from agent.leases.held import Held
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

PATH = "/v1/sys/leases"
PATIENCE = 5.0
"""Seconds that an operator's revoke waits for the upstream to confirm; the Renewer goes on after them."""

_SETTLE = 1.0
_DENIED_INTERVAL = 60.0
_ROWS, _MOST_ROWS = 1_000, 10_000
_LONGEST_ID = 1024
_NUMBER = re.compile(r"[0-9]{1,6}", re.ASCII)
_ASK = ("POST", "PUT")
_UNKNOWN = error(400, "lease not found")
_BODY = error(400, 'the body must name a lease, such as {"lease_id": "…"}')


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What the rest of the agent knows of leases.

    Attributes:
        upstreams: of each role.
        owner: whom this agent's leases are issued for.
        incarnation: which run this is.
        journal: looks into an upstream's journal.
        beyond: for operators' stats: what the newest sweeps have counted, how the audit log is doing; plain values.
    """

    desk: Desk
    upstreams: Mapping[str, str]
    owner: str
    incarnation: Callable[[], int]
    journal: Journal
    beyond: Callable[[], Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Ask:
    """A request, as far as it matters here: `rest` is what follows PATH."""

    method: str
    rest: str
    query: str = ""
    body: bytes = b""


class Leases:
    """Answers requests below PATH."""

    def __init__(
        self,
        holdings: Holdings,
        *,
        roles: Mapping[str, RoleAccess],
        admin: AllowList,
        cache: LeaseCache,
        clock: Clock,
        witness: Witness | None,
    ) -> None:
        self._holdings = holdings
        self._desk = holdings.desk
        self._roles = roles
        self._admin = admin
        self._cache = cache
        self._clock = clock
        self._witness = witness
        self._lines = Spacing()
        self._denials = Counter({"journal": 0, "revoke-prefix": 0, "metrics": 0})
        self._asked = Allowance(burst=50, rate=10.0)
        self._revoked = Allowance(burst=10, rate=1.0)

    def denials(self) -> Iterable[tuple[tuple[str, str], int]]:
        """How often callers were refused what only operators may: rows of DENIALS, of no role."""
        return [(("", operation), count) for operation, count in self._denials.items()]

    async def answer(self, ask: Ask, peer: Peer) -> Response:
        """The answer to any request."""
        if ask.method in ("GET", "HEAD"):
            return await self._looked(ask, peer)
        wait = self._asked.wait(peer.uid, self._clock.now())
        if wait:
            return _slower(wait)
        if ask.rest.startswith("/revoke-prefix/"):
            return await self._revoke_prefix(ask.rest.removeprefix("/revoke-prefix/").strip("/"), peer)
        if ask.rest not in ("/lookup", "/renew", "/revoke"):
            return NOT_FOUND
        lease_id = _lease_id(ask.body)
        if lease_id is None:
            return _BODY
        if ask.rest == "/revoke":
            return await self._revoke(lease_id, peer)
        found = self._desk.find(lease_id, self._shown(peer))
        now = self._clock.now()
        if found is None or works_until(found) - now < 1.0:
            return _UNKNOWN
        return self._lookup(found, now) if ask.rest == "/lookup" else _renewed(found, now)

    # -- looking ----------------------------------------------------------------------------------------------------

    async def _looked(self, ask: Ask, peer: Peer) -> Response:
        query = dict(parse_qsl(ask.query))
        if ask.rest in ("", "/"):
            return await self._journal(query, peer) if "upstream" in query else self._list(peer)
        if ask.rest == "/stats":
            return self._stats(peer)
        if ask.rest.startswith("/lookup/") and query.get("list") == "true":
            return self._keys(ask.rest.removeprefix("/lookup/").strip("/"), peer)
        if ask.rest.split("/")[1] in ("lookup", "renew", "revoke", "revoke-prefix"):
            return error(405, f"only {' and '.join(_ASK)} here", ("Allow", ", ".join(_ASK)))
        return NOT_FOUND

    def _operator(self, peer: Peer) -> bool:
        return self._admin.admits(peer)

    def _shown(self, peer: Peer) -> frozenset[str]:
        """The roles whose leases `peer` may know of."""
        operator = self._operator(peer)
        return frozenset(role for role, access in self._roles.items() if operator or access.read.admits(peer))

    def _list(self, peer: Peer) -> Response:
        operator = self._operator(peer)
        now, wall = self._clock.now(), self._clock.wall()
        rows = [self._row(each, now, wall, named=operator) for each in self._desk.held(self._shown(peer))]
        return plain(200, {"data": {"leases": rows, "total": len(rows)}})

    def _row(self, held: Held, now: float, wall: float, *, named: bool) -> dict[str, Any]:
        ends = works_until(held)
        user = {"username": held.username} if named else {}
        return {
            "lease_id": held.lease_id,
            "role": held.role,
            "upstream": self._holdings.upstreams[held.role],
            "state": held.state,
            "owner": self._holdings.owner,
            "incarnation": self._holdings.incarnation(),
            **user,
            "renewable": held.renewable,
            "issue_time": None if math.isnan(held.issued_at) else rfc3339(wall + held.issued_at - now),
            "expires_at": rfc3339(wall + ends - now),
            "remaining": round(ends - now, 3),
            "failed": held.tried,
        }

    def _keys(self, prefix: str, peer: Peer) -> Response:
        """Vault's list of ids below a role's path."""
        shown = [role for role in self._shown(peer) if below(role, prefix)]
        keys = [each.lease_id for each in self._desk.held(shown)]
        return plain(200, {"data": {"keys": keys}}) if keys else plain(404, {"errors": []})

    def _stats(self, peer: Peer) -> Response:
        shown = self._shown(peer)
        by_role: dict[str, list[Held]] = {role: [] for role in self._roles if role in shown}
        for held in self._desk.held(shown):
            by_role[held.role].append(held)
        by_upstream: dict[str, list[str]] = {}
        for role in by_role:
            by_upstream.setdefault(self._holdings.upstreams[role], []).append(role)
        rows = {role: self._counted([role], leases) for role, leases in by_role.items()}
        told = {
            **self._counted(list(by_role), [held for leases in by_role.values() for held in leases]),
            "by_role": rows,
            "by_upstream": {
                upstream: self._counted(roles, [held for role in roles for held in by_role[role]])
                for upstream, roles in by_upstream.items()
            },
        }
        return plain(200, {"data": {**told, **(self._holdings.beyond() if self._operator(peer) else {})}})

    def _counted(self, roles: list[str], leases: list[Held]) -> dict[str, int]:
        found: Counts = counts(leases, self._clock.now())
        return {**asdict(found), "expired": sum(self._cache.counts(role).expired for role in roles)}

    async def _journal(self, query: Mapping[str, str], peer: Peer) -> Response:
        """What an upstream's journal holds, of every pod; for operators."""
        if not self._operator(peer):
            return self.denied(peer, "journal")
        wait = self._revoked.wait((peer.uid, "journal"), self._clock.now())
        if wait:
            return _slower(wait)
        upstream, prefix = query["upstream"], query.get("prefix", "").strip("/")
        if not prefix.isprintable():  # PostgreSQL has no text with a NUL in it
            return error(400, "prefix must be the path of a role or one above it: no control characters")
        limit = query.get("limit", str(_ROWS))
        if not (_NUMBER.fullmatch(limit) and 1 <= int(limit) <= _MOST_ROWS):
            return error(400, f"limit must be a number from 1 to {_MOST_ROWS}")
        try:
            shelf = await self._holdings.journal(upstream, prefix, int(limit))
        except KeyError:
            return error(404, "no such upstream")
        except UpstreamError as problem:
            return error(503, str(problem), ("Retry-After", "1"))
        try:
            body = await in_daemon_thread(lambda: _shelved(upstream, shelf))
        except OSError as problem:
            return error(503, str(problem.strerror), ("Retry-After", "1"))
        return Response(200, body, (("Content-Type", "application/json"), ("Cache-Control", "no-store")))

    # -- asking -----------------------------------------------------------------------------------------------------

    def _lookup(self, held: Held, now: float) -> Response:
        wall = self._clock.wall()
        ends = works_until(held)
        told = {
            "id": held.lease_id,
            "path": held.role,
            "issue_time": None if math.isnan(held.issued_at) else rfc3339(wall + held.issued_at - now),
            "expire_time": rfc3339(wall + ends - now),
            "last_renewal": None,
            "renewable": held.renewable,
            "ttl": math.floor(ends - now),
        }
        return _vault(data=told)

    async def _revoke(self, lease_id: str, peer: Peer) -> Response:
        if not self._operator(peer):
            return Response(204)
        found = self._desk.find(lease_id, self._roles)
        return _UNKNOWN if found is None else await self._end([found], peer)

    async def _revoke_prefix(self, prefix: str, peer: Peer) -> Response:
        if not self._operator(peer):
            return self.denied(peer, "revoke-prefix")
        found = [held for held in self._desk.held(self._roles) if below(held.role, prefix)]
        if not prefix or not found:
            return error(400, "no lease of this agent is below that path")
        return await self._end(found, peer, prefix)

    async def _end(self, leases: list[Held], peer: Peer, prefix: str = "") -> Response:
        wait = self._revoked.wait(peer.uid, self._clock.now())
        if wait:
            return _slower(wait)
        if self._witness is not None:
            self._witness.revoking(peer, [each.lease_id for each in leases], prefix)
        _log.warning(Event.REVOKE_ASKED, uid=peer.uid, gid=peer.gid, count=len(leases))
        left = await self._desk.revoke(leases, PATIENCE)
        if self._witness is not None:
            await self._witness.settled(_SETTLE)
        if not left:
            return Response(204)
        text = f"{left} of {len(leases)} revocations are not confirmed by the upstream yet; the agent goes on trying"
        return _vault(202, warnings=[text])

    def denied(self, peer: Peer, operation: str, otherwise: str = "") -> Response:
        """403 for what only operators may: counted, said and told to the witness; `otherwise` is another remedy."""
        self._denials[operation] += 1
        if not self._lines.wait((peer.uid, operation), self._clock.now(), _DENIED_INTERVAL):
            _log.warning(Event.DENIED, uid=peer.uid, gid=peer.gid, operation=operation)
            if self._witness is not None:
                self._witness.denied(peer, "", operation)
        remedy = f'add "uid:{peer.uid}" to allow_admin = [...] under [listener.unix]'
        return error(403, f"uid {peer.uid} may not do what only operators may: {remedy}{otherwise}")


def _lease_id(body: bytes) -> str | None:
    """The lease that the body names; whatever else Vault's clients send beside it is of no account."""
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        return None
    found = value.get("lease_id") if isinstance(value, dict) else None
    return found if isinstance(found, str) and 0 < len(found) <= _LONGEST_ID else None


def _renewed(held: Held, now: float) -> Response:
    """How the lease is doing: the agent renews it when it is time, whoever asks."""
    left = math.floor(works_until(held) - now)
    return _vault(lease_id=held.lease_id, renewable=held.renewable, lease_duration=left)


def _vault(status: int = 200, **told: Any) -> Response:
    """Vault's envelope."""
    empty = {"lease_id": "", "renewable": False, "lease_duration": 0, "data": None}
    rest = {"wrap_info": None, "warnings": None, "auth": None}
    return plain(status, {"request_id": str(uuid.uuid4()), **empty, **rest, **told})


def _slower(wait: float) -> Response:
    after = math.ceil(wait)
    return error(429, f"too many requests: try again in {after} s", ("Retry-After", str(after)))


def _shelved(upstream: str, shelf: Shelf) -> bytes:
    rows = [_booked(upstream, each) for each in shelf.leases]
    return as_json({"data": {"leases": rows, "total": len(rows), "cut": shelf.cut}})


def _booked(upstream: str, booked: Booked) -> dict[str, Any]:
    return {
        **vars(booked),
        "upstream": upstream,
        "issued": rfc3339(booked.issued),
        "expires": rfc3339(booked.expires),
        "remaining": round(booked.remaining, 3),
    }
