"""Runs the program as its users do: processes with files of their own, a socket to read from, signals to end them.

Nothing here imports the agent's rooms: what these tests know of it is what it prints, serves, writes and leaves.
"""

import calendar
import contextlib
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psycopg

PATIENCE = 20.0
"""Longest wait for what must happen soon (seconds): generous, since the machine may be busy."""


def eventually(holds: Callable[[], bool], within: float = PATIENCE, every: float = 0.02) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + within
    while not (true := holds()) and time.monotonic() < end:
        time.sleep(every)
    return true


def runs(pid: int) -> bool:
    """Whether that process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@contextlib.contextmanager
def as_uid(uid: int) -> Iterator[None]:
    """Be another user, in the group of that number and no other, for a moment; needs root.

    The kernel names whoever connects by the effective ids of that moment.
    """
    own, group, groups = os.geteuid(), os.getegid(), os.getgroups()
    os.setgroups([])
    os.setegid(uid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(own)
        os.setegid(group)
        os.setgroups(groups)


# -- the socket ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What came back.

    Attributes:
        headers: by lower-case name.
        asked, answered: Unix time before the request left and after the answer had come.
    """

    status: int
    headers: Mapping[str, str]
    text: str = field(repr=False)
    asked: float
    answered: float

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document."""
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def took(self) -> float:
        """Seconds."""
        return self.answered - self.asked

    @property
    def error(self) -> str:
        """The agent's own words."""
        return "; ".join(self.body["errors"])


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("leasehold", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One connection that is kept open, as an app's HTTP client keeps it."""

    def __init__(self, path: Path, timeout: float = 10.0) -> None:
        self._connection = _UnixConnection(path, timeout)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(
        self, target: str, *, method: str = "GET", headers: Mapping[str, str] | None = None, body: object = None
    ) -> Answer:
        """One request; OSError where nobody answers."""
        content = None if body is None else json.dumps(body)
        asked = time.time()
        self._connection.request(method, target, content, dict(headers or {}))
        response = self._connection.getresponse()
        text = response.read().decode()
        answered = time.time()
        named = {name.lower(): value for name, value in response.getheaders()}
        return Answer(status=response.status, headers=named, text=text, asked=asked, answered=answered)


def instant(text: str) -> float:
    """Unix time of an RFC 3339 instant in whole seconds of UTC."""
    return float(calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")))


@dataclass(frozen=True, kw_only=True)
class Credential:
    """What an app holds after a read; `expires_at` is Unix time, rounded down by the agent."""

    username: str
    password: str = field(repr=False)
    lease_id: str = field(repr=False)
    lease_duration: int
    expires_at: float = 0.0
    generation: int = 0


def credential(answer: Answer) -> Credential:
    """The credential in a read's answer."""
    body = answer.body
    return Credential(
        username=body["data"]["username"],
        password=body["data"]["password"],
        lease_id=body["lease_id"],
        lease_duration=body["lease_duration"],
        expires_at=instant(body["expires_at"]),
        generation=body["generation"],
    )


def log_in(place: Mapping[str, Any], held: Credential) -> psycopg.Connection[tuple[Any, ...]]:
    """An app's login; `place` has host, port, dbname and sslmode."""
    return psycopg.connect(
        host=place["host"],
        port=place["port"],
        dbname=place["dbname"],
        sslmode=place["sslmode"],
        user=held.username,
        password=held.password,
        connect_timeout=10,
    )


# -- processes -------------------------------------------------------------------------------------------------------


class Program:
    """`python -m agent …` as a process with its output in files.

    Args:
        argv: after `python -m agent`.
        directory: working directory; takes the output.
        before: words in front of the interpreter, such as a wrapping shell.
        module: what runs in place of `agent`, and what it takes before `argv`.
    """

    def __init__(
        self,
        argv: Sequence[str],
        directory: Path,
        *,
        python: str = sys.executable,
        before: Sequence[str] = (),
        module: Sequence[str] = ("agent",),
        environment: Mapping[str, str] | None = None,
        uid: int | None = None,
    ) -> None:
        number = sum(1 for _ in directory.glob("*.out"))
        self._out = directory / f"{number}.out"
        self._err = directory / f"{number}.err"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LEASE", "COV_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                [*before, python, "-m", *module, *argv],
                cwd=directory,
                env={**kept, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                user=uid,
                group=uid,
                extra_groups=None if uid is None else [],
            )

    def __repr__(self) -> str:
        return f"<{self._process.args!r} pid={self.pid} code={self.code}>"

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """Exit code; None while it runs."""
        return self._process.poll()

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._out.read_text()

    @property
    def stderr(self) -> str:
        """What it has said and logged so far."""
        return self._err.read_text()

    @property
    def log(self) -> list[dict[str, Any]]:
        """Its log so far, line by line."""
        return [json.loads(line) for line in self.stderr.splitlines() if line.startswith("{")]

    def logged(self, event: str, **fields: object) -> list[dict[str, Any]]:
        """The log's lines of one event that hold these fields."""
        return [line for line in self.log if line["event"] == event and fields.items() <= line.items()]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, within: float = PATIENCE) -> int:
        """Its exit code, once it has ended; subprocess.TimeoutExpired if it does not."""
        return self._process.wait(within)

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Send a signal and return its exit code."""
        self.send(number)
        return self.wait(within)

    def end(self) -> None:
        """Make sure that it is gone."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class Agent(Program):
    """`python -m agent run -c FILE` on a configuration given as a mapping."""

    def __init__(self, document: Mapping[str, Any], directory: Path, *options: str, **how: Any) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.document = document
        self.socket = Path(document["listener"]["unix"]["address"])
        self.config = directory / "agent.toml"
        self.config.write_text(toml(document))
        super().__init__(["run", "-c", str(self.config), *options], directory, **how)

    @property
    def file(self) -> Path:
        """The first template's destination."""
        return Path(self.document["template"][0]["destination"])

    def ask(self, target: str, **how: Any) -> Answer:
        """One request on a connection of its own."""
        with Client(self.socket) as client:
            return client.ask(target, **how)

    def health(self) -> dict[str, Any]:
        """The report of /v1/sys/health."""
        return self.ask("/v1/sys/health").body

    def role(self, role: str) -> dict[str, Any]:
        """How one role is doing."""
        found: dict[str, Any] = self.health()["roles"][role]
        return found

    def read(self, role: str) -> Credential:
        """The credential that the socket serves."""
        answer = self.ask(f"/v1/{role}")
        assert answer.status == 200, answer
        return credential(answer)

    def probe(self, name: str) -> int:
        """The status of /startupz, /readyz or /livez; 0 where nobody answers."""
        try:
            return self.ask(f"/{name}").status
        except (OSError, http.client.HTTPException):
            return 0

    def wait_listening(self) -> Self:
        """Return when the socket answers."""
        self._wait_for("livez")
        return self

    def wait_ready(self) -> Self:
        """Return when the agent is ready."""
        self._wait_for("readyz")
        return self

    def _wait_for(self, name: str) -> None:
        if not eventually(lambda: self.code is not None or self.probe(name) == 200) or self.code is not None:
            raise AssertionError(f"/{name} does not hold: {self!r}\n{self.stderr[-4000:]}")


def from_file(path: Path) -> Credential:
    """What an app gets that reads a dotenv file of ours now."""
    pairs = dict(word.split("=", 1) for word in shlex.split(path.read_text()))
    return Credential(
        username=pairs["DB_USER"],
        password=pairs["DB_PASS"],
        lease_id=pairs["DB_LEASE_ID"],
        lease_duration=int(pairs["DB_TTL"]),
    )


# -- configurations --------------------------------------------------------------------------------------------------


def toml(document: Mapping[str, Any]) -> str:
    """The mapping as TOML, each top-level key an inline table or array."""
    return "".join(f"{json.dumps(key)} = {_value(value)}\n" for key, value in document.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_value(each) for each in value) + "]"
    return json.dumps(value)
