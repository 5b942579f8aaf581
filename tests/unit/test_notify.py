"""What a service manager hears: sd_notify(3)."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.notify import Notifier, from_environment
from tests.fakes import FakeClock, settle


class Ear:
    """The manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.bind(f"\0{address[1:]}" if address[0] == "@" else address)

    def heard(self) -> list[str]:
        """Every message since the last look."""
        messages = []
        with contextlib.suppress(BlockingIOError):
            while True:
                messages.append(self.sock.recv(4096).decode())
        return messages


@pytest.fixture(params=["path", "abstract"])
def ear(request: pytest.FixtureRequest) -> Iterator[Ear]:
    with tempfile.TemporaryDirectory(prefix="lh-") as directory:
        name = f"@leasehold-test-{os.urandom(6).hex()}"
        one = Ear(f"{directory}/notify" if request.param == "path" else name)
        yield one
        one.sock.close()


def test_started_and_stopping_are_told(ear: Ear) -> None:
    notifier = Notifier(ear.address)

    notifier.ready()
    notifier.stopping()

    assert ear.heard() == ["READY=1", "STOPPING=1\nSTATUS=stopping"]


def test_a_sign_of_life_needs_life_and_somebody_who_wants_it(ear: Ear) -> None:
    watched, unwatched = Notifier(ear.address, watchdog=30.0), Notifier(ear.address)

    watched.beat(live=True, status="1 of 1 roles served")
    watched.beat(live=False, status="1 of 1 roles served")
    unwatched.beat(live=True, status="")

    assert ear.heard() == ["WATCHDOG=1", "STATUS=1 of 1 roles served"]


def test_a_status_is_one_line_and_told_when_it_changes(ear: Ear) -> None:
    notifier = Notifier(ear.address)

    for status in ("a", "a", "b\nREADY=1"):
        notifier.beat(live=True, status=status)

    assert ear.heard() == ["STATUS=a", "STATUS=b READY=1"]


@pytest.mark.parametrize(("watchdog", "interval"), [(0.0, 5.0), (60.0, 5.0), (3.0, 1.0)])
def test_three_signs_of_life_fit_into_what_the_manager_allows(watchdog: float, interval: float) -> None:
    assert Notifier("/x", watchdog=watchdog).interval == interval


async def test_signs_of_life_follow_the_clock(ear: Ear, clock: FakeClock) -> None:
    live = True
    notifier = Notifier(ear.address, watchdog=9.0)
    beating = asyncio.ensure_future(notifier.keep_beating(clock, live=lambda: live, status=lambda: ""))

    await clock.advance(6.0)
    assert ear.heard() == ["WATCHDOG=1"] * 3
    live = False
    await clock.advance(60.0)
    assert ear.heard() == []

    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)


async def test_where_nobody_listens_nothing_runs(clock: FakeClock) -> None:
    beating = asyncio.ensure_future(Notifier().keep_beating(clock, live=lambda: True, status=lambda: ""))
    await settle()

    assert beating.done()


def test_that_it_has_started_is_said_again_until_it_arrives(tmp_path: Path) -> None:
    """Lost, it would have systemd kill a sound agent at the end of its start's time."""
    with tempfile.TemporaryDirectory(prefix="lh-") as directory:
        address = f"{directory}/notify"
        notifier = Notifier(address)
        notifier.ready()  # nobody is there yet
        ear = Ear(address)
        notifier.beat(live=True, status="")
        notifier.beat(live=True, status="")

        assert ear.heard() == ["READY=1"]
        ear.sock.close()


def test_a_full_socket_holds_nothing_up_and_a_stop_takes_back_a_start_that_was_not_heard(ear: Ear) -> None:
    notifier = Notifier(ear.address, watchdog=1.0)
    for _ in range(2000):
        notifier.beat(live=True, status="")
    notifier.ready()
    ear.heard()
    notifier.stopping()
    notifier.beat(live=False, status="")

    assert ear.heard() == ["STOPPING=1\nSTATUS=stopping"]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "Notifier('', watchdog=0)"),
        ({"NOTIFY_SOCKET": "/run/n"}, "Notifier('/run/n', watchdog=0)"),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "1500000"}, "Notifier('/run/n', watchdog=1.5)"),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "9", "WATCHDOG_PID": "1"}, "Notifier('/n', watchdog=0)"),
        ({"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "often"}, "Notifier('/n', watchdog=0)"),
        ({"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "9"}, "Notifier('', watchdog=0)"),
        ({"NOTIFY_SOCKET": "@"}, "Notifier('', watchdog=0)"),
    ],
)
def test_the_environment_names_the_manager_and_no_child_inherits_it(environ: dict[str, str], expected: str) -> None:
    left = {**environ, "PATH": "/bin"}

    assert repr(from_environment(left)) == expected
    assert left == {"PATH": "/bin"}


def test_the_watchdog_of_this_very_process_is_heeded() -> None:
    environ = {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}

    assert from_environment(environ).interval == pytest.approx(2 / 3)
