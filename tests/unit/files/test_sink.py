"""The place of a file is judged at every write: what was fine at the start may have been swapped since."""

import os
from pathlib import Path

import pytest

from agent.errors import RenderError
from agent.files.sink import Place, Sink
from tests.unit.files.builders import template


def prepared(directory: Path) -> Sink:
    sink = Sink(Place.of_template(template(directory)))
    assert sink.prepare() == []
    assert sink.write(b"first")
    return sink


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def test_a_directory_that_was_opened_to_others_gets_no_secret_until_it_is_closed(directory: Path) -> None:
    sink = prepared(directory)
    directory.chmod(0o777)

    with pytest.raises(RenderError, match=r"can be written by others \(mode 0777\); chmod go-w"):
        sink.write(b"second")

    assert (directory / "creds").read_bytes() == b"first"
    directory.chmod(0o750)
    assert sink.write(b"second")


def test_a_directory_that_was_swapped_for_a_link_gets_no_secret(directory: Path, tmp_path: Path) -> None:
    """A link of ours would do only where nobody but root could have made it."""
    sink = prepared(directory)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.rename(tmp_path / "old")
    directory.symlink_to(elsewhere)
    if os.geteuid() == 0:
        os.lchown(directory, 12345, 12345)

    with pytest.raises(RenderError, match="symbolic link that others could change"):
        sink.write(b"second")

    assert list(elsewhere.iterdir()) == []


def test_a_directory_that_has_gone_is_made_again(directory: Path) -> None:
    sink = prepared(directory)
    (directory / "creds").unlink()
    directory.rmdir()

    assert sink.write(b"second")

    assert directory.stat().st_mode & 0o777 == 0o750
    assert (directory / "creds").read_bytes() == b"second"


def test_equal_bytes_are_no_reason_to_trust_the_place(directory: Path) -> None:
    sink = prepared(directory)
    directory.chmod(0o777)

    with pytest.raises(RenderError, match="can be written by others"):
        sink.write(b"first")
    directory.chmod(0o750)
    assert not sink.write(b"first")
