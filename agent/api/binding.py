"""Takes a Unix socket's path, so that nobody can come between. Free of HTTP: other doors use it too.

A flock beside the socket is held for the process's life: of two agents on one path the second is told so. The socket is
bound at a private name, given its owner and mode, made to listen, and only then renamed into place: whoever sees the
path can connect, if the mode lets them. All of it blocks: call it off the event loop.
"""

import contextlib
import errno
import fcntl
import grp
import os
import pwd
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from agent import atomicfile
from agent.errors import StartError

BACKLOG = 1024
"""Connections that may wait to be accepted. An event loop listens once more, and must be told the same."""

# sizeof(sockaddr_un.sun_path) without the closing NUL.
_LONGEST = 103 if sys.platform == "darwin" else 107
_PRIVATE, _LOCK = ".{}~", "{}.lock"


class Binding:
    """A listening socket at `path`, ours until `release`.

    Attributes:
        sock: non-blocking, listening.
    """

    def __init__(self, path: Path, sock: socket.socket, lock: int, identity: tuple[int, int]) -> None:
        self.path = path
        self.sock = sock
        self._lock = lock
        self._identity = identity

    def __repr__(self) -> str:
        return f"Binding({self.path})"

    def astray(self) -> str:
        """Why the path no longer leads here, for people; "" while it does."""
        try:
            found = self.path.lstat()
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        ours = (found.st_dev, found.st_ino) == self._identity
        return "" if ours else f"{self.path} is something else now"

    def release(self) -> None:
        """Close the socket and remove its path, unless another has taken it since."""
        self.sock.close()
        with contextlib.suppress(OSError):
            found = self.path.lstat()
            if (found.st_dev, found.st_ino) == self._identity:
                self.path.unlink()
        _unlock(self.path, self._lock)


def bind(path: Path, *, mode: int, user: str | None = None, group: str | None = None) -> Binding:
    """A listening Unix socket at `path`, with this mode and owner from the first instant that the path exists.

    A socket that nobody listens on any more is replaced; anything else in its place stays.

    Args:
        user, group: owner, a name or a number; None keeps the agent's.

    Raises:
        StartError: names the obstacle and the remedy.
    """
    uid = _number(user, "socket_user", lambda name: pwd.getpwnam(name).pw_uid)
    gid = _number(group, "socket_group", lambda name: grp.getgrnam(name).gr_gid)
    private = path.with_name(_PRIVATE.format(path.name))
    if len(os.fsencode(private)) > _LONGEST:
        raise StartError(
            f"socket {path} has a path of {len(os.fsencode(path))} bytes, and at most {_LONGEST - 2} will do: "
            "choose a shorter [listener.unix] address"
        )
    # Whoever may use the socket must be able to reach it.
    atomicfile.own_directory(path.parent, mode=0o755 if mode & 0o007 else 0o750, gid=gid)
    lock = _take_lock(path)
    try:
        _check_free(path)
        sock, identity = _listen(path, private, mode, uid, gid)
    except OSError as error:
        _unlock(path, lock)
        raise StartError(f"socket {path}: {error.strerror}; {_remedy(error, uid, gid)}") from error
    except BaseException:
        _unlock(path, lock)
        raise
    return Binding(path, sock, lock, identity)


def _number(owner: str | None, key: str, look_up: Callable[[str], int]) -> int | None:
    if owner is None:
        return None
    if owner.isascii() and owner.isdigit():
        return int(owner)
    try:
        return look_up(owner)
    except KeyError:
        raise StartError(f"[listener.unix] {key}: this system has no {owner!r}; use a number") from None


def _remedy(error: OSError, uid: int | None, gid: int | None) -> str:
    if error.errno == errno.EPERM and (uid is not None or gid is not None):
        return "the agent may give it only to groups it is a member of: set socket_group to one, or run as root"
    return f"uid {os.geteuid()} must be able to write the directory"


def _listen(
    path: Path, private: Path, mode: int, uid: int | None, gid: int | None
) -> tuple[socket.socket, tuple[int, int]]:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _check_free(private)
        private.unlink(missing_ok=True)  # of one that was killed right here; the lock is ours
        sock.bind(os.fspath(private))
        try:
            if uid is not None or gid is not None:
                os.chown(private, -1 if uid is None else uid, -1 if gid is None else gid)
            private.chmod(mode)
            found = private.lstat()
            sock.listen(BACKLOG)
            private.rename(path)
        except BaseException:
            private.unlink(missing_ok=True)
            raise
    except BaseException:
        sock.close()
        raise
    return sock, (found.st_dev, found.st_ino)


def _check_free(path: Path) -> None:
    """Raise StartError if something other than an abandoned socket is at `path`."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise StartError(f"{path} exists and is not a socket: remove it, or choose another [listener.unix] address")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
        except OSError:  # a full backlog, a mode that keeps us out: somebody may be there
            pass
    raise StartError(f"socket {path} is in use: stop who listens there, or choose another [listener.unix] address")


def _take_lock(path: Path) -> int:
    lock = path.with_name(_LOCK.format(path.name))
    while True:
        try:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StartError(f"lock {lock}: {error.strerror}; uid {os.geteuid()} must be able to make it") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it between our opening and locking it: then take the new one.
            if _same(fd, lock):
                return fd
        except BlockingIOError:
            os.close(fd)
            raise StartError(
                f"socket {path} is in use: another agent holds {lock}; stop it, or choose another address"
            ) from None
        os.close(fd)


def _same(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except FileNotFoundError:
        return False


def _unlock(path: Path, fd: int) -> None:
    with contextlib.suppress(OSError):
        path.with_name(_LOCK.format(path.name)).unlink()
    os.close(fd)
