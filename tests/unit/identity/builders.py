"""Files as kubelets and people leave them, tokens, and the arguments of an identity."""

import asyncio
import base64
import contextlib
import json
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from agent.config.upstreams import Method, MethodConfig, MethodType, Vault
from agent.identity import build
from agent.identity.proof import Identity, Unwrap
from agent.leases.lease import Secret
from tests.fakes import FakeClock

WALL = 1_800_000_000.0
"""Unix time by the clock that stands still."""

PATIENCE = 15.0
"""Seconds of real time for what threads and the kernel do by themselves; a busy machine takes its time."""


def jwt(**claims: Any) -> str:
    """A JWT with these claims, signed by nobody."""
    parts = ({"alg": "RS256"}, claims)
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, "c2lnbmF0dXJl"])


async def never_unwrap(token: Secret, made_at: str) -> Mapping[str, Secret]:
    """An unwrapper for those who have nothing to unwrap."""
    raise AssertionError("nothing here is wrapped")


def identity(
    kind: MethodType,
    clock: FakeClock,
    *,
    mount_path: str | None = None,
    namespace: str | None = None,
    server: Vault | None = None,
    unwrap: Unwrap = never_unwrap,
    **config: Any,
) -> Identity:
    """The identity of a method with this configuration."""
    method = Method(type=kind, mount_path=mount_path, namespace=namespace, config=MethodConfig(**config))
    return build(method, server=server or Vault(address="https://vault:8200"), clock=clock, unwrap=unwrap)


def revealed(body: Mapping[str, Any]) -> dict[str, Any]:
    """A login's body as it goes out."""
    return {name: value.reveal() if isinstance(value, Secret) else value for name, value in body.items()}


class Projected:
    """A volume as the kubelet keeps it: `token -> ..data/token`, `..data -> ..N`, swapped by renaming a link."""

    def __init__(self, directory: Path, token: str) -> None:
        self.directory = directory
        self._round = 0
        directory.mkdir(exist_ok=True)
        self.rotate(token)
        (directory / "token").symlink_to("..data/token")

    @property
    def token(self) -> str:
        """The path to configure."""
        return str(self.directory / "token")

    def rotate(self, token: str) -> None:
        """Another token, in one step; the old one is removed after it."""
        old = (self.directory / "..data").resolve()
        self._round += 1
        place = self.directory / f"..2026_{self._round}"
        place.mkdir()
        (place / "token").write_text(token)
        (place / "token").chmod(0o640)
        (self.directory / "..data_tmp").symlink_to(place.name)
        os.rename(self.directory / "..data_tmp", self.directory / "..data")
        if self._round > 1:
            (old / "token").unlink()
            old.rmdir()


async def within_patience(holds: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Whether it comes to hold in real time, the clock standing still."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            while not holds():  # noqa: ASYNC110 - what threads and the kernel do sets no event
                await asyncio.sleep(0.01)
    return holds()


@contextlib.asynccontextmanager
async def watching(changed: Awaitable[None]) -> AsyncIterator[asyncio.Task[None]]:
    """A task that waits for a change, ended with the block."""
    task = asyncio.ensure_future(_waited(changed))
    try:
        yield task
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _waited(changed: Awaitable[None]) -> None:
    await changed


async def noticed(task: asyncio.Task[None], clock: FakeClock, *, within: float, step: float = 0.25) -> bool:
    """Whether the task ends within so many seconds by the clock, which moves slowly enough for threads to keep up."""
    for _ in range(round(within / step)):
        if task.done():
            break
        await clock.advance(step)
        await asyncio.sleep(0.02)
    return task.done()


def listening() -> bool:
    """Whether a thread of a watch goes on."""
    return any(thread.name == "identity watch" for thread in threading.enumerate())
