"""Each role once through its whole life, against the real servers, before an app needs it.

`leasehold check --live` and `--engine` run it. It leaves nothing behind but its rows in a journal.
"""

import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass

from agent.clock import Clock
from agent.config.model import Config, Role
from agent.engines import postgres
from agent.engines.postgres.rights import missing_grants
from agent.engines.vault.rights import beside_lease
from agent.engines.vault.visit import Visit
from agent.engines.verify import LoginVerifier, Target, targets_for
from agent.errors import CredentialRefused, LeaseholdError
from agent.leases.engine import Engine
from agent.leases.lease import Lease, Secret
from agent.leases.schedule import CALL_DEADLINE

_PATIENCE = 2.0


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How one role fared.

    Attributes:
        took: seconds, for all steps.
        failed: the step that failed, "" where none did; `error` says why.
        remedy: statements for a superuser that may mend it; empty where that cannot be told.
        verified: it logged in, and its probes succeeded, wherever it should; None where there is nowhere to try it.
        done: what was done beside logging in, before it and after it.
        notes: what goes well and could go better, a line each.
    """

    role: str
    took: float
    failed: str = ""
    error: str = ""
    remedy: tuple[str, ...] = ()
    verified: bool | None = None
    done: tuple[str, str] = ("minted a user", "renewed it, revoked it")
    notes: tuple[str, ...] = ()


async def try_roles(
    config: Config, clock: Clock, *, holder: str, upstreams: Collection[str] | None = None
) -> AsyncIterator[Tried]:
    """Issue, verify, renew and revoke one lease of every role; what was issued is revoked whatever happens in between.

    Args:
        holder: whom the journal names for it.
        upstreams: only the roles of these; of all by default.
    """
    for name, server in config.postgresql.items():
        roles = {n: r for n, r in config.role.items() if r.upstream == name}
        if not roles or (upstreams is not None and name not in upstreams):
            continue
        engine = postgres.build(name, server, roles, holder=holder, incarnation=int(clock.wall() * 1000), clock=clock)
        try:
            for role_name, role in roles.items():
                yield await _Trial(role_name, role, engine, targets_for(role, server), clock).run()
        finally:
            await engine.close()


async def try_visit(visit: Visit, roles: Mapping[str, Role], clock: Clock) -> AsyncIterator[Tried]:
    """The same at a Vault, with the visit's login: what nobody leases there is read, and nothing else."""
    for name, role in roles.items():
        yield await _VaultTrial(name, role, visit, targets_for(role, None), clock).run()


class _Trial:
    """One role's."""

    def __init__(self, name: str, role: Role, engine: Engine, targets: tuple[Target, ...], clock: Clock) -> None:
        self._name = name
        self._role = role
        self._engine = engine
        self._targets = targets
        self._clock = clock
        self._proposed = str(uuid.uuid4())
        self._step = ""
        self._asked = False
        self._verified: bool | None = None
        self._done = ("minted a user", "renewed it, revoked it")
        self._notes: tuple[str, ...] = ()

    async def run(self) -> Tried:
        began = self._clock.now()
        try:
            await self._live()
        except TimeoutError:
            await self._clean()
            error, remedy = f"no answer within {CALL_DEADLINE:.0f} s", self._remedy(None)
        except LeaseholdError as failure:
            await self._clean()
            error, remedy = str(failure), self._remedy(failure)
        else:
            return Tried(
                role=self._name,
                took=self._clock.now() - began,
                verified=self._verified,
                done=self._done,
                notes=self._notes,
            )
        return Tried(role=self._name, took=self._clock.now() - began, failed=self._step, error=error, remedy=remedy)

    async def _live(self) -> None:
        now, within = self._clock.now, self._clock.timeout
        self._step = "log in and find the journal"
        async with within(CALL_DEADLINE):
            await self._engine.ping()
        self._step = "mint a user"
        issued_at, self._asked = now(), True
        async with within(CALL_DEADLINE):
            grant = await self._engine.issue(self._name, self._proposed)
        await self._log_in_with(grant.data)
        self._step = "renew it"
        lease = Lease(first=grant, last=grant, issued_at=issued_at, granted_at=issued_at, jitter=0.0)
        async with within(CALL_DEADLINE):
            await self._engine.renew(lease, self._role.ttl)
        self._step = "revoke it"
        async with within(CALL_DEADLINE):
            await self._engine.revoke(self._proposed)

    async def _log_in_with(self, data: Mapping[str, Secret]) -> None:
        self._step = "log in with it"
        if self._targets:
            self._verified = await LoginVerifier(self._targets, self._clock)(data, self._clock.now() + _PATIENCE)

    def _remedy(self, failure: LeaseholdError | None) -> tuple[str, ...]:
        if not isinstance(failure, CredentialRefused):
            return ()
        probes = [target.probe for target in self._targets if target.probe is not None]
        return missing_grants(failure.lacking, probes, self._role.group)

    async def _clean(self) -> None:
        if not self._asked:
            return
        try:
            async with self._clock.timeout(CALL_DEADLINE):
                await self._engine.revoke(self._proposed)
        except (TimeoutError, LeaseholdError):
            return  # what is left ends with its TTL; the failure that matters is told already


class _VaultTrial(_Trial):
    """One role's at a Vault."""

    def __init__(self, name: str, role: Role, visit: Visit, targets: tuple[Target, ...], clock: Clock) -> None:
        super().__init__(name, role, visit.engine, targets, clock)
        self._visit = visit

    async def _live(self) -> None:
        self._step = "log in at the server"
        await self._visit.log_in()
        if self._role.kind in ("kv", "static"):
            await self._look()
        else:
            await self._lease()

    async def _look(self) -> None:
        self._step = "read it"
        self._done = ("read it", "")
        async with self._clock.timeout(CALL_DEADLINE):
            found = await self._visit.source.fetch(self._name)
        await self._log_in_with(found.data)

    async def _lease(self) -> None:
        now, within = self._clock.now, self._clock.timeout
        self._step = "have it issued"
        issued_at, self._asked = now(), True
        async with within(CALL_DEADLINE):
            grant = await self._engine.issue(self._name, self._proposed)
        await self._log_in_with(grant.data)
        leased = grant.id != self._proposed  # else it is a certificate, which ends by itself
        if leased:
            self._notes = tuple(beside_lease(grant.ttl, self._visit.facts))
        if leased and grant.renewable:
            self._step = "renew it"
            lease = Lease(first=grant, last=grant, issued_at=issued_at, granted_at=issued_at, jitter=0.0)
            async with within(CALL_DEADLINE):
                await self._engine.renew(lease, self._role.ttl)
        self._step = "revoke it"
        async with within(CALL_DEADLINE):
            await self._engine.revoke(self._proposed)
        self._done = (f"had it issued for {grant.ttl:.0f} s", _ended(leased=leased, renewable=grant.renewable))


def _ended(*, leased: bool, renewable: bool) -> str:
    if not leased:
        return "which ends by itself"
    return "renewed it, revoked it" if renewable else "revoked it (it cannot be renewed)"
