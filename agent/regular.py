"""Reads files that may be anything: a regular one up to a bound, and nothing that would hold the reader up.

A mount of the pod may hold a directory, a pipe that nobody writes to, a device without end. Links are followed, since
the kubelet's files are links to links.
"""

import os
import stat


class NotAFile(OSError):
    """Something else is there; `strerror` says what, as "is a pipe, not a file"."""


def read(path: str, size: int) -> tuple[bytes, int]:
    """The first `size` bytes of the file, and its permission bits. Blocks where its file system does not answer.

    Raises:
        NotAFile: it is none.
        OSError: it cannot be read.
        ValueError: a zero byte in the path.
    """
    # Without O_NONBLOCK a pipe in the file's place would hold the thread until somebody opens its other end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NotAFile(0, f"is {_kind(found.st_mode)}, not a file")
        return _up_to(descriptor, size), stat.S_IMODE(found.st_mode)
    finally:
        os.close(descriptor)


def _up_to(descriptor: int, size: int) -> bytes:
    parts, left = [], size
    while left and (part := os.read(descriptor, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a directory"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"
