"""What `leasehold check` finds out from the servers: rights, each role's whole life, who is there now."""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import asdict, dataclass

from agent.clock import Clock
from agent.config.model import Config, Role, method_of
from agent.engines.finding import Inspection
from agent.engines.postgres.rights import Diagnosis, diagnose, inspect
from agent.engines.vault.visit import Visit
from agent.trial import Tried, try_roles, try_visit


@dataclass(frozen=True, kw_only=True)
class Note:
    """What could not be found out, and why that is no failure."""

    upstream: str
    text: str

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return asdict(self)


Found = Inspection | Tried | Diagnosis | Note


@dataclass(frozen=True, kw_only=True)
class Questions:
    """What to find out.

    Attributes:
        rights: what the agent's login may do at each server, too much or too little; changes nothing there.
        roles: mint, log in, renew and revoke once for every role.
        users: the lease users that are there now, and what their groups may do; changes nothing.
    """

    rights: bool = False
    roles: bool = False
    users: bool = False

    def __bool__(self) -> bool:
        return self.rights or self.roles or self.users


async def examine(config: Config, clock: Clock, *, holder: str, questions: Questions) -> AsyncIterator[Found]:
    """Everything found, as it is found: for all upstreams of a kind first rights, then roles, then users.

    A server that was not reached is not asked again.
    """
    async for found in _examine_journals(config, clock, holder=holder, questions=questions):
        yield found
    for name in config.vault:
        async for found in _examine_vault(name, config, clock, questions):
            yield found


async def _examine_journals(config: Config, clock: Clock, *, holder: str, questions: Questions) -> AsyncIterator[Found]:
    reached = dict(config.postgresql)
    if questions.rights:
        for name, server in config.postgresql.items():
            inspection = await inspect(name, server, _roles(config, name), clock)
            yield inspection
            if not inspection.reached:
                del reached[name]
    if questions.roles:
        async for tried in try_roles(config, clock, holder=holder, upstreams=reached):
            yield tried
    if questions.users:
        for name, server in reached.items():
            yield await diagnose(name, server, _roles(config, name), clock)


async def _examine_vault(name: str, config: Config, clock: Clock, questions: Questions) -> AsyncIterator[Found]:
    if questions.rights or questions.roles:
        visit = Visit(name, config.vault[name], method_of(config, name), _roles(config, name), clock)
        left = ""
        try:
            async with contextlib.aclosing(_visited(visit, _roles(config, name), clock, questions)) as told:
                async for found in told:
                    yield found
        finally:
            left = await visit.leave()
        if left:
            yield Note(upstream=name, text=left)
    if questions.users:
        yield Note(upstream=name, text=_UNLISTED.format(name=name))


async def _visited(
    visit: Visit, roles: dict[str, Role], clock: Clock, questions: Questions
) -> AsyncGenerator[Found, None]:
    reached = True
    if questions.rights:
        inspection = await visit.inspect()
        yield inspection
        reached = inspection.reached
    if not questions.roles or not reached:
        return
    if visit.spends:
        yield Note(upstream=visit.name, text=f"{visit.name}: no role is tried: {visit.spends}")
        return
    async for tried in try_visit(visit, roles, clock):
        yield tried


_UNLISTED = (
    "{name}: the users there cannot be listed with the agent's login: the server keeps account of them, and tells "
    "those who have sudo: `bao list sys/leases/lookup/PATH`; what an agent holds: `leasehold leases`"
)


def sound(found: Found) -> bool:
    """Whether it stands in nobody's way; warnings do not."""
    match found:
        case Inspection():
            return found.sound
        case Tried():
            return not found.failed
        case Diagnosis():
            return not found.error
        case Note():
            return True


def _roles(config: Config, upstream: str) -> dict[str, Role]:
    return {name: role for name, role in config.role.items() if role.upstream == upstream}
