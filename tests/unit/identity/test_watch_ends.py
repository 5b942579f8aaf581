"""A watch and its thread come to an end with whoever waits, and hold nobody up."""

import asyncio
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.fakes import FakeClock, settle
from tests.unit.identity.builders import identity, listening, within_patience


async def test_a_wait_is_cancelled_at_once_and_its_thread_ends(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "token").write_text("first")
    subject = identity("token_file", clock, token_file_path=str(tmp_path / "token"))
    task = asyncio.ensure_future(subject.changed())
    assert await within_patience(listening)

    task.cancel()
    await settle()

    assert task.cancelled()
    assert await within_patience(lambda: not listening())


@pytest.mark.parametrize("ending", ["asyncio.run(main())", "asyncio.new_event_loop().run_until_complete(main())"])
def test_a_watch_does_not_keep_the_process_from_ending(tmp_path: Path, ending: str) -> None:
    """Whether it is cancelled, as `asyncio.run` does at its end, or simply left."""
    script = """
        import asyncio, sys, threading
        from agent.clock import SystemClock
        from agent.config.upstreams import Method, MethodConfig, Vault
        from agent.identity import build

        async def main():
            method = Method(type="token_file", config=MethodConfig(token_file_path=sys.argv[1]))
            subject = build(method, server=Vault(address="https://vault:8200"), clock=SystemClock(), unwrap=None)
            task = asyncio.create_task(subject.changed())
            while not any(thread.name == "identity watch" for thread in threading.enumerate()):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            print("watching", flush=True)

    """
    (tmp_path / "token").write_text("first")
    program = f"{textwrap.dedent(script)}\n{ending}"
    command = [sys.executable, "-c", program, str(tmp_path / "token")]

    done = subprocess.run(command, capture_output=True, text=True, timeout=50)

    assert (done.returncode, done.stdout) == (0, "watching\n")
    assert "Traceback" not in done.stderr
    assert "fatal" not in done.stderr.lower()
