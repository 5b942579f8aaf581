"""A throwaway PostgreSQL server: for `leasehold dev` and for the tests.

Synchronous on purpose: it works before an event loop runs and after it has ended. The server listens on loopback only,
asks everybody for a password (SCRAM), trades durability for speed, and ends with the process that started it, even
after `kill -9` (`agent.dev.watchdog`). As root it drops to the user `nobody`, since PostgreSQL refuses to run as root.
"""

import contextlib
import ctypes
import os
import pwd
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self

from agent.dev import watchdog
from agent.dev.binaries import ENVIRONMENT, Binaries, find_binaries, newest
from agent.errors import StartError
from agent.leases.lease import Secret

__all__ = ["Binaries", "Cluster", "find_binaries", "newest"]

_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
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
_SOCKET_PATH_MAX = 80  # bytes; the kernel's bound is 103 on macOS and 107 on Linux, less the name of the socket
_START_DEADLINE = 60.0
_INITDB_DEADLINE = 120.0


def _server_account() -> tuple[int, int] | None:
    """The uid and gid to drop to; None where the server runs as ourselves."""
    uid = os.geteuid()
    if uid != 0:
        try:
            pwd.getpwuid(uid)
        except KeyError:
            raise StartError(
                f"uid {uid} has no line in /etc/passwd, which initdb needs: add one, or run as another user or as root"
            ) from None
        return None
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise StartError(
            "PostgreSQL does not run as root and there is no user nobody to drop to: run as another user"
        ) from None
    return nobody.pw_uid, nobody.pw_gid


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
    ) -> None:
        fresh = Path(tempfile.gettempdir()) / f"leasehold-pg-{secrets.token_hex(6)}"
        self.directory = (directory or fresh).absolute()
        self.major = binaries.major
        self.port = 0
        self.password = Secret(secrets.token_urlsafe(24))
        self.password_file = self.directory / "password"
        self.log_file = self.directory / "postgres.log"
        self.socket_dir = self.directory / "socket"
        if len(os.fsencode(self.socket_dir)) > _SOCKET_PATH_MAX:
            self.socket_dir = Path("/tmp") / fresh.name  # noqa: S108 - a fresh name, made by mkdir
        self._tcp = tcp
        self._settings = {**_SETTINGS, **settings}
        self._data = self.directory / "data"
        self._bin_dir = binaries.bin_dir
        self._account: tuple[int, int] | None = None
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
        if self._server is not None:
            return
        first = self._watchdog is None
        try:
            if first:
                self._create()
            self._launch()
        except BaseException as exc:
            if first:
                self.destroy()
            if isinstance(exc, OSError):
                raise StartError(f"cannot start PostgreSQL {self.major} in {self.directory}: {exc}") from exc
            raise

    def stop(self) -> None:
        """Take the server down in order, within 20 s; its data stay."""
        self._stop((signal.SIGINT, 10.0), (signal.SIGQUIT, 5.0))

    def kill(self) -> None:
        """End every process of the server at once, as a crash does. `start` brings it back."""
        server = self._server
        if server is None:
            return
        segment = self._pid_file()[6:7]
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
        """Take the server down and remove its directory, password and log included."""
        keeper = self._watchdog
        if keeper is None:
            return
        self._stop((signal.SIGQUIT, 5.0))
        # The watchdog removes the directories when the pipe closes: one way out for all endings.
        if keeper.stdin is not None:
            keeper.stdin.close()
        keeper.wait(timeout=30.0)
        self._watchdog = None

    # --- making it ------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        """The directory, the programs where the server's user can run them, and initdb."""
        self._account = _server_account()
        if self.directory.is_dir() and any(self.directory.iterdir()):
            raise StartError(f"{self.directory} is not empty: name a directory that does not exist yet")
        script = [sys.executable, "-I", "-S", watchdog.__file__, str(self.directory), str(self.socket_dir)]
        null = subprocess.DEVNULL
        self._watchdog = subprocess.Popen(  # noqa: S603 - our own file
            script, stdin=subprocess.PIPE, stdout=null, stderr=null, cwd="/", env=ENVIRONMENT, start_new_session=True
        )
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o711)  # the server's user passes through; what is secret has a mode of its own
        for path, mode in ((self._data, 0o700), (self.socket_dir, 0o755)):
            path.mkdir()
            path.chmod(mode)
            self._hand_over(path)
        self._check_reachable()
        with open(self.password_file, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(self.password.reveal())
        self._hand_over(self.password_file)
        self._initdb()
        if self._account is not None:
            os.chown(self.password_file, os.geteuid(), os.getegid())

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, *self._account)

    def _check_reachable(self) -> None:
        """The server's user must reach the data and run the programs; a copy of the programs where it cannot."""
        if self._account is None:
            return
        if not self._runs(["/bin/sh", "-c", 'cd "$1"', "sh", str(self._data)]):
            raise StartError(f"user nobody cannot reach {self.directory}: choose a directory that others may enter")
        if not self._runs([str(self._bin_dir / "postgres"), "--version"]):
            self._bin_dir = self._copy_programs()

    def _runs(self, argv: list[str]) -> bool:
        """Whether the server's user can run `argv`."""
        with open(os.devnull, "wb") as null:
            try:
                return self._spawn(argv, null).wait(timeout=10.0) == 0
            except PermissionError as exc:
                if exc.filename is not None:
                    return False
                raise StartError(
                    "cannot become user nobody: run as another user, or give root CAP_SETUID and CAP_SETGID"
                ) from exc

    def _copy_programs(self) -> Path:
        """An installation under a private home, copied with its layout (its libraries are found relative to it)."""
        prefix = self._bin_dir.parent
        software = self.directory / "software"
        target = software / prefix.parent.name / prefix.name
        for name in ("bin", "lib", "share"):
            shutil.copytree(prefix / name, target / name, ignore=shutil.ignore_patterns("*.a"))
        libraries = prefix.parent.with_name(prefix.parent.name + ".libs")
        if libraries.is_dir():
            shutil.copytree(libraries, software / libraries.name)
        for path in (software, *software.rglob("*")):
            path.chmod(0o755)
        return target / "bin"

    def _initdb(self) -> None:
        options = ["-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--wal-segsize=1"]
        paths = [f"--pwfile={self.password_file}", "-D", str(self._data)]
        with self.log_file.open("ab") as log:
            initdb = self._spawn([str(self._bin_dir / "initdb"), "-U", self.superuser, *options, *paths], log)
        self._tell(initdb.pid)
        try:
            status = initdb.wait(timeout=_INITDB_DEADLINE)
        except subprocess.TimeoutExpired:
            raise StartError(f"initdb did not end within {_INITDB_DEADLINE:g} s: is the machine overloaded?") from None
        finally:
            if initdb.poll() is None:
                watchdog.send([*watchdog.freeze(initdb.pid), initdb.pid], signal.SIGKILL)
                initdb.wait()
            self._tell(0)
        if status != 0:
            raise StartError(f"initdb of PostgreSQL {self.major} failed: {self._reason(0)}")

    def _spawn(self, argv: list[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        uid, gid = self._account or (None, None)
        return subprocess.Popen(  # noqa: S603 - programs that find_binaries found
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            env=ENVIRONMENT,
            umask=0o077,
            start_new_session=True,  # Ctrl-C must not reach the server before the agent has revoked
            user=uid,
            group=gid,
            extra_groups=None if uid is None else [],
        )

    # --- running it -----------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        for _ in range(20):
            if not self._was_ready:
                self.port = _free_port()
            logged = self.log_file.stat().st_size
            if self._run_once():
                self._was_ready = True
                return
            reason = self._reason(logged)
            if "TCP/IP" not in reason and "already in use" not in reason:
                break
            time.sleep(0.1)  # somebody took the port between the look and the bind
        raise StartError(f"PostgreSQL {self.major} did not start: {reason}")

    def _run_once(self) -> bool:
        """One attempt: True once it is ready, False if it ended instead."""
        # Nothing of it runs any more, so what these say of an earlier run is history.
        for path in (self._data / "postmaster.pid", *self.socket_dir.iterdir()):
            path.unlink(missing_ok=True)
        settings = {
            **self._settings,
            "listen_addresses": self.host if self._tcp else "",
            "port": str(self.port),
            "unix_socket_directories": str(self.socket_dir),
        }
        argv = [str(self._bin_dir / "postgres"), "-D", str(self._data)]
        for key, value in settings.items():
            argv += ["-c", f"{key}={value}"]
        with self.log_file.open("ab") as log:
            server = self._server = self._spawn(argv, log)
        self._tell(server.pid)
        end = time.monotonic() + _START_DEADLINE
        while time.monotonic() < end:
            lines = self._pid_file()
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

    def _pid_file(self) -> list[str]:
        """The lines of postmaster.pid: the 7th names the shared memory segment, the 8th the state."""
        try:
            return (self._data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

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

    def _reason(self, offset: int) -> str:
        """The line of the log, from `offset` on, that says most about a failure."""
        lines = [line for line in self.log_file.read_bytes()[offset:].decode(errors="replace").splitlines() if line]
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
        return (telling or lines or ["no reason given"])[-1]
