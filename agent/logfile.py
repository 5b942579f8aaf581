"""A file of lines that only grows, and is renamed when it has grown enough. The agent's alone; all of it blocks.

A reader finds whole lines only: what could not be written to its end is taken back. Whoever renames or removes the file
from outside (logrotate) gets a new one at the next line.
"""

import contextlib
import fcntl
import os
import stat
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from agent import atomicfile
from agent.errors import StartError

_MODE = 0o600
_FLAGS = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class LogFile:
    """One such file.

    Args:
        path: absolute.
        max_size: bytes; a line that would make the file longer begins a new one.
        keep: files that are kept beside it: `path`.1 is the newest.
    """

    def __init__(self, path: Path, *, max_size: int, keep: int) -> None:
        self._path = path
        self._max_size = max_size
        self._keep = keep
        self._fd: int | None = None
        self._size = 0

    def __repr__(self) -> str:
        return f"LogFile({self._path}, size={self._size})"

    def open(self) -> None:
        """Take the file.

        Raises:
            StartError: another agent has it, or others could put something else in its place.
        """
        atomicfile.own_directory(self._path.parent, allow_sticky_leaf=True)
        try:
            self._take()
        except BlockingIOError as error:
            raise StartError(f"{self._path} is in use by another agent: give each its own") from error
        except OSError as error:
            raise StartError(f"{self._path} cannot be written ({error.strerror}): mend it or choose another") from error

    def append(self, lines: Sequence[bytes]) -> int:
        """Write the first of these lines, as many as the file has room for, in a new file where it has none.

        Returns:
            How many were written: at least one.

        Raises:
            OSError: none was.
        """
        if self._fd is not None and self._moved(self._fd):
            self.close()
        if self._fd is None:
            self._take()
        if self._size and self._size + len(lines[0]) > self._max_size:
            self._rename()
        ends = accumulate(map(len, lines), initial=self._size)
        count = max(1, sum(1 for end in ends if end <= self._max_size) - 1)
        self._write(b"".join(lines[:count]))
        return count

    def close(self) -> None:
        """Let go of it."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            os.close(fd)

    def _take(self) -> None:
        fd = os.open(self._path, _FLAGS, _MODE)
        try:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                raise PermissionError(0, "it is not a plain file of the agent's own")
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(fd, _MODE)
        except BaseException:
            os.close(fd)
            raise
        self._fd, self._size = fd, found.st_size

    def _moved(self, fd: int) -> bool:
        """Whether the path names another file by now, or none."""
        try:
            there, ours = os.stat(self._path, follow_symlinks=False), os.fstat(fd)
        except FileNotFoundError:
            return True
        self._size = ours.st_size  # somebody may have emptied it
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)

    def _write(self, data: bytes) -> None:
        if self._fd is None:
            return
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._size)
            raise
        self._size += len(data)
        with contextlib.suppress(OSError):  # what keeps no bytes through a power cut does not have to
            os.fdatasync(self._fd)

    def _rename(self) -> None:
        self.close()
        for number in range(self._keep - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._kept(number).replace(self._kept(number + 1))
        self._path.replace(self._kept(1))
        self._take()

    def _kept(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")
