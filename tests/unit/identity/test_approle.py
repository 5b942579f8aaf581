"""Role ids and secret ids: plain, wrapped, and removed."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from agent.errors import NoIdentity, Unavailable
from agent.identity.proof import Identity
from agent.leases.lease import Secret
from agent.log import Event
from tests.fakes import FakeClock
from tests.unit.identity.builders import identity, revealed

MADE_AT = "auth/approle/role/app/secret-id"


class Unwrapper:
    """Opens each wrapping token once, as a server does, or fails as told."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.opened: set[str] = set()
        self.wrapped: Mapping[str, Secret] | None = None
        self.failure: Exception | None = None

    async def __call__(self, token: Secret, made_at: str) -> Mapping[str, Secret]:
        """What is in it."""
        self.asked.append((token.reveal(), made_at))
        if self.failure is not None:
            raise self.failure
        if token.reveal() in self.opened:
            raise NoIdentity("the wrapping token has been opened before")
        self.opened.add(token.reveal())
        return self.wrapped or {"secret_id": Secret(f"in {token.reveal()}"), "secret_id_accessor": Secret("x")}


@pytest.fixture
def unwrap() -> Unwrapper:
    return Unwrapper()


def _approle(directory: Path, clock: FakeClock, unwrap: Unwrapper, **config: Any) -> Identity:
    (directory / "role-id").write_text("role-1\n")
    paths = {"role_id_file_path": str(directory / "role-id"), "secret_id_file_path": str(directory / "secret-id")}
    return identity("approle", clock, unwrap=unwrap, **{**paths, **config})


async def _secret_id(subject: Identity) -> str:
    return str(revealed((await subject.prove()).body)["secret_id"])


async def test_role_id_and_secret_id_come_from_their_files_at_every_login(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    """Row R002-011."""
    (tmp_path / "secret-id").write_text("secret-1\n")
    subject = _approle(tmp_path, clock, unwrap)

    first = await subject.prove()
    (tmp_path / "secret-id").write_text("secret-2\n")
    second = await subject.prove()

    assert first.path == "auth/approle/login"
    assert revealed(first.body) == {"role_id": "role-1", "secret_id": "secret-1"}
    assert revealed(second.body) == {"role_id": "role-1", "secret_id": "secret-2"}
    assert "secret-1" not in repr(first)
    assert unwrap.asked == []


async def test_a_role_bound_by_address_needs_no_secret_id(tmp_path: Path, clock: FakeClock, unwrap: Unwrapper) -> None:
    proof = await _approle(tmp_path, clock, unwrap, secret_id_file_path=None).prove()

    assert revealed(proof.body) == {"role_id": "role-1"}


async def test_a_missing_secret_id_is_named(tmp_path: Path, clock: FakeClock, unwrap: Unwrapper) -> None:
    with pytest.raises(NoIdentity, match=rf"the secret id {tmp_path}/secret-id is not there"):
        await _approle(tmp_path, clock, unwrap).prove()


async def test_a_wrapped_secret_id_is_opened_once_and_used_for_every_later_login(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("wrapping-1")
    subject = _approle(tmp_path, clock, unwrap, secret_id_response_wrapping_path=MADE_AT)

    found = [await _secret_id(subject) for _ in range(3)]

    assert found == ["in wrapping-1"] * 3
    assert unwrap.asked == [("wrapping-1", MADE_AT)]


async def test_another_wrapping_token_in_the_file_is_opened_too(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("wrapping-1")
    subject = _approle(tmp_path, clock, unwrap, secret_id_response_wrapping_path=MADE_AT)
    await subject.prove()

    (tmp_path / "secret-id").write_text("wrapping-2")

    assert await _secret_id(subject) == "in wrapping-2"
    assert [token for token, _ in unwrap.asked] == ["wrapping-1", "wrapping-2"]


async def test_a_wrapping_token_that_was_opened_elsewhere_is_sent_once_and_never_again(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    """Row D-31: whoever opened it before may be a thief, and a second call would say nothing new."""
    (tmp_path / "secret-id").write_text("wrapping-1")
    unwrap.opened.add("wrapping-1")
    subject = _approle(tmp_path, clock, unwrap, secret_id_response_wrapping_path=MADE_AT)

    for _ in range(5):
        with pytest.raises(NoIdentity, match=rf"{tmp_path}/secret-id: the wrapping token has been opened before"):
            await subject.prove()

    assert len(unwrap.asked) == 1

    (tmp_path / "secret-id").write_text("wrapping-2")
    assert await _secret_id(subject) == "in wrapping-2"


async def test_a_server_that_does_not_answer_is_asked_again(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("wrapping-1")
    subject = _approle(tmp_path, clock, unwrap, secret_id_response_wrapping_path=MADE_AT)
    unwrap.failure = Unavailable("no answer")
    with pytest.raises(Unavailable):
        await subject.prove()

    unwrap.failure = None

    assert await _secret_id(subject) == "in wrapping-1"


@pytest.mark.parametrize("wrapped", [{"data": Secret("x")}, {"secret_id": Secret("")}])
async def test_a_wrapping_token_of_something_else_is_opened_once_and_named(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper, wrapped: Mapping[str, Secret]
) -> None:
    (tmp_path / "secret-id").write_text("wrapping-1")
    unwrap.wrapped = wrapped
    subject = _approle(tmp_path, clock, unwrap, secret_id_response_wrapping_path=MADE_AT)

    for _ in range(2):
        with pytest.raises(NoIdentity, match="wraps no secret id"):
            await subject.prove()

    assert len(unwrap.asked) == 1


@pytest.mark.parametrize("wrapping_path", [None, MADE_AT])
async def test_the_file_is_removed_after_a_login_and_what_was_in_it_serves_later_ones(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper, wrapping_path: str | None
) -> None:
    (tmp_path / "secret-id").write_text("secret-1")
    subject = _approle(
        tmp_path,
        clock,
        unwrap,
        remove_secret_id_file_after_reading=True,
        secret_id_response_wrapping_path=wrapping_path,
    )

    first = await _secret_id(subject)
    still_there = (tmp_path / "secret-id").exists()
    await subject.accepted()

    assert still_there  # a login that fails may need it again
    assert not (tmp_path / "secret-id").exists()
    assert (tmp_path / "role-id").exists()
    assert await _secret_id(subject) == first


async def test_a_new_file_after_the_removal_is_used_and_removed_too(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("secret-1")
    subject = _approle(tmp_path, clock, unwrap, remove_secret_id_file_after_reading=True)
    await subject.prove()
    await subject.accepted()

    (tmp_path / "secret-id").write_text("secret-2")

    assert await _secret_id(subject) == "secret-2"
    await subject.accepted()
    assert not (tmp_path / "secret-id").exists()


async def test_a_file_that_was_delivered_after_the_proof_is_not_removed(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("secret-1")
    subject = _approle(tmp_path, clock, unwrap, remove_secret_id_file_after_reading=True)
    await subject.prove()

    (tmp_path / "secret-id").write_text("secret-2")
    await subject.accepted()

    assert (tmp_path / "secret-id").read_text() == "secret-2"


async def test_without_being_told_to_the_file_is_not_removed_and_its_absence_is_an_error(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "secret-id").write_text("secret-1")
    subject = _approle(tmp_path, clock, unwrap)
    await subject.prove()
    await subject.accepted()
    assert (tmp_path / "secret-id").exists()

    (tmp_path / "secret-id").unlink()

    with pytest.raises(NoIdentity, match="is not there"):
        await subject.prove()


async def test_a_link_is_removed_with_the_file_beside_it(tmp_path: Path, clock: FakeClock, unwrap: Unwrapper) -> None:
    (tmp_path / "delivered").write_text("secret-1")
    (tmp_path / "secret-id").symlink_to("delivered")
    subject = _approle(tmp_path, clock, unwrap, remove_secret_id_file_after_reading=True)

    await subject.prove()
    await subject.accepted()

    assert sorted(os.listdir(tmp_path)) == ["role-id"]


async def test_a_link_to_elsewhere_stays_and_so_does_what_it_links_to_with_one_warning(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "secret").write_text("secret-1")
    (tmp_path / "secret-id").symlink_to("volume/secret")
    subject = _approle(tmp_path, clock, unwrap, remove_secret_id_file_after_reading=True)

    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            await subject.prove()
            await subject.accepted()

    said = [line["warning"] for line in lines if "link" in str(line.get("warning"))]
    assert said == ["the secret id is a link to another directory, so it is not removed; give the file itself"]
    assert (tmp_path / "secret-id").read_text() == "secret-1"


async def test_a_file_that_cannot_be_removed_is_warned_of_and_used(
    tmp_path: Path, clock: FakeClock, unwrap: Unwrapper
) -> None:
    """The kernel's own files are removed by nobody, not even by root."""
    path = "/proc/sys/kernel/ostype"
    subject = _approle(tmp_path, clock, unwrap, secret_id_file_path=path, remove_secret_id_file_after_reading=True)

    with structlog.testing.capture_logs() as lines:
        for _ in range(2):
            assert await _secret_id(subject) == "Linux"
            await subject.accepted()

    said = [line for line in lines if "cannot be removed" in str(line.get("warning"))]
    assert [(line["event"], line["path"]) for line in said] == [(Event.IDENTITY, path)]
