"""One running Vault-like server, of whichever kind, as tests meet it: a process, and Vault's HTTP API over it.

Everything is set up through that API, so one text of set-up serves both kinds. Nothing here knows hvac or `agent`'s
own way to the wire: what these tests find out, they find out on their own.
"""

import contextlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlsplit

from agent.dev import watchdog

_START_DEADLINE = 30.0


class Refused(Exception):
    """The server did not do what the test's administrator asked.

    Attributes:
        status: HTTP's.
        errors: the server's own texts.
    """

    def __init__(self, asked: str, status: int, errors: Sequence[str]) -> None:
        super().__init__(f"{asked}: {status} {errors}")
        self.status = status
        self.errors = tuple(errors)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came back.

    Attributes:
        headers: by lower-case name.
        body: the JSON document, empty where there was none.
    """

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any] = field(repr=False)

    @property
    def errors(self) -> list[str]:
        """The server's texts."""
        found: list[str] = self.body.get("errors", [])
        return found

    @property
    def data(self) -> dict[str, Any]:
        """What was asked for."""
        found: dict[str, Any] = self.body["data"]
        return found

    @property
    def auth(self) -> dict[str, Any]:
        """A login or a token."""
        found: dict[str, Any] = self.body["auth"]
        return found


def free_port() -> int:
    """A TCP port of loopback, below the range of outgoing connections, so that it stays free while a server is down."""
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files that a server's TLS listener uses; `ca` is what clients check it against, and it checks clients against."""

    cert: Path
    key: Path
    ca: Path


def _stopped(task: Path) -> bool:
    """Whether that thread has heard the signal; threads stop one by one."""
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


class VaultPlace(ABC):
    """A server with a directory of its own; it ends, and the directory goes, when this process does.

    Attributes:
        kind: "bao" or "intree".
        port: of loopback; kept over restarts.
        root: a token that may do everything.
        unseal_key: its only one.
        directory: its state and its log.

    Args:
        directory: is made, and removed by `destroy`.
        tls: files of a TLS listener; plain HTTP without.
    """

    kind: ClassVar[str]

    def __init__(self, directory: Path, *, tls: Tls | None = None) -> None:
        self.directory = directory
        self.tls = tls
        self.port = free_port()
        self.root = ""
        self.unseal_key = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address} pid={self.pid}>"

    @property
    def address(self) -> str:
        """As a configuration names it."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def ca(self) -> Path | None:
        """What its certificate is checked against; None without TLS."""
        return self.tls.ca if self.tls else None

    @property
    def pid(self) -> int:
        """Of the process; 0 while it is down."""
        return self._process.pid if self._process else 0

    @property
    def log(self) -> str:
        """What the server has said."""
        return (self.directory / "log").read_text(errors="replace")

    # -- what each kind brings ---------------------------------------------------------------------------------------

    @abstractmethod
    def command(self) -> list[str]:
        """What to run; called at every start, once the directory is there."""

    @abstractmethod
    def open(self) -> None:
        """Make it serve: called after every start, once it answers."""

    # -- asking ------------------------------------------------------------------------------------------------------

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        certificate: tuple[Path, Path] | None = None,
        timeout: float = 30.0,
    ) -> Reply:
        """One request on a connection of its own, with no token unless one is given.

        Raises:
            OSError: nobody answers.
        """
        split = urlsplit(self.address)
        connection: http.client.HTTPConnection
        if self.ca:
            context = ssl.create_default_context(cafile=str(self.ca))
            if certificate:
                context.load_cert_chain(*map(str, certificate))
            connection = http.client.HTTPSConnection(split.hostname or "", split.port, timeout=timeout, context=context)
        else:
            connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=timeout)
        sent = {**({"X-Vault-Token": token} if token else {}), **(headers or {})}
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        with contextlib.closing(connection):
            connection.request(method, "/v1/" + quote(path, safe="/?=&%"), content, sent)
            response = connection.getresponse()
            text = response.read()
            named = {name.lower(): value for name, value in response.getheaders()}
        return Reply(status=response.status, headers=named, body=json.loads(text) if text.strip() else {})

    def admin(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
        wrap_ttl: str | None = None,
    ) -> dict[str, Any]:
        """The answer's document, with the root token unless another is given; {} for 204.

        Raises:
            Refused: for every status that is not 2xx.
        """
        headers = {"X-Vault-Namespace": namespace, "X-Vault-Wrap-TTL": wrap_ttl}
        given = {name: value for name, value in headers.items() if value is not None}
        reply = self.ask(method, path, body, token=token or self.root, headers=given)
        if not 200 <= reply.status < 300:
            raise Refused(f"{method} {path}", reply.status, reply.errors)
        return reply.body

    def health(self) -> int:
        """The status of sys/health; 0 while nobody answers."""
        try:
            return self.ask("GET", "sys/health", timeout=2.0).status
        except (OSError, http.client.HTTPException):
            return 0

    # -- the process -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring it up; returns when it serves."""
        self.run()
        self.open()
        self.wait_for(lambda: self.health() == 200)

    start_again = start

    def run(self) -> None:
        """Start the process; returns when it answers, serving or not."""
        if self._keeper is None:
            self.directory.mkdir(parents=True, mode=0o700)
            self._keeper = subprocess.Popen(
                [sys.executable, "-I", "-S", watchdog.__file__, str(self.directory)],
                stdin=subprocess.PIPE,
                cwd="/",
                start_new_session=True,
            )
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=Path(__file__).parents[1],
                env={**kept, "HOME": str(self.directory)},
                start_new_session=True,
            )
        self._tell(self._process.pid)
        self.wait_for(lambda: self.health() != 0)

    def wait_for(self, holds: Callable[[], bool], within: float = _START_DEADLINE, *, every: float = 0.02) -> None:
        """Return once it holds; AssertionError, with the end of the server's log, if it never does."""
        end = time.monotonic() + within
        while not holds():
            ended = self._process is None or self._process.poll() is not None
            if ended or time.monotonic() > end:
                raise AssertionError(f"{self!r} {'has ended' if ended else 'is not ready'}: {self.log[-3000:]}")
            time.sleep(every)

    def pause(self) -> None:
        """Connections stay open and nothing answers from now on, until `resume`."""
        self.send(signal.SIGSTOP)
        self.wait_for(lambda: all(_stopped(one) for one in Path(f"/proc/{self.pid}/task").iterdir()))

    def resume(self) -> None:
        """Let it go on."""
        self.send(signal.SIGCONT)

    def reload(self) -> None:
        """SIGHUP: read the listener's certificate again."""
        self.send(signal.SIGHUP)

    def send(self, number: signal.Signals) -> None:
        """A signal to the process, if it is there."""
        if self._process is not None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, as a crash does. The port refuses connections until `start_again`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._tell(0)

    def destroy(self) -> None:
        """End it for good and remove its directory."""
        self.kill()
        if self._keeper is not None and self._keeper.stdin is not None:
            self._keeper.stdin.close()
            self._keeper.wait(20.0)
        shutil.rmtree(self.directory, ignore_errors=True)

    def seal(self) -> None:
        """Up, and of no use to anybody."""
        self.admin("POST", "sys/seal")

    def unseal(self) -> None:
        """Of use again; returns when it is."""
        self.ask("POST", "sys/unseal", {"key": self.unseal_key})
        self.wait_for(lambda: self.health() == 200)

    def _tell(self, pid: int) -> None:
        """Tell the watchdog which process it would have to end."""
        if self._keeper is not None and self._keeper.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._keeper.stdin.write(b"%d\n" % pid)
                self._keeper.stdin.flush()


class InTree(VaultPlace):
    """tests/vaultlike as a process. It forgets everything when it ends: after `start_again`, set it up anew."""

    kind = "intree"

    def __init__(self, directory: Path, *, tls: Tls | None = None) -> None:
        super().__init__(directory, tls=tls)
        self.root = "root-of-the-tests"
        self.unseal_key = "key-of-the-tests"

    def command(self) -> list[str]:
        """Its command line."""
        words = ["--port", str(self.port), "--root-token", self.root, "--unseal-key", self.unseal_key]
        if self.tls:
            words += ["--tls-cert", str(self.tls.cert), "--tls-key", str(self.tls.key)]
            words += ["--tls-client-ca", str(self.tls.ca)]
        return [sys.executable, "-m", "tests.vaultlike", *words]

    def open(self) -> None:
        """It serves from the start."""
