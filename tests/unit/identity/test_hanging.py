"""A file system that does not answer: no proof hangs, and no threads pile up."""

import asyncio
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.errors import NoIdentity
from tests.fakes import FakeClock
from tests.unit.identity.builders import identity, within_patience


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """While it is not set, nobody can open a file; hung mounts of a network cannot be made without root."""
    opened, gate = os.open, threading.Event()
    gate.set()

    def hanging(path: str, flags: int) -> int:
        gate.wait(30)
        return opened(path, flags)

    monkeypatch.setattr("agent.regular.os.open", hanging)
    yield gate
    gate.set()


async def test_a_mount_that_hangs_fails_the_proof_after_five_seconds_and_its_end_mends_it(
    tmp_path: Path, clock: FakeClock, gate: threading.Event
) -> None:
    (tmp_path / "token").write_text("token")
    subject = identity("token_file", clock, token_file_path=str(tmp_path / "token"))
    gate.clear()

    proving = asyncio.ensure_future(subject.prove())
    await clock.advance(4.9)
    assert not proving.done()
    await clock.advance(0.2)
    with pytest.raises(NoIdentity, match="the file system does not answer"):
        await proving

    gate.set()
    assert (await subject.prove()).token is not None


async def test_no_more_than_four_threads_wait_for_a_mount_that_hangs(
    tmp_path: Path, clock: FakeClock, gate: threading.Event
) -> None:
    (tmp_path / "token").write_text("token")
    subject = identity("token_file", clock, token_file_path=str(tmp_path / "token"))
    before = threading.active_count()
    gate.clear()

    for _ in range(20):
        proving = asyncio.ensure_future(subject.prove())
        await clock.advance(5.1)
        with pytest.raises(NoIdentity, match="the file system does not answer"):
            await proving

    assert threading.active_count() - before <= 4
    gate.set()
    assert await within_patience(lambda: threading.active_count() <= before)
    assert (await subject.prove()).token is not None
