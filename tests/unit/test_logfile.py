import os
import stat
from pathlib import Path

import pytest

from agent.errors import StartError
from agent.logfile import LogFile

LINE = b"0123456789\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "audit.jsonl"


def opened(path: Path, *, max_size: int = 1000, keep: int = 2) -> LogFile:
    one = LogFile(path, max_size=max_size, keep=keep)
    one.open()
    return one


def names(path: Path) -> list[str]:
    return sorted(each.name for each in path.parent.iterdir())


def test_lines_are_appended_to_what_is_there_and_nobody_else_may_read_them(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"earlier\n")
    path.chmod(0o644)

    one = opened(path)
    assert one.append([LINE, LINE]) == 2
    one.close()

    assert path.read_bytes() == b"earlier\n" + LINE + LINE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_full_is_renamed_and_only_so_many_are_kept(path: Path) -> None:
    """R003-123."""
    one = opened(path, max_size=3 * len(LINE), keep=2)

    for n in range(10):
        assert one.append([b"%010d\n" % n]) == 1

    assert names(path) == ["audit.jsonl", "audit.jsonl.1", "audit.jsonl.2"]
    assert path.read_bytes() == b"0000000009\n"
    assert path.with_name("audit.jsonl.1").read_bytes().split() == [b"%010d" % n for n in (6, 7, 8)]
    assert path.with_name("audit.jsonl.2").read_bytes().split() == [b"%010d" % n for n in (3, 4, 5)]
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}
    one.close()


def test_of_many_lines_only_those_are_taken_that_fit(path: Path) -> None:
    one = opened(path, max_size=2 * len(LINE))

    assert [one.append([LINE] * 5) for _ in range(3)] == [2, 2, 2]
    one.close()

    assert max(each.stat().st_size for each in path.parent.iterdir()) == 2 * len(LINE)


def test_a_line_longer_than_a_file_gets_a_file_of_its_own(path: Path) -> None:
    one = opened(path, max_size=len(LINE))

    assert [one.append([LINE * 3]), one.append([LINE])] == [1, 1]
    one.close()

    assert path.read_bytes() == LINE
    assert path.with_name("audit.jsonl.1").read_bytes() == LINE * 3


@pytest.mark.parametrize("how", ["renamed", "removed"])
def test_a_file_that_is_taken_away_is_made_anew(path: Path, how: str) -> None:
    one = opened(path)
    one.append([b"before\n"])

    if how == "renamed":
        path.rename(path.with_name("elsewhere"))
    else:
        path.unlink()
    one.append([b"after\n"])
    one.close()

    assert path.read_bytes() == b"after\n"


def test_what_cannot_be_written_whole_is_taken_back(path: Path) -> None:
    """A full file system ends a write in the middle of a line."""
    import resource

    one = opened(path, max_size=1 << 20)
    one.append([LINE])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(LINE) + 4, hard))
    try:
        with pytest.raises(OSError, match="too large"):
            one.append([b"x" * 100 + b"\n"])
        left = path.read_bytes()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    one.append([b"later\n"])
    one.close()

    assert left == LINE
    assert path.read_bytes() == LINE + b"later\n"


def test_two_agents_do_not_share_a_file(path: Path) -> None:
    one = opened(path)

    with pytest.raises(StartError, match=r"audit\.jsonl is in use by another agent"):
        opened(path)

    one.close()
    opened(path).close()


@pytest.mark.parametrize("planted", ["symlink", "fifo", "directory", "second name"])
def test_something_else_in_its_place_is_refused(path: Path, planted: str) -> None:
    path.parent.mkdir()
    other = path.with_name("other")
    other.write_bytes(b"precious\n")
    match planted:
        case "symlink":
            path.symlink_to(other)
        case "fifo":
            os.mkfifo(path)
        case "directory":
            path.mkdir()
        case _:
            os.link(other, path)

    with pytest.raises(StartError, match=r"audit\.jsonl cannot be written \(.+\): mend it or choose another"):
        opened(path)

    assert other.read_bytes() == b"precious\n"


def test_a_directory_that_others_can_write_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)

    with pytest.raises(StartError, match="log"):
        opened(path)
