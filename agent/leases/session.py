"""A session: the login at one upstream, itself a lease, kept by a Renewer over a login engine.

Roles' engines ask here for the token (`Logins`), roles' Renewers wait here for it (`Gate`) and learn here when the
logins end that their leases hang on (`Ties`). A new login takes nothing away: leases of the old one are replaced, with
overlap, before it ends, and only when the last of them is gone is the old one revoked.
"""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from agent import log
from agent.clock import Clock
from agent.errors import AuthExpired, NotLoggedIn, Unavailable, UpstreamError
from agent.leases.cache import LeaseCache, Phase, RoleStatus, Snapshot, Subscription
from agent.leases.circuit import Gate
from agent.leases.held import Held
from agent.leases.lease import Lease
from agent.leases.logins import Token
from agent.leases.renewer import Renewer
from agent.leases.schedule import BACKOFF_CAP, CALL_DEADLINE
from agent.log import Event

_log = log.get(__name__)

TOKEN = "token"  # noqa: S105 - the field of a login's data
LAG = 5.0
"""A standby may not know a login for this long after it was made (seconds); a refusal by then means nothing."""

_LOOK = 5.0
"""How often (seconds) it is looked whether an old login still has leases."""

_REMEMBERED = 16
_KNOWN = 256


def key_of(upstream: str) -> str:
    """What the login at `upstream` is called beside roles; no role's name has a colon."""
    return f"session:{upstream}"


def upstream_of(key: str) -> str:
    """The upstream of a login that is so called; "" for a role."""
    prefix, colon, upstream = key.partition(":")
    return upstream if (prefix, colon) == ("session", ":") else ""


class Proves(Protocol):
    """As much of an Identity as is asked here; see `agent.identity.proof.Identity`."""

    async def changed(self) -> None:
        """Return when what proves who we are has changed since it was last read."""
        ...

    @property
    def binding(self) -> bool:
        """Whether a change makes the present login worthless too."""
        ...


class Follower(Protocol):
    """A role whose leases hang on the session: a Renewer, or a Poller."""

    def login_changed(self) -> None:
        """The login was renewed, replaced or lost; or there is one again."""
        ...

    def logins_in_use(self) -> frozenset[str] | None:
        """The logins that its leases hang on; None while that is not settled."""
        ...


class Session:
    """The login at one upstream.

    Args:
        followers: the roles of the upstream by name; the mapping may still grow.
        gate: of the upstream; every call waits there for its turn.
        revoke: end our logins at an orderly stop.
        release: end a login that was replaced as soon as nothing of ours hangs on it; else somebody else may use it,
            and it is left to its end.

    Attributes:
        cache: where the login is put up, under `key`; its data's `token` is the token.
    """

    def __init__(
        self,
        upstream: str,
        *,
        followers: Mapping[str, Follower],
        identity: Proves,
        gate: Gate,
        clock: Clock,
        revoke: bool = True,
        release: bool = True,
    ) -> None:
        self.upstream = upstream
        self.key = key_of(upstream)
        self.cache = LeaseCache([self.key])
        self._renewer: Renewer | None = None
        self._followers = followers
        self._identity = identity
        self._gate = gate
        self._clock = clock
        self._revoke = revoke
        self._release = release
        self._known: set[str] = set()
        self._ended = False
        self._proof_changed_at = -math.inf
        self._lost: dict[str, float] = {}
        self._proven = ""
        self._lag = LAG
        self._replaced_at = -math.inf

    def __repr__(self) -> str:
        return f"Session({self.upstream}, {self.status.phase})"

    def keep_by(self, renewer: Renewer) -> None:
        """Have `renewer` keep the login: it publishes to `cache` and tells `gone`. Called once, first of all."""
        self._renewer = renewer
        renewer.take_over()  # before any role asks what its lease hangs on

    @property
    def renewer(self) -> Renewer:
        """Who keeps the login."""
        if self._renewer is None:
            raise RuntimeError("a session without a Renewer")
        return self._renewer

    @property
    def status(self) -> RoleStatus:
        """How the login is doing, as of any role."""
        return self.cache.status(self.key)

    @property
    def snapshot(self) -> Snapshot | None:
        """The present login, if there is one that the upstream has not refused."""
        found = self.cache.read(self.key, self._clock.now())
        return None if found is None or self._is_lost(found.lease) else found

    def _is_lost(self, login: Lease) -> bool:
        """Whether the upstream has refused it since it was made: the same token may be put in a file once more."""
        return login.issued_at <= self._lost.get(login.id, -math.inf)

    # -- Logins: asked by engines -----------------------------------------------------------------------------------

    def token(self) -> Token:
        """See `agent.leases.logins.Logins`."""
        found = self.snapshot
        if found is None:
            raise self._none()
        self._known.add(found.lease.id)
        return Token(id=found.lease.id, secret=found.lease.data[TOKEN])

    def accepted(self, login_id: str) -> None:
        """See `agent.leases.logins.Logins`."""
        if login_id != self._proven:
            self._proven = login_id
        self._lag = LAG

    def refused(self, login_id: str) -> UpstreamError:
        """See `agent.leases.logins.Logins`."""
        found = self.snapshot
        if found is None or found.lease.id != login_id:
            return AuthExpired(f"{self.upstream}: the login has been replaced meanwhile; tried again with the new one")
        age = self._clock.now() - found.lease.issued_at
        lag = LAG if login_id == self._proven else self._lag
        if age < lag:
            text = f"{self.upstream}: the new login is not known everywhere yet (a lagging standby)"
            return Unavailable(text, retry_after=min(1.0, lag - age))
        if login_id != self._proven:
            self._lag = min(BACKOFF_CAP, 2 * self._lag)  # logins that nobody ever accepts: ever more rarely
        _log.warning(Event.LOGIN_LOST, upstream=self.upstream, lease=log.lease_ref(login_id))
        self.renewer.expired([login_id])
        return AuthExpired(f"{self.upstream}: our login has ended; logging in again")

    def _none(self) -> NotLoggedIn:
        why = self.status.error or "the login is under way"
        return NotLoggedIn(f"{self.upstream}: not logged in: {why}")

    # -- Gate: waited for by Renewers -------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def turn(self, *, telling: bool = True, retrying: bool = False) -> AsyncIterator[None]:
        """A turn at the upstream, once there is a login; see Gate.

        Raises:
            NotLoggedIn: there is none, and trying goes on.
        """
        await self._present()
        async with self._gate.turn(telling=telling, retrying=retrying):
            yield

    async def _present(self) -> None:
        with self.cache.subscribe([self.key]) as subscription:
            while self.snapshot is None:
                if self._ended or self.status.phase in (Phase.FAILING, Phase.STOPPED) or self.status.failures:
                    raise self._none()
                await subscription.next()

    # -- Ties: asked for the leases' ends ---------------------------------------------------------------------------

    def assured(self, login_id: str) -> float:
        """See `agent.leases.logins.Ties`."""
        if self._has_lost(login_id):
            return -math.inf
        held = self._held(login_id)
        if held is None:
            # One that we had and have no longer has been ended, and with it whatever hung on it.
            return -math.inf if login_id in self._known else math.inf
        return held.expires_at

    def hard(self, login_id: str) -> float:
        """See `agent.leases.logins.Ties`; of a login that nobody here remembers, it is now."""
        if not login_id:
            return math.inf
        held = self._held(login_id)
        if held is None or self._has_lost(login_id):
            return -math.inf
        return math.inf if held.state == "published" else held.expires_at

    def _has_lost(self, login_id: str) -> bool:
        found = self.snapshot
        return login_id in self._lost and (found is None or found.lease.id != login_id)

    def _held(self, login_id: str) -> Held | None:
        found = next((each for each in self.renewer.held() if each.lease_id == login_id), None)
        if found is not None:
            self._known.add(login_id)
        return found

    # -- the work ---------------------------------------------------------------------------------------------------

    def gone(self, login: Lease) -> None:
        """The upstream does not know `login` any more, and with it ended whatever hung on it."""
        self._lost[login.id] = self._clock.now()
        while len(self._lost) > _REMEMBERED:
            del self._lost[next(iter(self._lost))]
        self._tell()

    def _tell(self) -> None:
        for follower in self._followers.values():
            follower.login_changed()

    async def run(self) -> None:
        """Keep the login until cancelled; then `close` ends it."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.renewer.run(), name=f"renewer {self.key}")
                group.create_task(self._follow(), name=f"follow {self.key}")
                group.create_task(self._watch_identity(), name=f"identity {self.upstream}")
        finally:
            self._ended = True

    async def _follow(self) -> None:
        """Tell the roles of every change, and let go of old logins that nothing hangs on any more."""
        present = ""
        with self.cache.subscribe([self.key]) as subscription:
            while True:
                found = self.snapshot
                if found is not None and found.lease.id != present:
                    present, self._replaced_at = found.lease.id, self._clock.now()
                    self._forget_old()
                    if found.lease.issued_at < self._proof_changed_at:  # it was under way with the old proof
                        self.renewer.replace()
                if found is not None:
                    self._tell()
                await self._until_changed(subscription)

    def _forget_old(self) -> None:
        """Of very many logins, know only those that a lease still hangs on."""
        if len(self._known) <= _KNOWN:
            return
        used = {held.lease_id for held in self.renewer.held()}
        for follower in self._followers.values():
            parents = follower.logins_in_use()
            if parents is None:
                return
            used |= parents
        self._known &= used

    async def _until_changed(self, subscription: Subscription) -> None:
        while True:
            for each in self._releasable():
                self.renewer.revoke(each)
            waits = any(held.state == "draining" for held in self.renewer.held())
            if await subscription.next_within(self._clock, _LOOK if waits else None):
                return

    def _releasable(self) -> list[str]:
        """Old logins that are to be revoked: no lease hangs on them, and no call can be under way with them."""
        present = self.snapshot
        if not self._release or present is None or self._clock.now() < self._replaced_at + 2 * CALL_DEADLINE:
            return []
        used: set[str] = set()
        for follower in self._followers.values():
            parents = follower.logins_in_use()
            if parents is None:
                return []
            used |= parents
        return [
            held.lease_id
            for held in self.renewer.held()
            if held.state == "draining" and not held.tried and held.lease_id not in used | {present.lease.id}
        ]

    async def _watch_identity(self) -> None:
        while True:
            await self._identity.changed()
            _log.info(Event.IDENTITY_CHANGED, upstream=self.upstream)
            if self._identity.binding:
                self._proof_changed_at = self._clock.now()
                self.renewer.replace()
            if self.snapshot is None or self.status.failures:
                self.renewer.retry()

    async def close(self, deadline: float) -> tuple[list[str], frozenset[str]]:
        """End our logins within `deadline` seconds; `run` must have ended, and the roles' leases been revoked.

        Returns:
            What could not be ended, a line each; and the logins that were, with all that hung on them.
        """
        # Of a batch token, say, revoking is nothing: what hangs on it lives on.
        before = {held.lease_id for held in self.renewer.held() if held.keyed}
        if not self._revoke:
            return [], frozenset()
        left = await self.renewer.close(deadline)
        return left, frozenset(before - {held.lease_id for held in self.renewer.held()})
