"""The parts between configuration and service: engines, logins, Renewers, sweepers, files. Made once, by `agent.app`.

Heavy libraries (psycopg, Jinja), and what only some configurations need, are imported only here, after the socket
listens.
"""

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent import log
from agent.clock import Clock
from agent.clusters import Cluster, Surroundings, token_places
from agent.clusters import build as build_cluster
from agent.config.model import Config, Method, Role, method_of
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Circuit
from agent.leases.engine import Engine, Verify
from agent.leases.lease import Lease
from agent.leases.logins import UNTIED
from agent.leases.observed import Call, Observed, ObservedSource, ObservedVerify
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from agent.leases.session import key_of
from agent.log import Event
from agent.offload import in_daemon_thread
from agent.state import StateDir, boot_id
from agent.translate import logins_of, policy_of

if TYPE_CHECKING:
    from agent.engines.postgres import PostgresEngine, Row
    from agent.files.files import Files
    from agent.files.keeper import FileState
    from agent.files.tokens import TokenSinks
    from agent.leases.poller import Poller
    from agent.sweeper import Sweeper

_log = log.get(__name__)


@dataclass(kw_only=True)
class Parts:
    """What was made so far; a stop may come while the rest is still being made."""

    journals: "dict[str, PostgresEngine]" = field(default_factory=dict)
    clusters: dict[str, Cluster] = field(default_factory=dict)
    circuits: dict[str, Circuit] = field(default_factory=dict)
    renewers: "dict[str, Renewer | Poller]" = field(default_factory=dict)
    sweepers: "dict[str, Sweeper]" = field(default_factory=dict)
    files: "Files | None" = None
    tokens: "TokenSinks | None" = None
    state: StateDir | None = None
    incarnation: int = 0

    @property
    def keepers(self) -> "dict[str, Renewer | Poller]":
        """Who keeps each role, and each login of ours."""
        return self.renewers | {each.session.key: each.session.renewer for each in self.clusters.values()}

    def expired(self, lease_ids: frozenset[str]) -> None:
        """An upstream says that these leases have ended."""
        for renewer in self.renewers.values():
            renewer.expired(lease_ids)

    def put_to_work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """A task for every part that has work of its own."""
        work = [group.create_task(each.session.run(), name=f"session {n}") for n, each in self.clusters.items()]
        work += [group.create_task(renewer.run(), name=f"renewer {n}") for n, renewer in self.renewers.items()]
        work += [group.create_task(sweeper.run(), name=f"sweep {n}") for n, sweeper in self.sweepers.items()]
        if self.files is not None:
            work.append(group.create_task(self.files.run(), name="files"))
        if self.tokens is not None:
            work.append(group.create_task(self.tokens.run(), name="token sinks"))
        return work

    def recheck(self) -> None:
        """Have everyone look at the clock: the machine was suspended."""
        for keeper in self.keepers.values():
            keeper.recheck()

    def file_states(self) -> "list[FileState]":
        """How each file is doing, tokens' included."""
        return [state for room in (self.files, self.tokens) if room is not None for state in room.states()]

    async def written(self) -> None:
        """Return once every file has been written."""
        for room in (self.files, self.tokens):
            if room is not None:
                await room.written()

    async def remove_files(self) -> list[str]:
        """Remove every file; what could not be, a line each."""
        return [line for room in (self.files, self.tokens) if room is not None for line in await room.remove()]

    async def revoke(self, deadline: float) -> list[str]:
        """End every lease within `deadline` seconds, and then our logins.

        Returns:
            What is left, a line each. A lease that could not be ended by itself may have ended with its login.
        """
        closing = (renewer.close(deadline * 0.75) for renewer in self.renewers.values())
        told = await asyncio.gather(*closing, return_exceptions=True)
        leaving = (each.session.close(deadline * 0.25) for each in self.clusters.values())
        left: list[str] = []
        ended: set[str] = set()
        for name, logins in zip(self.clusters, await asyncio.gather(*leaving, return_exceptions=True), strict=True):
            if isinstance(logins, BaseException):
                left.append(f"{name}: our login was not ended: {log.reason_of(logins)}")
                continue
            left += logins[0]
            ended |= logins[1]
        for (role, renewer), lines in zip(self.renewers.items(), told, strict=True):
            if isinstance(lines, BaseException):
                left.append(f"{role}: not revoked: {log.reason_of(lines)}")
            elif {held.parent for held in renewer.held()} - ended or not ended:
                left += lines
        return left

    async def close(self) -> None:
        """Let go of every upstream."""
        closing = [engine.close() for engine in self.journals.values()]
        closing += [cluster.close() for cluster in self.clusters.values()]
        await asyncio.gather(*closing, return_exceptions=True)


@dataclass(frozen=True, kw_only=True)
class Builder:
    """Makes the parts of one agent.

    Attributes:
        holder: whom the leases are issued for.
        min_ttl: shortest lease that is accepted.
        on_failed: told of a role whose attempts failed too often in a row.
        on_expired: told of each lease that came to its end while it was served.
        on_swept: told, with the upstream's name, of leases that a sweep has ended.
        tell: told of every call of every upstream. None of these may raise or block.
    """

    config: Config
    cache: LeaseCache
    clock: Clock
    holder: str
    min_ttl: float
    on_failed: Callable[[str, str], None]
    on_expired: Callable[[str, Lease], None]
    on_swept: "Callable[[str, Sequence[Row]], None]"
    tell: Callable[[Call], None]

    async def build(self, parts: Parts) -> None:
        """Make every part, and put each into `parts` as soon as it is there.

        Raises:
            StartError: something here cannot be used; the text names it and the remedy.
        """
        incarnation, left = await self._open_state(parts, int(self.clock.wall() * 1000))
        parts.incarnation = incarnation
        self._build_journals(parts, incarnation)
        self._build_clusters(parts, left)
        for name, role in self.config.role.items():
            cluster = parts.clusters.get(role.upstream)
            if cluster is not None and role.kind in ("kv", "static"):
                parts.renewers[name] = self._poller(name, cluster)
            else:
                parts.renewers[name] = self._renewer(name, parts, left.get(name))
            if cluster is not None:
                cluster.followers[name] = parts.renewers[name]
        await self._build_files(parts)

    async def _open_state(self, parts: Parts, least: int) -> tuple[int, dict[str, RoleRecord]]:
        """The number of this incarnation, and what the last one recorded."""
        agent = self.config.agent
        if agent.state_dir is None:
            return least, {}
        path, allow_disk = Path(agent.state_dir), agent.state_allow_disk

        def take_over() -> tuple[StateDir, int, dict[str, RoleRecord]]:
            upstreams = _places(self.config)
            state = StateDir(path, holder=self.holder, boot=boot_id(), allow_disk=allow_disk, upstreams=upstreams)
            incarnation = state.open(least)
            state.forget_others(upstreams)
            return state, incarnation, {role: state.load(role) for role in upstreams}

        parts.state, incarnation, left = await in_daemon_thread(take_over)
        return incarnation, left

    def _build_journals(self, parts: Parts, incarnation: int) -> None:
        if not self.config.postgresql:
            return
        from agent.engines import postgres
        from agent.sweeper import Sweeper

        for name, server in self.config.postgresql.items():
            roles = {n: r for n, r in self.config.role.items() if r.upstream == name}
            if not roles:
                continue
            engine = postgres.build(name, server, roles, holder=self.holder, incarnation=incarnation, clock=self.clock)
            circuit = Circuit(name, limit=server.max_calls)
            parts.journals[name] = engine
            parts.circuits[name] = circuit
            parts.sweepers[name] = Sweeper(
                *(name, engine, circuit, self.clock, server.cleanup_interval),
                expired=parts.expired,
                ended=self.on_swept,
                warn_beyond=self._lease_warning,
            )
            _log.info(Event.UPSTREAM, upstream=name, host=server.host)

    def _build_clusters(self, parts: Parts, left: Mapping[str, RoleRecord]) -> None:
        config = self.config
        shared = {sink.upstream for sink in config.auto_auth.sink}
        for name in logins_of(config):
            server, roles = config.vault[name], {n: r for n, r in config.role.items() if r.upstream == name}
            around = Surroundings(
                clock=self.clock,
                min_ttl=self.min_ttl,
                splay=config.agent.start_splay,
                recorder=parts.state,
                tell=self.tell,
                on_failed=lambda role, error: None,
                on_expired=self.on_expired,
            )
            method = method_of(config, name)
            cluster = build_cluster(
                name, server, method, roles, left=left.get(key_of(name)), around=around, shared=name in shared
            )
            parts.clusters[name] = cluster
            parts.circuits[name] = cluster.circuit
            _log.info(Event.UPSTREAM, upstream=name, host=server.address)

    def _renewer(self, name: str, parts: Parts, left: RoleRecord | None) -> Renewer:
        role, clock = self.config.role[name], self.clock
        cluster = parts.clusters.get(role.upstream)
        upstream: Engine = parts.journals[role.upstream] if cluster is None else cluster.engine
        engine = Observed(
            upstream,
            role=name,
            upstream=role.upstream,
            requested=role.ttl if cluster is None else role.default_ttl or 0.0,
            clock=clock,
            tell=self.tell,
        )
        return Renewer(
            name,
            engine=engine,
            gate=parts.circuits[role.upstream] if cluster is None else cluster.session,
            ties=UNTIED if cluster is None else cluster.session,
            cache=self.cache,
            policy=policy_of(role, min_ttl=self.min_ttl),
            clock=clock,
            verify=self._verifier(name),
            lazy=role.lazy,
            recorder=parts.state,
            adopted=left,
            splay=self._splay() if cluster is None else 0.0,  # the login before it is spread already
            verify_every=role.verify_every,
            on_failed=self.on_failed,
            on_expired=self.on_expired,
        )

    def _poller(self, name: str, cluster: Cluster) -> "Poller":
        from agent.leases.poller import Poller

        role = self.config.role[name]
        source = ObservedSource(cluster.source, role=name, upstream=role.upstream, clock=self.clock, tell=self.tell)
        return Poller(
            name,
            source=source,
            cache=self.cache,
            clock=self.clock,
            interval=role.poll,
            kind="kv" if role.kind == "kv" else "static",
            gate=cluster.session,
            verify=self._verifier(name),
            lazy=role.lazy,
            on_failed=self.on_failed,
            attempts=role.retries,
        )

    def _splay(self) -> float:
        return random.SystemRandom().uniform(0.0, self.config.agent.start_splay)

    def _lease_warning(self, role: str) -> int:
        """How many leases of a role are no reason for a word; of one that is not ours, as many as by default."""
        known = self.config.role.get(role)
        return Role(upstream="").lease_warning if known is None else known.lease_warning

    def _verifier(self, name: str) -> Verify | None:
        from agent.engines.verify import LoginVerifier, targets_for

        role = self.config.role[name]
        targets = targets_for(role, self.config.postgresql.get(role.upstream))
        if not targets:
            return None
        login = LoginVerifier(targets, self.clock)
        return ObservedVerify(login, role=name, upstream=role.upstream, clock=self.clock, tell=self.tell)

    async def _build_files(self, parts: Parts) -> None:
        config = self.config
        if config.auto_auth.sink:
            from agent.files.tokens import TokenSinks

            places = token_places(parts.clusters)
            wraps = {name: cluster.wrap for name, cluster in parts.clusters.items()}
            tokens = TokenSinks(config.auto_auth.sink, places, wraps, self.clock, run_blocking=in_daemon_thread)
            await tokens.prepare()
            parts.tokens = tokens
        if not config.template:
            return
        from agent.files.files import Files

        files = Files(
            *(config.template, config.template_config, config.role, self.cache, self.clock),
            run_blocking=in_daemon_thread,
        )
        await files.prepare()
        parts.files = files


def _places(config: Config) -> dict[str, str]:
    """Where the leases of each role are good, and each of our logins: a restart takes over nothing from elsewhere.

    A login that one server gave is a secret that no other may be sent, though it has the same name here now.
    """
    where = {
        name: " ".join(filter(None, (name, server.address, server.namespace))) for name, server in config.vault.items()
    }
    roles = {
        name: f"{where[role.upstream]} {_what(role)}" if role.upstream in where else role.upstream
        for name, role in config.role.items()
    }
    return roles | {key_of(name): f"{where[name]} {_who(method_of(config, name))}" for name in logins_of(config)}


def _what(role: Role) -> str:
    """What a role asks for at a Vault; a lease of something else is not its lease."""
    asked = json.dumps([role.kind, role.path, sorted(role.parameters.items())])
    return hashlib.sha256(asked.encode()).hexdigest()[:16]


def _who(method: Method) -> str:
    """As whom the agent logs in; a login of somebody else is not its login."""
    config = method.config
    return " ".join(filter(None, (method.type, method.mount, method.namespace, config.role, config.name)))
