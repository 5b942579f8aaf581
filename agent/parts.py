"""The parts between configuration and service: engines, Renewers, sweepers, files. Made once, by `agent.app`.

Heavy libraries (psycopg, Jinja) are imported only here, after the socket listens.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent import log
from agent.clock import Clock
from agent.config.model import Config, Role
from agent.leases.cache import LeaseCache
from agent.leases.circuit import Circuit
from agent.leases.engine import Verify
from agent.leases.lease import Lease
from agent.leases.observed import Call, Observed, ObservedVerify
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from agent.log import Event
from agent.offload import in_daemon_thread
from agent.state import StateDir, boot_id
from agent.sweeper import Sweeper
from agent.translate import policy_of

if TYPE_CHECKING:
    from agent.engines.postgres import PostgresEngine, Row
    from agent.files.files import Files

_log = log.get(__name__)


@dataclass(kw_only=True)
class Parts:
    """What was made so far; a stop may come while the rest is still being made."""

    engines: "dict[str, PostgresEngine]" = field(default_factory=dict)
    circuits: dict[str, Circuit] = field(default_factory=dict)
    renewers: dict[str, Renewer] = field(default_factory=dict)
    sweepers: dict[str, Sweeper] = field(default_factory=dict)
    files: "Files | None" = None
    state: StateDir | None = None
    incarnation: int = 0

    def expired(self, lease_ids: frozenset[str]) -> None:
        """An upstream says that these leases have ended."""
        for renewer in self.renewers.values():
            renewer.expired(lease_ids)

    def put_to_work(self, group: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """A task for every part that has work of its own."""
        work = [group.create_task(renewer.run(), name=f"renewer {n}") for n, renewer in self.renewers.items()]
        work += [group.create_task(sweeper.run(), name=f"sweep {n}") for n, sweeper in self.sweepers.items()]
        if self.files is not None:
            work.append(group.create_task(self.files.run(), name="files"))
        return work


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
        self._build_engines(parts, incarnation)
        for name in self.config.role:
            parts.renewers[name] = self._renewer(name, parts, left.get(name))
        await self._build_files(parts)

    async def _open_state(self, parts: Parts, least: int) -> tuple[int, dict[str, RoleRecord]]:
        """The number of this incarnation, and what the last one recorded."""
        agent = self.config.agent
        if agent.state_dir is None:
            return least, {}
        path, allow_disk = Path(agent.state_dir), agent.state_allow_disk

        def take_over() -> tuple[StateDir, int, dict[str, RoleRecord]]:
            upstreams = {name: role.upstream for name, role in self.config.role.items()}
            state = StateDir(path, holder=self.holder, boot=boot_id(), allow_disk=allow_disk, upstreams=upstreams)
            incarnation = state.open(least)
            state.forget_others(upstreams)
            return state, incarnation, {role: state.load(role) for role in self.config.role}

        parts.state, incarnation, left = await in_daemon_thread(take_over)
        return incarnation, left

    def _build_engines(self, parts: Parts, incarnation: int) -> None:
        from agent.engines import postgres

        for name, server in self.config.postgresql.items():
            roles = {n: r for n, r in self.config.role.items() if r.upstream == name}
            if not roles:
                continue
            engine = postgres.build(name, server, roles, holder=self.holder, incarnation=incarnation, clock=self.clock)
            circuit = Circuit(name, limit=server.max_calls)
            parts.engines[name] = engine
            parts.circuits[name] = circuit
            parts.sweepers[name] = Sweeper(
                *(name, engine, circuit, self.clock, server.cleanup_interval),
                expired=parts.expired,
                ended=self.on_swept,
                warn_beyond=self._lease_warning,
            )
            _log.info(Event.UPSTREAM, upstream=name, host=server.host)

    def _renewer(self, name: str, parts: Parts, left: RoleRecord | None) -> Renewer:
        role, clock = self.config.role[name], self.clock
        engine = Observed(
            parts.engines[role.upstream],
            role=name,
            upstream=role.upstream,
            requested=role.ttl,
            clock=clock,
            tell=self.tell,
        )
        return Renewer(
            name,
            engine=engine,
            gate=parts.circuits[role.upstream],
            cache=self.cache,
            policy=policy_of(role, min_ttl=self.min_ttl),
            clock=clock,
            verify=self._verifier(name),
            lazy=role.lazy,
            recorder=parts.state,
            adopted=left,
            splay=random.SystemRandom().uniform(0.0, self.config.agent.start_splay),
            verify_every=role.verify_every,
            on_failed=self.on_failed,
            on_expired=self.on_expired,
        )

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
        if not config.template:
            return
        from agent.files.files import Files

        files = Files(
            *(config.template, config.template_config, config.role, self.cache, self.clock),
            run_blocking=in_daemon_thread,
        )
        await files.prepare()
        parts.files = files
