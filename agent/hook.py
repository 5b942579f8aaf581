"""Commands that a configuration asks to be run: argument lists, never a shell, a bare environment, a deadline."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

from agent import log
from agent.clock import Clock
from agent.errors import StartError
from agent.log import Event

_log = log.get(__name__)

HOOK_TIMEOUT = 30.0
"""Seconds after which a command is killed."""


async def run_hook(command: tuple[str, ...], role: str, error: str, clock: Clock) -> None:
    """Run an `on_failed` command: no shell, a bare environment, a deadline; its output goes nowhere."""
    environment: Mapping[str, str] = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LEASEHOLD_ROLE": role,
        "LEASEHOLD_ERROR": error,
    }
    try:
        await asyncio.to_thread(trusted, Path(command[0]))
        process = await asyncio.create_subprocess_exec(
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except (OSError, StartError) as problem:
        _log.warning(Event.HOOK_FAILED, role=role, error=str(problem))
        return
    try:
        async with clock.timeout(HOOK_TIMEOUT):
            code = await process.wait()
        if code:
            _log.warning(Event.HOOK_FAILED, role=role, error=f"exit code {code}")
    except TimeoutError:
        _log.warning(Event.HOOK_FAILED, role=role, error=f"killed after {HOOK_TIMEOUT:.0f} s")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def trusted(program: Path) -> None:
    """Refuse to run what another user could have put there.

    Raises:
        StartError: the program is not root's or ours, or others can write it.
    """
    if not program.is_absolute():
        raise StartError(f"{program}: give the program's absolute path")
    status = program.stat()
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise StartError(f"{program}: must belong to root or the agent and be writable by nobody else: chmod go-w")
