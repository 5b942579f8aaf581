"""Whatever may stand where a token should be: named, with its remedy, and never followed by a hang."""

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from agent.errors import NoIdentity
from agent.identity.files import LARGEST_TOKEN
from agent.log import Event
from tests.fakes import FakeClock
from tests.unit.identity.builders import Projected, identity, jwt, revealed


def _nothing(path: Path) -> None:
    pass


def _directory(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _dangling(path: Path) -> None:
    path.symlink_to("gone")


def _circle(path: Path) -> None:
    path.symlink_to(path)


def _below_a_file(path: Path) -> None:
    path.parent.rmdir()
    path.parent.write_text("")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_nothing, "is not there"),
        (_directory, "is a directory, not a file"),
        (_pipe, "is a pipe, not a file"),
        (_device, "is a device or socket, not a file"),
        (_dangling, "is not there"),
        (_circle, "cannot be read (Too many levels of symbolic links)"),
        (_below_a_file, "cannot be read (Not a directory)"),
        (lambda path: path.write_text(" \n"), "is empty"),
        (lambda path: path.write_text("a" * (LARGEST_TOKEN + 1)), "is larger than 64 KiB"),
        (lambda path: path.write_text("two words"), "holds blanks, control characters or other than ASCII within"),
        (lambda path: path.write_bytes(b"to\x00ken"), "holds blanks, control characters or other than ASCII within"),
        (lambda path: path.write_bytes(b"to\r\nX-A: b"), "holds blanks, control characters or other than ASCII within"),
        (lambda path: path.write_bytes(b"\xff\xfe"), "holds blanks, control characters or other than ASCII within"),
    ],
)
async def test_what_is_no_token_is_named_with_its_file_and_the_remedy(
    tmp_path: Path, clock: FakeClock, make: Any, reason: str
) -> None:
    path = tmp_path / "volume" / "token"
    path.parent.mkdir()
    make(path)

    with pytest.raises(NoIdentity) as caught:
        await identity("token_file", clock, token_file_path=str(path)).prove()

    remedy = "whoever makes tokens must write one there; or set token_file_path"
    assert str(caught.value) == f"the token {path} {reason}; {remedy}"


async def test_a_file_whose_reading_fails_is_named(clock: FakeClock) -> None:
    """There is nothing at a process's address 0, so that even root gets an error, and not before it reads."""
    with pytest.raises(NoIdentity, match=r"the token /proc/self/mem cannot be read \(Input/output error\)"):
        await identity("token_file", clock, token_file_path="/proc/self/mem").prove()


async def test_a_token_of_the_largest_size_is_taken_and_blanks_around_it_are_not(
    tmp_path: Path, clock: FakeClock
) -> None:
    token = "t" * (LARGEST_TOKEN - 3)
    (tmp_path / "token").write_text(f" {token}\r\n")

    proof = await identity("token_file", clock, token_file_path=str(tmp_path / "token")).prove()

    assert proof.token is not None
    assert proof.token.reveal() == token


async def test_every_proof_reads_the_file_again_through_the_links_of_a_kubelet(
    tmp_path: Path, clock: FakeClock
) -> None:
    """Row D-09: projected tokens rotate."""
    volume = Projected(tmp_path / "volume", jwt(sub="first"))
    subject = identity("kubernetes", clock, token_path=volume.token, role="app")

    before = await subject.prove()
    volume.rotate(jwt(sub="second"))
    after = await subject.prove()

    assert revealed(before.body)["jwt"] == jwt(sub="first")
    assert revealed(after.body)["jwt"] == jwt(sub="second")


async def test_of_a_file_that_others_can_read_one_warning_is_given(tmp_path: Path, clock: FakeClock) -> None:
    """Kubelets write projected tokens so where there is no fsGroup: no reason to refuse."""
    (tmp_path / "token").write_text("hunter2-token")
    (tmp_path / "token").chmod(0o644)
    subject = identity("token_file", clock, token_file_path=str(tmp_path / "token"))

    with structlog.testing.capture_logs() as lines:
        await subject.prove()
        await subject.prove()

    (line,) = _warnings(lines)
    assert (line["path"], line["mode"]) == (str(tmp_path / "token"), "0644")
    assert "hunter2" not in str(line)


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
async def test_of_a_file_that_others_cannot_read_nothing_is_said(tmp_path: Path, clock: FakeClock, mode: int) -> None:
    (tmp_path / "token").write_text("token")
    (tmp_path / "token").chmod(mode)

    with structlog.testing.capture_logs() as lines:
        await identity("token_file", clock, token_file_path=str(tmp_path / "token")).prove()

    assert _warnings(lines) == []


def _warnings(lines: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in lines if line["event"] == Event.IDENTITY]
