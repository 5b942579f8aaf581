"""What belongs to one Vault or OpenBao cluster: the way there, our login, and what is asked with it.

Made by `agent.parts`, after the socket listens; the client library is imported with the first call.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from attrs import evolve

from agent.clock import Clock
from agent.config.model import Method, Role, Vault
from agent.errors import UpstreamError
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Circuit, First
from agent.leases.lease import Lease, Secret
from agent.leases.observed import Call, Observed
from agent.leases.record import Recorder, RoleRecord
from agent.leases.renewer import Renewer
from agent.leases.schedule import CALL_DEADLINE, Policy
from agent.leases.session import Follower, Session, key_of

if TYPE_CHECKING:
    from agent.engines.vault import VaultEngine, VaultLogin, VaultSource
    from agent.engines.vault.wire import HttpWire


_LATEST = 2 * CALL_DEADLINE
"""Seconds after which no answer comes any more, and none is being seen to."""


_MOMENT = 0.5
"""Longest wait (seconds) for a server to say that it is well, when a call to it was waited for in vain."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """One cluster.

    Attributes:
        method: how the login is made.
        circuit: every call waits there for its turn; those of roles wait for the login before.
        followers: the roles whose leases hang on the login; filled by whoever makes them.
    """

    method: Method
    wire: "HttpWire"
    login: "VaultLogin"
    session: Session
    circuit: Circuit
    engine: "VaultEngine"
    source: "VaultSource"
    followers: dict[str, Follower] = field(default_factory=dict)

    async def wrap(self, token: Secret, ttl: float) -> Secret:
        """A single-use token that stands for `token` during `ttl` seconds."""
        async with self.circuit.turn():
            return await self.login.wrap(token, ttl)

    async def close(self) -> None:
        """End the threads; a login that is answered only now is ended first. Whoever calls sets the deadline."""
        await self.wire.close(linger=_LATEST)


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What every cluster of an agent is made with; see `agent.parts.Builder`."""

    clock: Clock
    min_ttl: float
    splay: float
    recorder: Recorder | None
    tell: Callable[[Call], None]
    on_failed: Callable[[str, str], None]
    on_expired: Callable[[str, Lease], None]


def build(
    name: str,
    server: Vault,
    method: Method,
    roles: Mapping[str, Role],
    *,
    left: RoleRecord | None,
    around: Surroundings,
    shared: bool = False,
) -> Cluster:
    """The cluster called `name`; nothing is asked there before its session runs.

    Args:
        left: what the last incarnation recorded of the login.
        shared: others use our login too, out of a token sink.
    """
    from agent import identity
    from agent.engines.vault import VaultEngine, VaultLogin, VaultSource
    from agent.engines.vault.wire import HttpWire

    clock = around.clock
    server = evolve(server, method=method)
    wire = HttpWire(name, server, clock)
    login = VaultLogin(name, server, wire, clock=clock)
    proof = identity.build(method, server=server, clock=clock, unwrap=login.unwrap)
    login.log_in_as(proof)
    circuit = Circuit(name, limit=server.max_calls, alive=_alive(login, clock))
    followers: dict[str, Follower] = {}
    revoke = server.revoke_on_stop and method.type != "token_file"
    session = Session(
        *(name,), followers=followers, identity=proof, gate=circuit, clock=clock, revoke=revoke, release=not shared
    )
    session.keep_by(_renewer(session, login, circuit, left=left, around=around))
    _remember(login, left)
    return Cluster(
        method=method,
        wire=wire,
        login=login,
        session=session,
        circuit=circuit,
        engine=VaultEngine(name, server, roles, wire, session, clock),
        source=VaultSource(name, roles, wire, session),
        followers=followers,
    )


def _renewer(
    session: Session, login: "VaultLogin", circuit: Circuit, *, left: RoleRecord | None, around: Surroundings
) -> Renewer:
    observed = Observed(
        login, role=session.key, upstream=session.upstream, requested=0.0, clock=around.clock, tell=around.tell
    )
    return Renewer(
        session.key,
        engine=observed,
        gate=First(circuit),
        cache=session.cache,
        policy=Policy(min_ttl=around.min_ttl),
        clock=around.clock,
        recorder=around.recorder,
        adopted=left,
        splay=random.SystemRandom().uniform(0.0, around.splay),
        on_failed=around.on_failed,
        on_expired=around.on_expired,
        on_gone=session.gone,
    )


def _alive(login: "VaultLogin", clock: Clock) -> Callable[[], Awaitable[bool]]:
    """Finds out whether the server itself answers, when what was asked of it did not come."""

    async def alive() -> bool:
        try:
            async with clock.timeout(_MOMENT):
                await login.ping()
        except (UpstreamError, TimeoutError):
            return False
        return True

    return alive


def _remember(login: "VaultLogin", left: RoleRecord | None) -> None:
    """Tell the engine the tokens of logins that a restart takes over: they are revoked with themselves.

    A login without a key is not ours to revoke: it came from a token's file, or is a batch token.
    """
    if left is None:
        return
    if left.current is not None and left.current.first.key is not None:
        login.remember(left.current.id, left.current.first.key)
    for each in left.retired:
        if each.key is not None:
            login.remember(each.lease_id, each.key)


def token_places(clusters: Mapping[str, Cluster]) -> dict[str, tuple[LeaseCache, str]]:
    """Where each cluster's login is put up: the cache, and the key there."""
    return {name: (cluster.session.cache, key_of(name)) for name, cluster in clusters.items()}
