"""The directory of a throwaway PostgreSQL: made once by initdb, for a server user who may be another than ours."""

import errno
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from agent.dev import watchdog
from agent.dev.binaries import ENVIRONMENT, Binaries
from agent.errors import StartError
from agent.leases.lease import Secret

_SOCKET_PATH_MAX = 80  # bytes; the kernel's bound is 103 on macOS and 107 on Linux, less the name of the socket
_INITDB_DEADLINE = 120.0
_INITDB_OPTIONS = ("-A", "scram-sha-256", "-E", "UTF8", "--no-locale", "--no-sync", "--wal-segsize=1")


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


class Home:
    """Where one server lives, and how its programs are run there.

    Attributes:
        directory: holds all the rest; missing or empty before `create`.
        data, socket_dir: the server's own.
        password_file: the superuser's password; ours alone.
        log_file: what initdb and the server say; ours alone.
        everything: the directories to remove in the end.
    """

    def __init__(self, binaries: Binaries, directory: Path | None) -> None:
        fresh = f"leasehold-pg-{secrets.token_hex(6)}"
        self.directory = (directory or Path(tempfile.gettempdir()) / fresh).absolute()
        self.data = self.directory / "data"
        self.socket_dir = self.directory / "socket"
        self.password_file = self.directory / "password"
        self.log_file = self.directory / "postgres.log"
        if len(os.fsencode(self.socket_dir)) > _SOCKET_PATH_MAX:
            self.socket_dir = Path("/tmp") / fresh  # noqa: S108 - a name nobody can guess, and mkdir refuses a taken one
        self.everything = (self.directory, self.socket_dir)
        self._bin_dir = binaries.bin_dir
        self._account: tuple[int, int] | None = None

    def check(self) -> None:
        """Look before anything is touched.

        Raises:
            StartError: the directory is somebody else's, or no user can run a server here.
        """
        self._account = _server_account()
        if self.directory.exists() and (not self.directory.is_dir() or any(self.directory.iterdir())):
            raise StartError(f"{self.directory} is in use: name a directory that is empty or does not exist yet")
        if not self.directory.parent.is_dir():
            raise StartError(f"{self.directory.parent} does not exist: make it, or name another directory")

    def create(self, superuser: str, password: Secret, tell: Callable[[int], None]) -> None:
        """Make the directory and run initdb; `tell` hears initdb's process id, and 0 after it.

        Raises:
            StartError: with initdb's own reason, or the remedy.
        """
        self.directory.mkdir(exist_ok=True)
        self.directory.chmod(0o711)  # the server's user passes through; what is secret has a mode of its own
        for path, mode in ((self.data, 0o700), (self.socket_dir, 0o755)):
            path.mkdir()
            path.chmod(mode)
            self._hand_over(path)
        self._make_usable()
        with open(self.password_file, "x", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(password.reveal())
        self.log_file.touch(0o600)
        self._hand_over(self.password_file)
        self._initdb(superuser, tell)
        os.chown(self.password_file, os.geteuid(), os.getegid())

    def run(self, program: str, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start one of PostgreSQL's programs as the server's user; what it says goes to the log."""
        with self.log_file.open("ab") as log:
            return self._spawn([str(self._bin_dir / program), *arguments], log)

    def pid_file(self) -> list[str]:
        """The lines of postmaster.pid: the 7th names the shared memory segment, the 8th the state."""
        try:
            return (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    def forget_run(self) -> None:
        """Remove what an earlier run left and a new one would stumble over; nothing of it may run any more."""
        for path in (self.data / "postmaster.pid", *self.socket_dir.iterdir()):
            path.unlink(missing_ok=True)

    def reason(self, offset: int = 0) -> str:
        """The line of the log, from byte `offset` on, that says most about a failure."""
        text = self.log_file.read_bytes()[offset:].decode(errors="replace")
        lines = [line for line in text.splitlines() if line.strip()]
        telling = [line for line in lines if "FATAL" in line or "PANIC" in line or "error:" in line]
        return (telling or lines or ["it gave no reason"])[-1]

    def _hand_over(self, path: Path) -> None:
        if self._account is not None:
            os.chown(path, *self._account)

    def _make_usable(self) -> None:
        """The server's user must reach the data and run the programs; it gets a copy of those it cannot run."""
        if self._account is None:
            return
        if not self._succeeds(["/bin/sh", "-c", 'cd "$1"', "sh", str(self.data)]):
            raise StartError(f"user nobody cannot reach {self.directory}: choose a directory that others may enter")
        if not self._succeeds([str(self._bin_dir / "postgres"), "--version"]):
            self._bin_dir = self._copy_programs()

    def _succeeds(self, argv: list[str]) -> bool:
        """Whether `argv` ends well as the server's user."""
        with open(os.devnull, "wb") as null:
            try:
                return self._spawn(argv, null).wait(timeout=10.0) == 0
            except OSError as exc:
                if exc.errno == errno.EPERM:  # from setuid; exec says EACCES
                    raise
                return False

    def _copy_programs(self) -> Path:
        """An installation under a private home, copied with its layout: its libraries are found relative to it."""
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

    def _initdb(self, superuser: str, tell: Callable[[int], None]) -> None:
        paths = (f"--pwfile={self.password_file}", "-D", str(self.data))
        initdb = self.run("initdb", [*_INITDB_OPTIONS, "-U", superuser, *paths])
        tell(initdb.pid)
        try:
            status = initdb.wait(timeout=_INITDB_DEADLINE)
        except subprocess.TimeoutExpired:
            raise StartError(f"initdb did not end within {_INITDB_DEADLINE:g} s: is the machine overloaded?") from None
        finally:
            if initdb.poll() is None:
                watchdog.send([*watchdog.freeze(initdb.pid), initdb.pid], signal.SIGKILL)
                initdb.wait()
            tell(0)
        if status != 0:
            raise StartError(f"initdb failed: {self.reason()}")

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
