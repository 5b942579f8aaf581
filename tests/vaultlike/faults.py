"""Scripted misbehaviour: what is done to a request in place of, or after, answering it."""

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to requests whose path, below /v1/, begins with `prefix`.

    Attributes:
        method: only this one; None: any.
        times: how often, then no more; 0: until cleared.
        after: do what was asked first, and lose or spoil the answer: what was issued stays issued.
        delay: seconds before anything else; alone, the request is then answered as ever.
        status, body, headers: answer this; a body of text is sent as it is.
        hang: never answer, and keep the connection open.
        reset: end the connection with RST.
        raw: these bytes in place of an answer, then the end of the connection.
        cut: only so many bytes of the answer's body, then the end of the connection.
    """

    prefix: str = ""
    method: str | None = None
    times: int = 0
    after: bool = False
    delay: float = 0.0
    status: int | None = None
    body: Mapping[str, Any] | str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    reset: bool = False
    raw: bytes | None = None
    cut: int | None = None

    def matches(self, method: str, path: str) -> bool:
        """Whether it is for this request."""
        return path.startswith(self.prefix) and self.method in (None, method)


class Faults:
    """The faults in force, to be changed from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._list: list[list[Any]] = []

    def add(self, fault: Fault) -> None:
        """From the next request on; of several that match, the first added is taken."""
        with self._lock:
            self._list.append([fault, fault.times])

    def clear(self, prefix: str | None = None) -> None:
        """Those of exactly this prefix, or all."""
        with self._lock:
            self._list = [one for one in self._list if prefix is not None and one[0].prefix != prefix]

    def take(self, method: str, path: str) -> Fault | None:
        """What happens to this request; it is counted."""
        with self._lock:
            for entry in self._list:
                fault: Fault = entry[0]
                if fault.matches(method, path):
                    if fault.times:
                        entry[1] -= 1
                        if entry[1] == 0:
                            self._list.remove(entry)
                    return fault
        return None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """One request in the log.

    Attributes:
        at: Unix time.
        path: below /v1/, decoded.
        headers: by lower-case name; X-Vault-Token and Authorization only say that they were there.
        body: as it came, JWTs and secret ids included: these are made up in tests.
        accessor: of the token it was made with, where that lived.
        status: of the answer; 0 while there is none, or none was given.
    """

    at: float
    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    accessor: str
    status: int = 0


class Log:
    """Requests in the order of their coming."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: list[dict[str, Any]] = []

    def add(self, **fields: Any) -> dict[str, Any]:
        """One more; its `status` is filled in later."""
        entry = {"at": time.time(), "status": 0, **fields}
        with self._lock:
            self._seen.append(entry)
        return entry

    def read(self, prefix: str = "", method: str | None = None) -> list[Seen]:
        """Those at a prefix, by a method."""
        with self._lock:
            entries = list(self._seen)
        seen = (Seen(**one) for one in entries)
        return [one for one in seen if one.path.startswith(prefix) and method in (None, one.method)]

    def clear(self) -> None:
        """Forget them."""
        with self._lock:
            self._seen.clear()
