import fcntl
import os
from collections.abc import Iterator

import pytest

from agent.linepipe import LinePipe

LINE = "x" * 99 + "\n"


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    """A pipe for one page, to read from and to write to."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    yield reading, writing
    for end in (reading, writing):
        try:
            os.close(end)
        except OSError:
            continue


def test_a_line_is_there_as_soon_as_it_was_written(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])

    pipe.write("hello\n")

    assert os.read(ends[0], 100) == b"hello\n"


@pytest.mark.timeout(10)
def test_a_reader_who_is_late_gets_every_line_in_its_order_and_holds_nobody_up(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])

    for number in range(1000):
        pipe.write(f"{number:99}\n")

    received = b""
    while len(received) < 100_000:
        received += os.read(ends[0], 65536)
    assert [int(line) for line in received.splitlines()] == list(range(1000))
    assert pipe.take_lost() == 0


@pytest.mark.timeout(10)
def test_a_line_longer_than_the_pipe_arrives_whole(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])

    pipe.write("y" * 20_000 + "\n")
    pipe.write("z\n")

    received = b""
    while len(received) < 20_003:
        received += os.read(ends[0], 65536)
    assert received == b"y" * 20_000 + b"\nz\n"


@pytest.mark.timeout(20)
def test_what_a_stuck_reader_leaves_lying_is_bounded_counted_and_told_afterwards(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])

    for _ in range(10_200):
        pipe.write(LINE)

    assert pipe.take_lost() == 0  # whoever takes it now could tell it to nobody
    received = 0
    while received < 10_000 * 100:
        received += len(os.read(ends[0], 65536))
    os.read(ends[0], 65536)
    pipe.drain(5.0)
    assert 0 < pipe.take_lost() <= 200
    assert pipe.take_lost() == 0


def test_a_reader_who_has_gone_is_no_error(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])
    os.close(ends[0])

    pipe.write(LINE)
    pipe.write(LINE)

    assert pipe.take_lost() == 2


@pytest.mark.timeout(10)
def test_the_end_waits_for_a_stuck_reader_only_so_long(ends: tuple[int, int]) -> None:
    pipe = LinePipe(ends[1])
    for _ in range(100):
        pipe.write(LINE)

    pipe.drain(0.01)

    os.read(ends[0], 100_000)
