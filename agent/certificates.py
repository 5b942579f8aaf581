"""When certificates end, read from their files (R003-098): an expired client certificate locks the agent out.

Only the validity is looked at, with the few rules of DER that it takes; nothing here judges or trusts a certificate.
"""

import base64
import binascii
import calendar
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from agent import log, regular
from agent.clock import Clock
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

_PEM = re.compile(r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----([A-Za-z0-9+/=\s]+)-----END")
_LARGEST = 4 << 20
_INTERVAL = 300.0
_SEQUENCE, _VERSION = 0x30, 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18

Name = tuple[str, str]
"""The upstream, and the configuration's key of the file."""


class Certificates:
    """Looks at certificate files every five minutes.

    Attributes:
        ends: Unix time of each file's first end; a file that cannot be read is left out, and said.
    """

    def __init__(self, files: Mapping[Name, str], clock: Clock) -> None:
        self.ends: Mapping[Name, float] = {}
        self._files = dict(files)
        self._clock = clock
        self._told: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Look for ever; return at once where there is nothing to look at."""
        while self._files:
            problems: frozenset[str] = frozenset()
            try:
                self.ends, problems = await in_daemon_thread(self._look)
            except OSError as problem:  # no thread for it: what was read last time still holds
                problems = frozenset({f"certificates: {problem.strerror}; their ends cannot be watched"})
            for line in sorted(problems - self._told):
                _log.warning(Event.CONFIG_WARNING, warning=line)
            self._told = problems
            await self._clock.sleep(_INTERVAL)

    def _look(self) -> tuple[Mapping[Name, float], frozenset[str]]:
        ends: dict[Name, float] = {}
        problems = set()
        for name, path in self._files.items():
            try:
                ends[name] = first_end(Path(path))
            except (OSError, ValueError) as problem:
                why = problem.strerror if isinstance(problem, OSError) else "holds no certificate that can be read"
                problems.add(f"{name[0]}.{name[1]}: {path}: {why}; its end cannot be watched")
        return ends, frozenset(problems)


def first_end(path: Path) -> float:
    """Unix time at which the first of the certificates in a PEM file ends.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds none.
    """
    data, _ = regular.read(str(path), _LARGEST)
    return first_end_in(data.decode("latin-1"))


def first_end_in(text: str) -> float:
    """The same, of a PEM text."""
    ends = [_not_after(base64.b64decode(body)) for body in _PEM.findall(text)]
    if not ends:
        raise ValueError("no certificate")
    return min(ends)


def _not_after(der: bytes) -> float:
    """The end of one certificate; ValueError where it is none."""
    try:
        (_, certificate), *_ = _items(der)
        (_, signed), *_ = _items(certificate)
        fields = [content for tag, content in _items(signed) if tag != _VERSION]
        _, (tag, end) = _items(fields[3])  # serial number, algorithm, issuer, validity
        return _instant(tag, end.decode("ascii"))
    except (IndexError, binascii.Error, TypeError) as wrong:
        raise ValueError("not a certificate") from wrong


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and content of each element in `data`."""
    at = 0
    while at < len(data):
        tag, length, at = data[at], data[at + 1], at + 2
        if length & 0x80:
            size = length & 0x7F
            length, at = int.from_bytes(data[at : at + size], "big"), at + size
        if at + length > len(data):
            raise ValueError("cut short")
        yield tag, data[at : at + length]
        at += length


def _instant(tag: int, text: str) -> float:
    if tag == _UTC_TIME:  # RFC 5280, 4.1.2.5.1: years of two digits are those from 1950 to 2049
        text = ("19" if text >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no instant")
    return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%SZ")))
