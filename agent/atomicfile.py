"""The only way a file is written, and the only judge of a directory, for every room.

A reader sees the old file or the new one, whole, with the right owner and mode from its first instant. Nothing here
follows a symbolic link that anybody but root could have planted. All of it blocks: call it off the event loop.

`write`, `remove` and `check_writable` raise OSError, which names what the system refused and never holds content; the
caller says which file and what to do about it.
"""

import contextlib
import fcntl
import os
import re
import secrets
import stat
from collections import deque
from collections.abc import Collection, Iterator
from pathlib import Path

from agent.errors import StartError
from agent.failpoints import Failpoint, reach

_TEMP = re.compile(r"\.leasehold-[0-9a-f]{16}\.tmp")
_MAX_LINKS = 16
_MEMORY = {"tmpfs", "ramfs"}


# -- directories ----------------------------------------------------------------------------------------------------


def own_directory(
    path: Path,
    *,
    mode: int = 0o750,
    gid: int | None = None,
    allow_sticky_leaf: bool = False,
) -> None:
    """Make sure that nobody but the agent and root can put anything else in the place of `path` or of what is in it.

    Missing directories are made, each with `mode` (a setgid bit inherited from above is kept) and `gid`. One that
    exists keeps its mode and owner, if they will do: a real directory, the agent's or root's, not writable by others.
    A sticky one, such as /tmp or a Kubernetes emptyDir, will do on the way; symbolic links do where only root could
    have made them (/var/run).

    Args:
        path: absolute.
        gid: group of the directories that are made; None leaves it to the system.
        allow_sticky_leaf: `path` itself may be a sticky directory that others can write: enough for a file, whose name
            nobody else can then take away, but not for a socket.

    Raises:
        StartError: names the directory and the remedy.
    """
    if not path.is_absolute():
        raise StartError(f"directory {path} is not an absolute path: write it from / on")
    at = Path("/")
    todo = deque(path.parts[1:])
    links = 0
    while todo:
        name = todo.popleft()
        if name == "..":
            at = at.parent
            continue
        here = at / name
        found = _look_or_make(here, mode, gid)
        if stat.S_ISLNK(found.st_mode):
            links += 1
            target = _read_link(here, found, links)
            at = Path("/") if target.is_absolute() else at
            todo.extendleft(reversed([part for part in target.parts if part != "/"]))
        else:
            _judge(here, found, sticky_will_do=bool(todo) or allow_sticky_leaf)
            at = here


def _look_or_make(path: Path, mode: int, gid: int | None) -> os.stat_result:
    try:
        with contextlib.suppress(FileNotFoundError):
            return path.lstat()
        _make(path, mode, gid)
        return path.lstat()
    except OSError as error:
        raise StartError(
            f"directory {path}: {error.strerror}; make it and give it to uid {os.geteuid()}, or choose another place"
        ) from error


def _make(path: Path, mode: int, gid: int | None) -> None:
    # Closed at first, then opened: no instant at which it is wider than asked for.
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
        try:
            if gid is not None:
                os.chown(path, -1, gid)
            inherited = path.lstat().st_mode & stat.S_ISGID
            path.chmod(mode | inherited)
        except OSError:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise


def _read_link(path: Path, found: os.stat_result, links: int) -> Path:
    parent = path.parent.lstat()
    if links > _MAX_LINKS:
        raise StartError(f"directory {path}: too many symbolic links; use the real path")
    if found.st_uid != 0 or parent.st_uid != 0 or parent.st_mode & 0o022:
        raise StartError(f"directory {path} is a symbolic link that others could change; use the real path")
    return path.readlink()


def _judge(path: Path, found: os.stat_result, *, sticky_will_do: bool) -> None:
    me = os.geteuid()
    if not stat.S_ISDIR(found.st_mode):
        raise StartError(f"{path} is not a directory; remove it, or choose another place")
    if found.st_uid not in (0, me):
        raise StartError(
            f"directory {path} belongs to uid {found.st_uid}, who could swap what is in it; give it to the agent "
            f"(chown {me} {path}) or choose another place"
        )
    sticky = bool(found.st_mode & stat.S_ISVTX)
    if found.st_mode & 0o022 and not (sticky and sticky_will_do):
        remedy = (
            f"use a directory of the agent's own in it, such as {path}/leasehold" if sticky else f"chmod go-w {path}"
        )
        raise StartError(
            f"directory {path} can be written by others (mode {stat.S_IMODE(found.st_mode):04o}); {remedy}"
        )


def on_memory(path: Path) -> bool:
    """Whether `path`, or the nearest directory above it that exists, lies on a memory file system (tmpfs, ramfs).

    Told by the mount table, as Linux keeps it; elsewhere (macOS has no tmpfs) the answer is False.
    """
    while not path.exists() and path != path.parent:
        path = path.parent
    try:
        device = path.stat().st_dev
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    return any(kind in _MEMORY for number, kind in _mounts(table) if number == wanted)


def _mounts(table: str) -> Iterator[tuple[str, str]]:
    """Device number and kind of each mount: `36 35 98:0 /root /at opts [fields…] - kind source opts`."""
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        if after:
            yield before.split(" ")[2], after.split(" ")[0]


# -- files ----------------------------------------------------------------------------------------------------------


def write(path: Path, data: bytes, *, mode: int, uid: int | None = None, gid: int | None = None) -> bool:
    """Make `path` a regular file holding `data`; True if bytes were written, False if it held them already.

    Owner and mode are set before the first byte, and repaired where the bytes are equal. A symbolic link in its place
    is replaced, never followed. Whatever fails, the old file stays and nothing of the new one does.

    Args:
        uid, gid: owner; None leaves it to the system.

    Raises:
        OSError: nothing was changed.
    """
    if _holds(path, data, mode, uid, gid):
        return False
    temp = _new_temp(path.parent)
    fd = _open_temp(temp, mode, uid, gid)
    with _cleared_on_failure(temp):
        _fill(fd, data)
        temp.replace(path)
    reach(Failpoint.FILE_WRITTEN)
    _sync(path.parent)
    return True


def check_writable(directory: Path, *, mode: int, uid: int | None = None, gid: int | None = None) -> None:
    """Return if a file with this owner and mode can be made in `directory`.

    Raises:
        OSError: read-only, not permitted, full.
    """
    temp = _new_temp(directory)
    os.close(_open_temp(temp, mode, uid, gid))
    temp.unlink()


def remove(path: Path) -> bool:
    """Remove a file; False if there was none.

    Raises:
        OSError: it is a directory, or the system refuses.
    """
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _sync(path.parent)
    return True


def clear_stale_temps(directory: Path, *, uids: Collection[int] = ()) -> int:
    """Remove what a killed run left half-written in `directory`, and return how many.

    Only files with our kind of name, of the agent's uid or one of `uids`, that nobody is writing at the moment.
    """
    owners = {os.geteuid(), *uids}
    removed = 0
    with contextlib.suppress(OSError):
        for temp in [entry for entry in directory.iterdir() if _TEMP.fullmatch(entry.name)]:
            with contextlib.suppress(OSError):
                found = temp.lstat()
                if stat.S_ISREG(found.st_mode) and found.st_uid in owners and not _being_written(temp):
                    temp.unlink()
                    removed += 1
    return removed


def _new_temp(directory: Path) -> Path:
    return directory / f".leasehold-{secrets.token_hex(8)}.tmp"


def _open_temp(temp: Path, mode: int, uid: int | None, gid: int | None) -> int:
    fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with _cleared_on_failure(temp, fd):
        # Held until it is closed, or its writer dies: another agent's start then leaves it alone.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _own(fd, uid, gid)
        os.fchmod(fd, mode)
    return fd


def _fill(fd: int, data: bytes) -> None:
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(fd, left) :]
        reach(Failpoint.FILE_STAGED)
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _cleared_on_failure(temp: Path, fd: int | None = None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if fd is not None:
            os.close(fd)
        with contextlib.suppress(OSError):
            temp.unlink()
        raise


def _own(fd: int, uid: int | None, gid: int | None) -> None:
    if uid is not None or gid is not None:
        os.fchown(fd, -1 if uid is None else uid, -1 if gid is None else gid)


def _holds(path: Path, data: bytes, mode: int, uid: int | None, gid: int | None) -> bool:
    """Whether `path` is a file of ours with these bytes; its owner and mode are then made right."""
    try:
        # O_NONBLOCK: a FIFO in its place must not hold us up.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(fd)
        # Somebody else's file, or one with a second name, may be open for writing elsewhere: replace it.
        ours = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid in (os.geteuid(), uid)
        if not ours or found.st_size != len(data) or _read(fd, len(data) + 1) != data:
            return False
        if uid not in (None, found.st_uid) or gid not in (None, found.st_gid):
            _own(fd, uid, gid)
        if stat.S_IMODE(found.st_mode) != mode:
            os.fchmod(fd, mode)
    except OSError:
        return False  # what cannot be repaired is replaced
    else:
        return True
    finally:
        os.close(fd)


def _read(fd: int, limit: int) -> bytes:
    content = b""
    while len(content) < limit and (piece := os.read(fd, limit - len(content))):
        content += piece
    return content


def _being_written(temp: Path) -> bool:
    try:
        fd = os.open(temp, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    else:
        return False
    finally:
        os.close(fd)


def _sync(directory: Path) -> None:
    """Make a rename last, where the file system can; on memory there is nothing to last."""
    with contextlib.suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
