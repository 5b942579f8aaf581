import asyncio
import io
import json
import os
import sys
from pathlib import Path

import pytest

from agent import log
from agent.clock import SystemClock
from agent.errors import StartError
from agent.hook import run_hook, trusted
from tests.fakes import FakeClock


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    log.configure(level="info", json=True, stream=stream)
    return stream


def program(path: Path, text: str) -> str:
    path.write_text(f"#!{sys.executable}\n{text}")
    path.chmod(0o700)
    return str(path)


async def test_a_command_gets_the_role_and_a_bare_environment(tmp_path: Path, lines: io.StringIO) -> None:
    """R003-060."""
    out = tmp_path / "out"
    command = program(
        tmp_path / "hook", f"import os, json, sys; open({str(out)!r}, 'w').write(json.dumps(dict(os.environ)))"
    )

    await run_hook((command,), "database/creds/app", "down", SystemClock())

    seen = json.loads(out.read_text())
    assert seen["LEASEHOLD_ROLE"] == "database/creds/app"
    assert seen["LEASEHOLD_ERROR"] == "down"
    assert not set(seen) - {"LEASEHOLD_ROLE", "LEASEHOLD_ERROR", "PATH", "LC_CTYPE"}
    assert lines.getvalue() == ""


async def test_a_failing_command_is_said(tmp_path: Path, lines: io.StringIO) -> None:
    await run_hook((program(tmp_path / "hook", "raise SystemExit(3)"),), "r", "e", SystemClock())

    assert "exit code 3" in lines.getvalue()


async def test_a_hanging_command_is_killed(tmp_path: Path, lines: io.StringIO) -> None:
    clock = FakeClock()
    command = program(tmp_path / "hook", "import time; time.sleep(1000)")

    task = asyncio.create_task(run_hook((command,), "r", "e", clock))
    while not task.done():
        await asyncio.sleep(0)
        await clock.advance(1)

    assert "killed after 30 s" in lines.getvalue()


async def test_a_missing_command_is_said(tmp_path: Path, lines: io.StringIO) -> None:
    await run_hook((str(tmp_path / "none"),), "r", "e", SystemClock())

    assert "hook-failed" in lines.getvalue()


def test_a_program_that_others_can_write_is_not_run(tmp_path: Path) -> None:
    command = Path(program(tmp_path / "hook", ""))
    trusted(command)
    command.chmod(0o722)

    with pytest.raises(StartError, match="writable by nobody else"):
        trusted(command)
    with pytest.raises(StartError, match="absolute"):
        trusted(Path("hook"))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_program_of_another_user_is_not_run(tmp_path: Path) -> None:
    command = Path(program(tmp_path / "hook", ""))
    os.chown(command, 12345, -1)

    with pytest.raises(StartError):
        trusted(command)
