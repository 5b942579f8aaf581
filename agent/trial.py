"""Each role once through its whole life, against the real servers, before an app needs it.

`leasehold check --live` and `--engine` run it. It leaves nothing behind but its rows in the journal.
"""

import uuid
from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass

from agent.clock import Clock
from agent.config.model import Config, Role
from agent.engines import postgres
from agent.engines.postgres.rights import missing_grants
from agent.engines.verify import LoginVerifier, Target, targets_for
from agent.errors import CredentialRefused, LeaseholdError
from agent.leases.engine import Engine
from agent.leases.lease import Lease
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
    """

    role: str
    took: float
    failed: str = ""
    error: str = ""
    remedy: tuple[str, ...] = ()
    verified: bool | None = None


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
            return Tried(role=self._name, took=self._clock.now() - began, verified=self._verified)
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
        self._step = "log in with it"
        if self._targets:
            self._verified = await LoginVerifier(self._targets, self._clock)(grant.data, now() + _PATIENCE)
        self._step = "renew it"
        lease = Lease(first=grant, last=grant, issued_at=issued_at, granted_at=issued_at, jitter=0.0)
        async with within(CALL_DEADLINE):
            await self._engine.renew(lease, self._role.ttl)
        self._step = "revoke it"
        async with within(CALL_DEADLINE):
            await self._engine.revoke(self._proposed)

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
