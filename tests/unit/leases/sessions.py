"""A session with two roles on an upstream in memory, for the tests of sessions."""

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import replace

from agent.leases.cache import LeaseCache
from agent.leases.circuit import OPEN, Gate
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from agent.leases.schedule import Policy
from agent.leases.session import Session
from tests.fakes import FakeClock, FakeEngine, settle

ROLES = ("database/creds/app", "database/creds/other")

Script = Callable[[str, int], Exception | float | None]


def nothing(operation: str, n: int) -> Exception | float | None:
    return None


class FakeLogin(FakeEngine):
    """Logins at an upstream in memory."""

    on_login: Callable[[str], None] = staticmethod(lambda login_id: None)
    keyed = True

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """A login; its token is what its id says."""
        grant = await super().issue(role, proposed_id)
        self.on_login(grant.id)
        token = Secret(f"token of {grant.id}")
        return replace(grant, data={"token": token}, key=token if self.keyed else None)


class FakeVault(FakeEngine):
    """An upstream whose leases end with the login that made them."""

    def __init__(self, clock: FakeClock, login: FakeLogin, *, ttl: float, script: Script) -> None:
        super().__init__(clock, ttl=ttl, script=script)
        self.login = login
        self.session: Session | None = None
        self.parent: dict[str, str] = {}
        self.unknown: set[str] = set()

    @property
    def live(self) -> list[str]:
        """Ids of the leases that still work."""
        return [each for each in super().live if self.parent[each] in self.login.live]

    def _present(self) -> str:
        assert self.session is not None
        token = self.session.token().id
        if token not in self.login.live or token in self.unknown:
            raise self.session.refused(token)
        self.session.accepted(token)
        return token

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """A lease of the present login."""
        parent = self._present()
        grant = await super().issue(role, proposed_id)
        self.parent[grant.id] = parent
        return replace(grant, parent=parent)

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """Longer, with whatever login; it still hangs on the one that made it."""
        self._present()
        return replace(await super().renew(lease, increment), parent=self.parent[lease.id])

    async def revoke(self, lease_id: str) -> None:
        """Gone."""
        self._present()
        await super().revoke(lease_id)


class Identity:
    """Files that a test changes."""

    def __init__(self, *, binding: bool = False) -> None:
        self.binding = binding
        self.touched = asyncio.Event()

    async def changed(self) -> None:
        """When touched."""
        await self.touched.wait()
        self.touched.clear()


class Scene:
    """One session, two roles."""

    def __init__(
        self,
        *,
        token_ttl: float = 600.0,
        token_max: float = math.inf,
        lease_ttl: float = 60.0,
        login_script: Script = nothing,
        script: Script = nothing,
        renewable: bool = True,
        binding: bool = False,
        gate: Gate = OPEN,
        left: RoleRecord | None = None,
        roles_left: RoleRecord | None = None,
        release: bool = True,
        clock: FakeClock | None = None,
    ) -> None:
        self.clock = clock or FakeClock()
        self.login = FakeLogin(self.clock, ttl=token_ttl, max_ttl=token_max, renewable=renewable, script=login_script)
        self.vault = FakeVault(self.clock, self.login, ttl=lease_ttl, script=script)
        self.identity = Identity(binding=binding)
        self.cache = LeaseCache(ROLES)
        self.roles: dict[str, Renewer] = {}
        self.failed: list[str] = []
        self.session = Session(
            "vault", followers=self.roles, identity=self.identity, gate=gate, clock=self.clock, release=release
        )
        self.vault.session = self.session
        self.session.keep_by(
            Renewer(
                self.session.key,
                engine=self.login,
                cache=self.session.cache,
                policy=Policy(),
                clock=self.clock,
                gate=gate,
                adopted=left,
                on_gone=self.session.gone,
            )
        )
        for role in ROLES:
            self.roles[role] = Renewer(
                role,
                engine=self.vault,
                cache=self.cache,
                policy=Policy(),
                clock=self.clock,
                gate=self.session,
                ties=self.session,
                adopted=roles_left,
                on_failed=lambda role, error: self.failed.append(role),
            )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Scene"]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self.session.run())]
            tasks += [group.create_task(role.run()) for role in self.roles.values()]
            await settle()
            yield self
            for task in tasks:
                task.cancel()

    async def dead_readings(self, seconds: float, step: float = 0.5) -> float:
        """For how many seconds of the next ones readers were given what no longer works, whatever they lacked else."""
        return step * sum("dead" in wrong for wrong in await self.live_through(seconds, step)) / len(ROLES)

    async def live_through(self, seconds: float, step: float = 0.5) -> Iterable[str]:
        """What was wrong at any instant: a role without a credential, or with one that no longer works."""
        wrong = []
        for _ in range(int(seconds / step)):
            await self.clock.advance(step)
            for role in ROLES:
                found = self.cache.read(role, self.clock.now())
                if found is None:
                    wrong.append(f"{self.clock.now():.1f} {role}: nothing")
                elif found.lease.id not in self.vault.live:
                    wrong.append(f"{self.clock.now():.1f} {role}: dead")
        return wrong


class Anything(set[str]):
    """Contains whatever it is asked for."""

    def __contains__(self, item: object) -> bool:
        return True
