"""Changes of files: noticed however they come about, told once, and only if contents differ."""

import asyncio
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.identity.proof import Identity
from tests.fakes import FakeClock
from tests.unit.identity.builders import (
    Projected,
    identity,
    jwt,
    listening,
    noticed,
    watching,
    within_patience,
)

BY_INOTIFY = 8.0
"""Seconds by the clock that stay below the poll's ten, and leave a busy machine some in real time."""

A_WHILE = 120.0
"""Seconds by the clock for what a look finds out; nobody waits for their end."""


def _token_file(path: Path, clock: FakeClock) -> Identity:
    return identity("token_file", clock, token_file_path=str(path))


async def _watched(clock: FakeClock) -> None:
    """Let the watch begin, and take its first look, a second later."""
    names = [thread.name for thread in threading.enumerate()]
    assert await within_patience(lambda: "identity watch" in [thread.name for thread in threading.enumerate()]), names
    await asyncio.sleep(0.1)
    for _ in range(12):
        await clock.advance(0.1)
        await asyncio.sleep(0.01)


def _renamed(path: Path) -> None:
    (path.parent / "new").write_text("second")
    os.rename(path.parent / "new", path)


def _vanished(path: Path) -> None:
    path.unlink()


def _rewritten(path: Path) -> None:
    path.write_text("second")


def _linked(path: Path) -> None:
    (path.parent / "other").write_text("second")
    (path.parent / "link").symlink_to("other")
    os.rename(path.parent / "link", path)


@pytest.mark.parametrize("change", [_renamed, _rewritten, _vanished, _linked])
async def test_a_change_is_noticed_without_a_poll(
    tmp_path: Path, clock: FakeClock, change: Callable[[Path], None]
) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        assert not task.done()
        change(path)

        assert await noticed(task, clock, within=BY_INOTIFY, step=0.05)


async def test_a_file_that_appears_is_noticed(tmp_path: Path, clock: FakeClock) -> None:
    subject = _token_file(tmp_path / "token", clock)

    async with watching(subject.changed()) as task:
        await _watched(clock)
        (tmp_path / "token").write_text("first")

        assert await noticed(task, clock, within=BY_INOTIFY, step=0.05)


async def test_the_swap_of_a_kubelets_link_is_noticed_time_after_time(tmp_path: Path, clock: FakeClock) -> None:
    volume = Projected(tmp_path / "volume", jwt(n=0))
    subject = identity("kubernetes", clock, token_path=volume.token, role="app")
    await subject.prove()

    for n in (1, 2):
        async with watching(subject.changed()) as task:
            await _watched(clock)
            assert not task.done()
            volume.rotate(jwt(n=n))

            assert await noticed(task, clock, within=BY_INOTIFY, step=0.05)


async def test_a_rewrite_of_what_a_link_leads_to_is_noticed_in_its_directory(tmp_path: Path, clock: FakeClock) -> None:
    for name in ("store", "app"):
        (tmp_path / name).mkdir()
    (tmp_path / "store" / "token").write_text("first")
    (tmp_path / "app" / "token").symlink_to("../store/token")
    subject = _token_file(tmp_path / "app" / "token", clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        (tmp_path / "store" / "token").write_text("second")

        assert await noticed(task, clock, within=BY_INOTIFY, step=0.05)


async def test_another_directory_under_the_same_name_is_watched_in_its_place(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "volume" / "token"
    path.parent.mkdir()
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        os.rename(path.parent, tmp_path / "old")
        path.parent.mkdir()
        path.write_text("first")
        await asyncio.sleep(0.7)
        await _watched(clock)
        path.write_text("second")

        assert await noticed(task, clock, within=BY_INOTIFY - 2, step=0.05)


async def test_a_swap_through_a_directory_that_is_not_watched_is_found_by_looking(
    tmp_path: Path, clock: FakeClock
) -> None:
    """The link to the volume is swapped, two links away from the file that is configured."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    (tmp_path / "current").symlink_to("one")
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "token").symlink_to("../current/token")
    subject = _token_file(tmp_path / "app" / "token", clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        (tmp_path / "next").symlink_to("two")
        os.rename(tmp_path / "next", tmp_path / "current")

        assert await noticed(task, clock, within=A_WHILE)


async def test_a_directory_that_does_not_exist_yet_is_looked_for(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "later" / "volume" / "token"
    subject = _token_file(path, clock)

    async with watching(subject.changed()) as task:
        assert not await noticed(task, clock, within=2)
        path.parent.mkdir(parents=True)
        path.write_text("first")

        assert await noticed(task, clock, within=A_WHILE)


async def test_a_directory_that_was_removed_and_made_anew_is_watched_again(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "volume" / "token"
    path.parent.mkdir()
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        path.unlink()
        path.parent.rmdir()
        assert await noticed(task, clock, within=A_WHILE)

    async with watching(subject.changed()) as task:
        path.parent.mkdir()
        path.write_text("second")
        assert await noticed(task, clock, within=A_WHILE)


async def test_where_there_is_no_inotify_a_look_every_ten_seconds_takes_its_place(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "OS file watch limit reached")

    monkeypatch.setattr("watchfiles.watch", refused)
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        assert not await noticed(task, clock, within=3)
        path.write_text("second")
        assert not await noticed(task, clock, within=5)

        assert await noticed(task, clock, within=A_WHILE)


async def test_a_neighbours_file_the_same_contents_and_another_mode_wake_nobody(
    tmp_path: Path, clock: FakeClock
) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        (tmp_path / "neighbour").write_text("x")
        (tmp_path / "new").write_text("first")
        os.rename(tmp_path / "new", path)
        path.chmod(0o600)

        await asyncio.sleep(0.7)  # the kernel and the thread tell of it in real time; the clock stands still
        assert not await noticed(task, clock, within=12)


async def test_a_file_that_is_being_rewritten_is_told_of_once_it_is_whole(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        path.write_text("")
        await asyncio.sleep(0.7)
        path.write_text("first")

        assert not await noticed(task, clock, within=12)


async def test_what_a_proof_has_read_meanwhile_is_no_change(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        path.write_text("second")
        await asyncio.sleep(0.7)  # it is seen by now, and must stay so for a moment of the clock, which stands still
        await subject.prove()

        assert not await noticed(task, clock, within=12)


async def test_a_change_between_two_waits_is_told_by_the_second_and_told_once(tmp_path: Path, clock: FakeClock) -> None:
    path = tmp_path / "token"
    path.write_text("first")
    subject = _token_file(path, clock)
    await subject.prove()
    path.write_text("second")

    async with watching(subject.changed()) as task:
        assert await noticed(task, clock, within=BY_INOTIFY, step=0.05)

    async with watching(subject.changed()) as task:
        assert not await noticed(task, clock, within=12)


async def test_a_proof_that_failed_has_read_too(tmp_path: Path, clock: FakeClock) -> None:
    """Who waits for the remedy is not woken by the mistake that it knows."""
    path = tmp_path / "token"
    path.write_text("two words")
    subject = _token_file(path, clock)
    with pytest.raises(Exception, match="holds blanks"):
        await subject.prove()

    async with watching(subject.changed()) as task:
        assert not await noticed(task, clock, within=12)
        path.write_text("token")
        assert await noticed(task, clock, within=A_WHILE)


async def test_the_removal_of_a_used_secret_id_is_no_change(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "role-id").write_text("role")
    (tmp_path / "secret-id").write_text("secret-1")
    subject = identity(
        "approle",
        clock,
        role_id_file_path=str(tmp_path / "role-id"),
        secret_id_file_path=str(tmp_path / "secret-id"),
        remove_secret_id_file_after_reading=True,
    )
    await subject.prove()

    async with watching(subject.changed()) as task:
        await _watched(clock)
        await subject.accepted()
        assert not (tmp_path / "secret-id").exists()
        assert not await noticed(task, clock, within=12)

        (tmp_path / "secret-id").write_text("secret-2")
        assert await noticed(task, clock, within=A_WHILE)


async def test_an_identity_without_files_never_changes(clock: FakeClock) -> None:
    async with watching(identity("gcp", clock, role="app").changed()) as task:
        await clock.advance(100_000)

        assert not task.done()
        assert await within_patience(lambda: not listening())  # of earlier tests neither
