"""`leasehold dev --dir`: a directory that will not do is refused before a server is started for it."""

from pathlib import Path

import pytest

from tests.acceptance.harness import Program


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("file", 3, "is no directory"),
        ("file/below", 3, "Not a directory"),
        ("l" * 100, 2, "too long for a socket; 100 bytes with leasehold.sock at most"),
    ],
)
def test_a_directory_that_will_not_do_is_refused_in_one_line(
    place: Path, started: list[Program], name: str, code: int, words: str
) -> None:
    (place / "file").write_text("")

    dev = Program(["dev", "--json", "--dir", str(place / name)], place)
    started.append(dev)

    assert dev.wait() == code
    (line,) = dev.stderr.splitlines()
    assert line.startswith("leasehold: --dir ")
    assert words in line
    assert not (place / ("l" * 100)).exists()
