"""Tells systemd how the agent is (sd_notify(3)): started, alive, stopping, and a line for people.

Where no service manager listens, nothing is said. A message is one datagram that never blocks; what must arrive, READY
and STOPPING, is said again until the socket has taken it.
"""

import contextlib
import os
import socket
from collections.abc import Callable, MutableMapping

from agent.clock import Clock

_INTERVAL = 5.0


class Notifier:
    """One service manager's ear.

    Args:
        address: a socket's path, or "@NAME" for an abstract one; "" for nobody.
        watchdog: seconds within which the manager wants a sign of life; 0.0 for none.
    """

    def __init__(self, address: str = "", *, watchdog: float = 0.0) -> None:
        self._address = f"\0{address[1:]}" if address[:1] == "@" else address
        self._watchdog = watchdog
        self._due: list[str] = []
        self._status = ""

    def __repr__(self) -> str:
        return f"Notifier({self._address!r}, watchdog={self._watchdog:g})"

    @property
    def interval(self) -> float:
        """Seconds between two signs of life: three fit into what the manager allows."""
        return min(_INTERVAL, self._watchdog / 3) if self._watchdog > 0 else _INTERVAL

    def ready(self) -> None:
        """The agent has started."""
        self._say_for_sure("READY=1")

    def stopping(self) -> None:
        """The agent is ending; no sign of life follows."""
        self._due.clear()
        self._say_for_sure("STOPPING=1\nSTATUS=stopping")

    def beat(self, *, live: bool, status: str) -> None:
        """A sign of life, if there is life, and the line for people where it has changed."""
        for message in tuple(self._due):
            if self._say(message):
                self._due.remove(message)
        if live and self._watchdog > 0:
            self._say("WATCHDOG=1")
        if status != self._status and self._say(f"STATUS={' '.join(status.split())}"):
            self._status = status

    async def keep_beating(self, clock: Clock, *, live: Callable[[], bool], status: Callable[[], str]) -> None:
        """Beat for ever; return at once where nobody listens."""
        while self._address:
            self.beat(live=live(), status=status())
            await clock.sleep(self.interval)

    def _say_for_sure(self, message: str) -> None:
        if not self._say(message):
            self._due.append(message)

    def _say(self, message: str) -> bool:
        """Whether it was taken; True where there is nobody to tell."""
        if not self._address:
            return True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            sock.sendto(message.encode(), self._address)
            return True
        return False


def from_environment(environ: MutableMapping[str, str]) -> Notifier:
    """The manager that `environ` names; its variables are taken out, since they are for no child of ours."""
    address = environ.pop("NOTIFY_SOCKET", "")
    microseconds = environ.pop("WATCHDOG_USEC", "")
    pid = environ.pop("WATCHDOG_PID", "")
    ours = microseconds.isascii() and microseconds.isdigit() and pid in ("", str(os.getpid()))
    if address[:1] not in ("/", "@") or len(address) < 2:
        return Notifier()
    return Notifier(address, watchdog=int(microseconds) / 1e6 if ours else 0.0)
