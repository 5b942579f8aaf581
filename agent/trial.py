"""`leasehold check --live`: each role once through its whole life, against the real servers, before an app needs it."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass

from agent.clock import Clock
from agent.config.model import Config, Role
from agent.engines import postgres
from agent.engines.verify import LoginVerifier, targets_for
from agent.errors import LeaseholdError
from agent.leases.engine import Engine
from agent.leases.schedule import CALL_DEADLINE


@dataclass(frozen=True, kw_only=True)
class Tried:
    """How one role fared: the step that failed and why, or the seconds that all steps took."""

    role: str
    took: float
    failed: str = ""
    error: str = ""
    verified: bool = False


async def try_roles(config: Config, clock: Clock, *, holder: str) -> AsyncIterator[Tried]:
    """Issue, verify and revoke one lease of every role; what was issued is revoked whatever happens in between."""
    for name, server in config.postgresql.items():
        roles = {n: r for n, r in config.role.items() if r.upstream == name}
        if not roles:
            continue
        engine = postgres.build(name, server, roles, holder=holder, incarnation=int(clock.wall() * 1000), clock=clock)
        try:
            for role_name, role in roles.items():
                targets = targets_for(role, server)
                verifier = LoginVerifier(targets, clock) if targets else None
                yield await _try(role_name, role, engine, verifier, clock)
        finally:
            await engine.close()


async def _try(name: str, role: Role, engine: Engine, verifier: LoginVerifier | None, clock: Clock) -> Tried:
    began = clock.now()
    proposed = str(uuid.uuid4())
    step = "log in and find the journal"
    verified = False
    try:
        async with clock.timeout(CALL_DEADLINE):
            await engine.ping()
        step = "mint a user"
        async with clock.timeout(CALL_DEADLINE):
            grant = await engine.issue(name, proposed)
        step = "log in with it"
        if verifier is not None:
            verified = await verifier(grant.data, clock.now() + 2.0)
        step = "revoke it"
        async with clock.timeout(CALL_DEADLINE):
            await engine.revoke(proposed)
    except TimeoutError:
        await _clean(engine, proposed, clock)
        return Tried(role=name, took=clock.now() - began, failed=step, error=f"no answer within {CALL_DEADLINE:.0f} s")
    except LeaseholdError as error:
        await _clean(engine, proposed, clock)
        return Tried(role=name, took=clock.now() - began, failed=step, error=str(error))
    return Tried(role=name, took=clock.now() - began, verified=verified)


async def _clean(engine: Engine, proposed: str, clock: Clock) -> None:
    try:
        async with clock.timeout(CALL_DEADLINE):
            await engine.revoke(proposed)
    except (TimeoutError, LeaseholdError):
        return  # what is left ends with its TTL; the failure that matters has been told already
