"""A throwaway PostgreSQL server: for `leasehold dev` and for the tests.

Synchronous on purpose: it works before an event loop runs and after it has ended. The server listens on loopback only,
asks everybody for a password (SCRAM) and does not survive a loss of power. It ends with the process that started it,
even after `kill -9` (`agent.dev.watchdog`). As root it drops to `nobody`, since PostgreSQL refuses to run as root.
"""

import contextlib
import ctypes
import errno
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from agent.dev import watchdog
from agent.dev.binaries import ENVIRONMENT, Binaries, find_binaries, newest
from agent.dev.home import Home
from agent.errors import StartError
from agent.leases.lease import Secret

__all__ = ["Binaries", "Cluster", "find_binaries", "newest"]

_SETTINGS = {
    "fsync": "off",
    # Stays on: without fsync it costs nothing, and a commit that was answered must outlive `kill`.
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "200",
    "min_wal_size": "8MB",
    "max_wal_size": "64MB",
    "jit": "off",
    "password_encryption": "scram-sha-256",
    # A container's /dev/shm is small, and what lies there outlives a killed server.
    "dynamic_shared_memory_type": "mmap",
    "log_line_prefix": "%m [%p] ",
}
_START_DEADLINE = 60.0


def _free_port() -> int:
    """A TCP port of loopback that nobody uses now.

    Below the range from which the kernel takes the local ports of outgoing connections: none of those can sit on the
    port while the server is down for a moment.
    """
    while True:
        port = random.randrange(20000, 32000)  # noqa: S311 - no secret
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def _quoted(value: str) -> str:
    """A value of a libpq connection string."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


class Cluster:
    """One server with its own data directory.

    `start` makes the directory the first time; `destroy`, the end of a `with` block, and the end of this process
    remove it.

    Attributes:
        major: of the server's version.
        host, port: where it listens; the port is known after `start` and stays.
        socket_dir: directory of its Unix socket.
        superuser, password, password_file: its first login; the file is ours alone.
        log_file: what the server says.

    Args:
        binaries: which PostgreSQL.
        directory: must be missing or empty, and is removed in the end; a new one under $TMPDIR by default.
        settings: server settings on top of the defaults.
        tcp: listen on 127.0.0.1; otherwise on the Unix socket only.
        leavings: directories of this process that are removed too if it dies without tidying up.
    """

    host = "127.0.0.1"
    superuser = "postgres"

    def __init__(
        self,
        binaries: Binaries,
        directory: Path | None = None,
        *,
        settings: Mapping[str, str] = MappingProxyType({}),
        tcp: bool = True,
        leavings: Sequence[Path] = (),
    ) -> None:
        self.major = binaries.major
        self.port = 0
        self.password = Secret(secrets.token_urlsafe(24))
        self._tcp = tcp
        self._leavings = tuple(leavings)
        self._settings = {**_SETTINGS, **settings}
        self._home = Home(binaries, directory)
        self.directory = self._home.directory
        self.socket_dir = self._home.socket_dir
        self.password_file = self._home.password_file
        self.log_file = self._home.log_file
        self._watchdog: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self._frozen: list[int] = []
        self._was_ready = False

    def __repr__(self) -> str:
        state = "stopped" if self._server is None else "paused" if self._frozen else "running"
        return f"<Cluster {self.major} {state} {self.host}:{self.port}>"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.destroy()

    @property
    def pid(self) -> int:
        """Process id of the server; 0 while it is down."""
        return self._server.pid if self._server is not None else 0

    def conninfo(self, dbname: str = "postgres", user: str | None = None, password: Secret | None = None) -> str:
        """A libpq connection string for this server; the superuser's where no user is named."""
        if user is None:
            user, password = self.superuser, self.password
        words = {
            "host": self.host if self._tcp else str(self.socket_dir),
            "port": str(self.port),
            "dbname": dbname,
            "user": user,
            "sslmode": "disable",
        }
        if password is not None:
            words["password"] = password.reveal()
        return " ".join(f"{key}={_quoted(value)}" for key, value in words.items())

    # --- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bring the server up; returns when it takes connections. The first call makes the directory.

        Raises:
            StartError: it could not; one line with the server's own reason or the remedy.
        """
        if self._server is not None and self._server.poll() is None:
            return
        first = self._watchdog is None
        try:
            if first:
                self._home.check()
                self._watch()
                self._home.create(self.superuser, self.password, self._tell)
            self._launch()
        except BaseException as exc:
            if first:
                self.destroy()
            if not isinstance(exc, OSError):
                raise
            remedy = ""
            if exc.errno == errno.EPERM:
                remedy = "; run as another user, or give root CAP_CHOWN, CAP_KILL, CAP_SETUID and CAP_SETGID"
            raise StartError(f"cannot start PostgreSQL {self.major} in {self.directory}: {exc}{remedy}") from exc

    def stop(self) -> None:
        """Take the server down in order, within 20 s; its data stay."""
        self._stop((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))

    def kill(self) -> None:
        """End every process of the server at once, as a crash does. `start` brings it back."""
        server = self._server
        if server is None:
            return
        segment = self._home.pid_file()[6:7]
        family = [*watchdog.freeze(server.pid), server.pid]
        watchdog.send(family, signal.SIGKILL)
        server.wait()
        # A new server refuses to start while an old process is attached to the shared memory.
        if not watchdog.gone(family, 10.0):
            raise StartError(f"processes of PostgreSQL {server.pid} do not end although they were killed")
        for line in segment:
            ctypes.CDLL(None).shmctl(int(line.split()[1]), 0, None)  # 0: IPC_RMID; a killed server leaves its segment
        self._down()

    def pause(self) -> None:
        """Stop every process of the server: connections stay open and nothing answers, until `resume`."""
        if self._server is not None:
            self._frozen = [self._server.pid, *watchdog.freeze(self._server.pid)]

    def resume(self) -> None:
        """Let a paused server go on."""
        watchdog.send(self._frozen, signal.SIGCONT)
        self._frozen = []

    def destroy(self) -> None:
        """Take the server down and remove its directory, password and log included.

        Raises:
            StartError: something there could not be removed.
        """
        keeper = self._watchdog
        if keeper is None:
            return
        self._stop((signal.SIGQUIT, 5.0))
        # The watchdog removes the directories when the pipe closes: one way out for all endings.
        if keeper.stdin is not None:
            keeper.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            keeper.wait(timeout=25.0)
        self._watchdog = None
        for path in filter(Path.exists, self._home.everything):
            raise StartError(f"could not remove {path}: remove it by hand")

    # --- making it ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Start the watchdog, before there is anything to watch."""
        argv = [sys.executable, "-I", "-S", watchdog.__file__, *map(str, (*self._home.everything, *self._leavings))]
        self._watchdog = subprocess.Popen(  # noqa: S603 - our own file
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env=ENVIRONMENT,
            start_new_session=True,
        )

    def _launch(self) -> None:
        for _ in range(20):
            if not self._was_ready:
                self.port = _free_port()
            logged = self.log_file.stat().st_size
            if self._run_once():
                self._was_ready = True
                return
            reason = self._home.reason(logged)
            if "TCP/IP" not in reason and "already in use" not in reason:
                break
            time.sleep(0.1)  # somebody took the port between the look and the bind
        raise StartError(f"PostgreSQL {self.major} did not start: {reason}")

    def _run_once(self) -> bool:
        """One attempt: True once it is ready, False if it ended instead."""
        self._home.forget_run()
        settings = {
            **self._settings,
            "listen_addresses": self.host if self._tcp else "",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
        }
        arguments = ["-D", str(self._home.data)]
        for key, value in settings.items():
            arguments += ["-c", f"{key}={value}"]
        server = self._server = self._home.run("postgres", arguments)
        self._tell(server.pid)
        end = time.monotonic() + _START_DEADLINE
        while time.monotonic() < end:
            lines = self._home.pid_file()
            if len(lines) >= 8 and lines[7].strip() == "ready":
                return True
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=0.005)
                self._down()
                return False
        self._stop((signal.SIGQUIT, 5.0))
        raise StartError(
            f"PostgreSQL {self.major} was not ready within {_START_DEADLINE:g} s: is the machine overloaded?"
        )

    def _stop(self, *steps: tuple[signal.Signals, float]) -> None:
        server = self._server
        if server is None:
            return
        self.resume()
        for number, patience in steps:
            server.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(timeout=patience)
                self._down()
                return
        self.kill()

    def _down(self) -> None:
        self._server = None
        self._frozen = []
        self._tell(0)

    def _tell(self, pid: int) -> None:
        """Tell the watchdog which process it would have to end."""
        if self._watchdog is not None and self._watchdog.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._watchdog.stdin.write(b"%d\n" % pid)
                self._watchdog.stdin.flush()
