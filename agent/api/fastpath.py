"""The cached read: whether it may be answered, and with which bytes.

The answer is a function of the snapshot and of the whole second that remains; it is put together when one of them
changes, and then only looked up. Whether it may be given is decided anew for every request: who asks (the peer of the
connection), and whether the credential may still be served at this instant (LeaseCache.read).

What the caches of clients are told, so that all of it agrees: `lease_duration` is the whole seconds left until the
credential ends; `max-age` is that less the safety margin, rounded up. There is no Date: freshness counts from receipt,
so that a stepped wall clock misleads nobody.
"""

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from agent import catalogue, log
from agent.api.access import Peer, RoleAccess
from agent.api.spacing import Spacing
from agent.api.wire import Request, Response, as_json, error, split_target
from agent.api.witness import Witness
from agent.clock import Clock
from agent.leases.cache import LeaseCache, Phase, Snapshot
from agent.log import Event
from agent.meters import Family

_log = log.get(__name__)

# A client's own patience is 5 s as a rule: we answer before it gives up.
_PATIENCE = 4.5
_DENIED_INTERVAL = 60.0
_GIVEN = 200
_MOST_TOLD = 1024
_READS = (b"GET", b"HEAD")


def rfc3339(wall: float) -> str:
    """Unix time as UTC in whole seconds, never later than it is."""
    return datetime.fromtimestamp(math.floor(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def answer_body(snapshot: Snapshot, connection: Mapping[str, str | int] | None, now: float) -> bytes:
    """The JSON that a reader of `snapshot` gets at `now`: Vault's shape, and ours beside it."""
    lease_duration = math.floor(snapshot.remaining(now))
    data: dict[str, str | int] = {name: value.reveal() for name, value in snapshot.lease.data.items()}
    return as_json(
        {
            "request_id": snapshot.request_id,
            "lease_id": snapshot.lease.id,
            "renewable": snapshot.lease.renewable,
            "lease_duration": lease_duration,
            "data": {**data, **{name: value for name, value in (connection or {}).items() if name not in data}},
            "wrap_info": None,
            "warnings": None,
            "auth": None,
            "expires_at": rfc3339(snapshot.expires_wall),
            "generation": snapshot.generation,
            "state": "stale" if snapshot.stale else "fresh",
            "verified": snapshot.verified,
            "rotation_warning": lease_duration * 3 // 4,
        }
    )


class _Prepared:
    """The answers for one snapshot, good until the dial passes `good_until`."""

    __slots__ = ("etag", "good_until", "snapshot", "unchanged", "whole")

    def __init__(self, snapshot: Snapshot, connection: Mapping[str, str | int] | None, now: float) -> None:
        lease_duration = math.floor(snapshot.remaining(now))
        margin = math.ceil(round(snapshot.lease.expires_at - snapshot.until, 3))
        self.snapshot = snapshot
        self.good_until = snapshot.lease.expires_at - lease_duration
        tag = f'"{snapshot.generation}"'
        self.etag = tag.encode()
        caching = (
            ("ETag", f"W/{tag}"),
            ("Cache-Control", f"private, max-age={max(0, lease_duration - margin)}"),
        )
        body = answer_body(snapshot, connection, now)
        self.whole = Response(200, body, (("Content-Type", "application/json"), *caching))
        self.unchanged = Response(304, b"", caching)

    def to(self, if_none_match: bytes) -> Response:
        tags = [tag.strip().removeprefix(b"W/") for tag in if_none_match.split(b",")]
        return self.unchanged if self.etag in tags or b"*" in tags else self.whole


class RoleReader:
    """Answers reads of one role.

    Attributes:
        served, unchanged, unavailable: answers 200, 304 and 503 so far.
        denials: answers 403 so far, by operation.
    """

    def __init__(
        self,
        role: str,
        access: RoleAccess,
        cache: LeaseCache,
        clock: Clock,
        lines: Spacing,
        witness: Witness | None = None,
    ) -> None:
        self.role = role
        self.witness = witness
        self.access = access
        self._cache = cache
        self._clock = clock
        self._lines = lines
        self._prepared: _Prepared | None = None
        self.served = self.unchanged = self.unavailable = 0
        self.denials = Counter({"read": 0, "rotate": 0})

    def __repr__(self) -> str:
        return f"RoleReader({self.role!r})"

    def answer(self, peer: Peer, if_none_match: bytes | None, now: float) -> "Response | FirstAttempt":
        """The answer at `now`, or what to wait for."""
        if not self.access.read.admits(peer):
            return self.denied(peer, "read", now)
        if self.access.lazy:
            self._cache.demand(self.role, now)
        found = self.present(if_none_match, now)
        if found is not None:
            return found
        return FirstAttempt(self, if_none_match) if self.undecided(now) else self.absent(now)

    def headers(self, peer: Peer, if_none_match: bytes | None, now: float) -> "Response | FirstAttempt":
        """The same for HEAD, which hands no credential out: no witness is told."""
        return RoleReader.answer(self, peer, if_none_match, now)

    def present(self, if_none_match: bytes | None, now: float) -> Response | None:
        """The credential as it may be served at `now`; None where it may not."""
        snapshot = self._cache.read(self.role, now)
        prepared = self._prepared
        if prepared is not None and prepared.snapshot is snapshot and now <= prepared.good_until:
            if if_none_match is None:  # nearly every read: no call more than needed
                self.served += 1
                return prepared.whole
            return self._compared(prepared, if_none_match)
        if snapshot is None or snapshot.remaining(now) < 1.0:  # whatever the margin: 0 would be no answer
            self._prepared = None
            return None
        self._prepared = prepared = _Prepared(snapshot, self.access.connection, now)
        return self._compared(prepared, if_none_match)

    def _compared(self, prepared: _Prepared, if_none_match: bytes | None) -> Response:
        response = prepared.whole if if_none_match is None else prepared.to(if_none_match)
        if response is prepared.whole:
            self.served += 1
        else:
            self.unchanged += 1
        return response

    def generation(self, now: float) -> int:
        """The generation served at `now`, 0 where there is none."""
        snapshot = self._cache.read(self.role, now)
        return 0 if snapshot is None else snapshot.generation

    def undecided(self, now: float) -> bool:
        """Whether the role's first attempt is still running (for a lazy role: about to run, since somebody asked)."""
        phase = self._cache.status(self.role).phase
        first = phase is Phase.STARTING or (self.access.lazy and phase is Phase.IDLE)
        return first and self._cache.read(self.role, now) is None

    async def decided(self, if_none_match: bytes | None) -> Response:
        """The answer once the role's first attempt has ended, or patience has."""
        with self._cache.subscribe([self.role]) as changes, contextlib.suppress(TimeoutError):
            async with self._clock.timeout(_PATIENCE):
                while self.undecided(self._clock.now()):
                    await changes.next()
        now = self._clock.now()
        if self.access.lazy:  # what it gets counts from now: it must not be let go before the end it is told
            self._cache.demand(self.role, now)
        return self.present(if_none_match, now) or self.absent(now)

    def absent(self, now: float) -> Response:
        """503, and when to ask again."""
        self.unavailable += 1
        status = self._cache.status(self.role)
        # After a suspend nothing has failed, and no instant is known: retry_at is -inf until the role has looked.
        wait = math.ceil(max(1.0, status.retry_at - now))
        reason = status.error or "none could be obtained yet"
        return error(503, f"{self.role} has no usable credential: {reason}", ("Retry-After", str(wait)))

    def denied(self, peer: Peer, operation: str, now: float) -> Response:
        """403, and the line that would change it.

        That a role exists is told to whoever may open the socket: names are not secret, and a 404 in place of a 403
        would hide every forgotten `allow` line.
        """
        self.denials[operation] += 1
        if not self._lines.wait((peer.uid, self.role, operation), now, _DENIED_INTERVAL):
            _log.warning(Event.DENIED, uid=peer.uid, gid=peer.gid, role=self.role, operation=operation)
            if self.witness is not None:
                self.witness.denied(peer, self.role, operation)
        key = "allow" if operation == "read" else f"allow_{operation}"
        remedy = f'add "uid:{peer.uid}" to {key} = [...] under [role.{json.dumps(self.role)}]'
        return error(403, f"uid {peer.uid} may not {operation} {self.role}: {remedy}")


class WitnessedReader(RoleReader):
    """Answers reads of one role, and tells the witness who got which credential, once per caller and generation.

    A class of its own: where nobody is told, a read costs what it did.
    """

    def __init__(
        self, role: str, access: RoleAccess, cache: LeaseCache, clock: Clock, lines: Spacing, witness: Witness
    ) -> None:
        super().__init__(role, access, cache, clock, lines, witness)
        self._watching = witness
        self._told_of = 0
        self._told: dict[tuple[int, int], None] = {}

    def answer(self, peer: Peer, if_none_match: bytes | None, now: float) -> "Response | FirstAttempt":
        """See RoleReader."""
        found = super().answer(peer, if_none_match, now)
        if isinstance(found, FirstAttempt):
            return WitnessedAttempt(self, if_none_match, peer)
        self.witnessed(peer, found)
        return found

    def witnessed(self, peer: Peer, response: Response) -> None:
        """Tell of `response`, if it is a credential that this caller had not got before."""
        prepared = self._prepared
        if prepared is None or response.status != _GIVEN:
            return
        if prepared.snapshot.generation != self._told_of:
            self._told_of = prepared.snapshot.generation
            self._told.clear()
        caller = (peer.uid, peer.gid)
        if caller in self._told:
            return
        if len(self._told) >= _MOST_TOLD:  # who changes its uid without end is told of again
            del self._told[next(iter(self._told))]
        self._told[caller] = None
        self._watching.read(peer, prepared.snapshot)


class FirstAttempt:
    """A read that came while its role's first attempt was running."""

    __slots__ = ("_if_none_match", "_reader")

    def __init__(self, reader: RoleReader, if_none_match: bytes | None) -> None:
        self._reader = reader
        self._if_none_match = if_none_match

    async def response(self) -> Response:
        """The answer once the attempt has ended, or after 4.5 seconds. Whoever leaves disturbs no other reader."""
        return await self._reader.decided(self._if_none_match)


class WitnessedAttempt(FirstAttempt):
    """The same, of a witnessed role."""

    __slots__ = ("_peer", "_watched")

    def __init__(self, reader: WitnessedReader, if_none_match: bytes | None, peer: Peer) -> None:
        super().__init__(reader, if_none_match)
        self._watched = reader
        self._peer = peer

    async def response(self) -> Response:
        """See FirstAttempt."""
        response = await super().response()
        self._watched.witnessed(self._peer, response)
        return response


class Reads:
    """The desk for `GET /v1/<role>`: knows every configured role by its path."""

    def __init__(
        self, roles: Mapping[str, RoleAccess], cache: LeaseCache, clock: Clock, witness: Witness | None = None
    ) -> None:
        lines = Spacing()
        self.by_role = {
            role: RoleReader(role, access, cache, clock, lines)
            if witness is None
            else WitnessedReader(role, access, cache, clock, lines, witness)
            for role, access in roles.items()
        }
        self._by_path = {f"/v1/{role}": reader for role, reader in self.by_role.items()}
        self._by_target = {path.encode(): reader for path, reader in self._by_path.items()}

    def families(self) -> Iterable[Family]:
        """How many reads were answered, and how."""
        readers = self.by_role.values()
        yield catalogue.READS.of(
            ((one.role, outcome), count)
            for one in readers
            for outcome, count in (
                ("served", one.served),
                ("unchanged", one.unchanged),
                ("unavailable", one.unavailable),
                ("denied", one.denials["read"]),
            )
        )
        yield catalogue.DENIALS.of(
            ((one.role, operation), count) for one in readers for operation, count in one.denials.items()
        )

    def answer(self, request: Request, peer: Peer, now: float) -> Response | FirstAttempt | None:
        """The answer to a plain read of a configured role; None for every other request."""
        if request.method not in _READS:
            return None
        reader = self._by_target.get(request.target) or self._find(request.target)
        if reader is None:
            return None
        known = request.headers.get(b"if-none-match")
        return reader.headers(peer, known, now) if request.method == b"HEAD" else reader.answer(peer, known, now)

    def _find(self, target: bytes) -> RoleReader | None:
        """The same for its other spellings: an absolute URL, percent-encoding, an empty query."""
        split = split_target(target)
        return self._by_path.get(split[0]) if split is not None and not split[1] else None
