"""Short ways to make the values these tests speak of, and texts that break careless quoting."""

import asyncio
import errno
import random
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies as st

from agent.config import model
from agent.files.credential import Credential
from agent.files.files import Files
from agent.files.keeper import RunBlocking
from agent.files.template import Rendering, compiled
from agent.leases.cache import LeaseCache, Snapshot
from agent.leases.lease import Grant, Lease, Secret
from tests.fakes import FakeClock, settle

T = TypeVar("T")

ROLE = "database/creds/app-readonly"
OTHER = "database/creds/app-readwrite"
CONNECTION = model.Connection(host="db.example.com", dbname="app", port=5433)

SAMPLE = "A1a-+/=@:'\" $\\`"
PRINTABLE = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))
PASSWORDS = st.text(PRINTABLE, max_size=40)


def hostile_passwords(count: int) -> list[str]:
    """`count` texts, the same in every run, rich in what shells, URLs and libpq treat specially."""
    draw = random.Random(20_000)  # noqa: S311 - the same in every run
    spicy = string.punctuation * 3 + string.ascii_letters + string.digits + "  äß€𝄞\u00a0"
    return [SAMPLE, *("".join(draw.choices(spicy, k=draw.randint(1, 40))) for _ in range(count - 1))]


def role(*, connection: model.Connection | None = CONNECTION, **fields: object) -> model.Role:
    """A role with a place to connect to."""
    return model.Role(upstream="postgresql", connection=connection, **fields)  # type: ignore[arg-type]


def lease(data: Mapping[str, str], *, ttl: float, now: float, id: str = "lease-1", renewable: bool = True) -> Lease:
    """A lease granted at `now`."""
    secrets = {name: Secret(text) for name, text in data.items()}
    grant = Grant(id=id, data=secrets, ttl=ttl, renewable=renewable)
    return Lease(first=grant, last=grant, issued_at=now, granted_at=now, jitter=0.0)


def credential(
    data: Mapping[str, str] | None = None,
    *,
    of: model.Role | None = None,
    name: str = ROLE,
    now: float = 0.5,
    id: str = "lease-1",
) -> Credential:
    """A credential with 59.5 s to live, ended at 2027-01-15T08:01:00Z."""
    given = {"username": "v_app_1", "password": "pw"} if data is None else data
    snapshot = Snapshot(
        role=name,
        lease=lease(given, ttl=60.0, now=0.0, id=id),
        generation=17,
        request_id="one",
        until=57.0,
        expires_wall=1_800_000_060.9,
        verified=True,
    )
    return Credential(snapshot, of or role(), now)


async def inline(work: Callable[[], T]) -> T:
    """In place of a thread, which a moved clock would not wait for."""
    return work()


class Scarce:
    """The same, and no thread to be had while they are `gone`."""

    def __init__(self) -> None:
        self.gone = False

    async def __call__(self, work: Callable[[], T]) -> T:
        if self.gone:
            raise OSError(errno.EAGAIN, "no thread to be had")
        return await inline(work)


class House:
    """Files with everything around them faked: publish, move time, look at the disk."""

    def __init__(
        self,
        directory: Path,
        clock: FakeClock,
        templates: Sequence[model.Template],
        *,
        roles: Mapping[str, model.Role] | None = None,
        config: model.TemplateConfig | None = None,
        run_blocking: RunBlocking = inline,
    ) -> None:
        self.directory = directory
        self.clock = clock
        self.roles = roles or {ROLE: role(), OTHER: role()}
        self.cache = LeaseCache(self.roles)
        self.blocking = 0
        self._run_blocking = run_blocking
        self._leases: dict[str, Lease] = {}
        self._task: asyncio.Task[None] | None = None
        self.files = Files(
            templates, config or model.TemplateConfig(), self.roles, self.cache, clock, run_blocking=self._counted
        )

    async def _counted(self, work: Callable[[], T]) -> T:
        self.blocking += 1
        return await self._run_blocking(work)

    async def __aenter__(self) -> "House":
        await self.files.prepare()
        self._task = asyncio.get_running_loop().create_task(self.files.run())
        await settle()
        self.blocking = 0
        return self

    async def __aexit__(self, *args: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Cancel the run."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def put(self, name: str = ROLE, *, password: str = "pw", ttl: float = 60.0, margin: float = 3.0) -> None:
        """A new credential for `name`; nobody has run yet."""
        now = self.clock.now()
        data = {"username": "v_app_1", "password": password}
        self._leases[name] = new = lease(data, ttl=ttl, now=now)
        until = new.expires_at - margin
        self.cache.publish(name, new, until=until, verified=True, now=now, wall=self.clock.wall())

    async def publish(self, name: str = ROLE, *, password: str = "pw", ttl: float = 60.0, margin: float = 3.0) -> None:
        """A new credential for `name`, and whatever follows from it."""
        self.put(name, password=password, ttl=ttl, margin=margin)
        await settle()

    async def renew(self, name: str = ROLE, *, ttl: float = 60.0, margin: float = 3.0) -> None:
        """The credential of `name` lives `ttl` from now on."""
        now = self.clock.now()
        grant = Grant(id="lease-1", data={}, ttl=ttl, renewable=True)
        self._leases[name] = new = self._leases[name].renewed(grant, granted_at=now, answered_at=now, jitter=0.0)
        self.cache.renewed(name, new, until=new.expires_at - margin, now=now, wall=self.clock.wall())
        await settle()

    async def withdraw(self, name: str = ROLE) -> None:
        """The credential of `name` was revoked."""
        self.cache.withdraw(name)
        await settle()

    def path(self, name: str = "creds") -> Path:
        """A file's place."""
        return self.directory / name

    def text(self, name: str = "creds") -> str | None:
        """What a file holds, None if there is none."""
        return self.path(name).read_text() if self.path(name).exists() else None


def template(directory: Path, name: str = "creds", **fields: object) -> model.Template:
    """A template on disk, with its password as its contents unless told otherwise."""
    what: dict[str, object] = {"destination": str(directory / name), "roles": (ROLE,), "allow_disk": True}
    if not {"source", "contents", "format"} & set(fields):
        what["contents"] = f"{{{{ secret('{ROLE}').data.password }}}}"
    return model.Template(**{**what, **fields})  # type: ignore[arg-type]


GET = f"secret('{ROLE}')"
ROLES = {ROLE: role(), OTHER: role()}


def jinja(contents: str | None, **fields: object) -> model.Template:
    """A Jinja template of one role; `$db` stands for its secret."""
    what: dict[str, object] = {"destination": "/x", "roles": (ROLE,), **fields}
    return model.Template(contents=contents and contents.replace("$db", GET), **what)  # type: ignore[arg-type]


def render(contents: str, *, password: str = "geheim", max_size: int = 1 << 20) -> Rendering:
    """A Jinja template, rendered."""
    run = compiled(jinja(contents), ROLES, model.TemplateConfig(max_size=max_size))
    return run({ROLE: credential({"username": "u", "password": password})})
