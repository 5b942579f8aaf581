"""What apps do all the time, before, during and after a kill: parse the file and log in, read the socket."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.harness import Client, Credential, credential, from_file, log_in
from tests.acceptance.scenes import ROLE

EVERY = 0.04
_FULL = "too many"
_REFUSED = ("password authentication failed", "does not exist", "not permitted to log in", "permission denied")


class FileReader:
    """An app that knows the file only: there is none, or what it says logs in.

    Attributes:
        times: logins that succeeded.
        broken: what must never happen and did, "" so far.
        server_falls: the server itself may be away for a while; then only a refusal counts.
    """

    def __init__(self, path: Path, place: Mapping[str, Any], *, server_falls: bool = False) -> None:
        self.times = 0
        self.broken = ""
        self.server_falls = server_falls
        self._path = path
        self._place = place

    def run(self, done: threading.Event) -> None:
        """Until `done`, or until it is broken."""
        while not done.wait(EVERY) and not self.broken:
            self.broken = self._look()

    def _look(self) -> str:
        held, ends_at = self._held()
        if held is None or (error := self._refused(held)) == "":
            return ""
        if time.time() >= ends_at:
            return ""  # nobody was there to replace it in time
        # It may have been replaced between the look and the login; the same one twice is no coincidence.
        again, _ = self._held()
        if again is None or again.username != held.username or (error := self._refused(held)) == "":
            return ""
        return f"the file's user {held.username} cannot log in: {error}"

    def _held(self) -> tuple[Credential | None, float]:
        """What the file says, and the Unix time until which it says so."""
        try:
            before = self._path.stat().st_mtime
            held = from_file(self._path)
            after = self._path.stat().st_mtime
        except FileNotFoundError:
            return None, 0.0
        except (KeyError, ValueError) as error:
            self.broken = f"the file cannot be parsed: {error!r}"
            return None, 0.0
        return held, min(before, after) + held.lease_duration

    def _refused(self, held: Credential) -> str:
        try:
            log_in(self._place, held).close()
        except psycopg.OperationalError as error:
            text = str(error)
            if _FULL in text or (self.server_falls and not any(word in text for word in _REFUSED)):
                return ""
            return text
        self.times += 1
        return ""


class SocketReader:
    """An app that reads the socket on one connection, and again when nobody answers.

    Attributes:
        last: the newest credential read.
        times: reads that succeeded.
        broken: what must never happen and did, "" so far.
    """

    def __init__(self, socket: Path) -> None:
        self.last: Credential | None = None
        self.times = 0
        self.broken = ""
        self._socket = socket

    def run(self, done: threading.Event) -> None:
        """Until `done`."""
        while not done.wait(EVERY):
            with contextlib.suppress(OSError, http.client.HTTPException), Client(self._socket, 5.0) as client:
                while not done.wait(EVERY / 2):
                    self._read(client)

    def _read(self, client: Client) -> None:
        answer = client.ask(f"/v1/{ROLE}")
        if answer.status == 200:
            self.last = credential(answer)
            self.times += 1
            if self.last.lease_duration < 1:
                self.broken = f"an answer of 200 with {self.last.lease_duration} s of life left"
        elif answer.status != 503:
            self.broken = f"an answer of {answer.status}: {answer.text}"


@contextlib.contextmanager
def reading(*readers: FileReader | SocketReader) -> Iterator[None]:
    """Let them read in threads of their own inside this block."""
    done = threading.Event()
    threads = [threading.Thread(target=reader.run, args=(done,), daemon=True) for reader in readers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        done.set()
        for thread in threads:
            thread.join(30.0)
