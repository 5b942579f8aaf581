"""What `leasehold check` finds out from the servers: rights, each role's whole life, who is there now."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

from agent.clock import Clock
from agent.config.model import Config, Role
from agent.engines.postgres.rights import Diagnosis, Inspection, diagnose, inspect
from agent.trial import Tried, try_roles

Found = Inspection | Tried | Diagnosis


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
    """Everything found, as it is found: first the servers' rights, then their roles, then the users.

    A server that was not reached is not asked again.
    """
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


def sound(found: Found) -> bool:
    """Whether it stands in nobody's way; warnings do not."""
    match found:
        case Inspection():
            return found.sound
        case Tried():
            return not found.failed
        case Diagnosis():
            return not found.error


def _roles(config: Config, upstream: str) -> dict[str, Role]:
    return {name: role for name, role in config.role.items() if role.upstream == upstream}
