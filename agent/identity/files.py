"""Reads the files that prove who the pod is: afresh each time, with suspicion, and never a secret in an error's text.

A mount of the pod may hold anything: nothing at all yet, a directory, a pipe that nobody writes to, a gigabyte. Links
are followed, since the kubelet's files are links to links (`token -> ..data/token`, `..data -> ..2026_01_01…`).
"""

import hashlib
import re
import stat
from dataclasses import dataclass, field

from agent import regular
from agent.errors import NoIdentity
from agent.leases.lease import Secret

LARGEST_TOKEN = 64 << 10
"""Bytes of one token: a projected one has about 1 KiB, and no server takes a header or body field beyond this."""

LARGEST_PEM = 256 << 10
"""Bytes of a certificate with its chain, or of a key."""

_BARE = re.compile(r"[!-~]+", re.ASCII)
_NOT_THERE = "is not there"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file that a proof is made from.

    Attributes:
        path: its place.
        what: what it holds, for people: "the service account token".
        remedy: what to do where there is none.
        largest: bytes that are read at most.
        lines: whether it has several (PEM); otherwise blanks around the text are dropped and none may be within.
        public: whether everybody may know it; a warning is due where others can read what is not.
    """

    path: str
    what: str
    remedy: str
    largest: int = LARGEST_TOKEN
    lines: bool = False
    public: bool = False


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What was found in a source.

    Attributes:
        text: the contents; "" where there is a problem.
        mark: differs where contents, or problems, differ.
        problem: why it is of no use, "" where it is.
        exposed: the permission bits, where others than owner and group may read what they should not; else None.
    """

    source: Source
    mark: str = field(repr=False)
    text: Secret = field(default=Secret(""), repr=False)
    problem: str = ""
    exposed: int | None = None

    @property
    def missing(self) -> bool:
        """Whether there is no such file."""
        return self.problem == _NOT_THERE

    def secret(self) -> Secret:
        """The contents.

        Raises:
            NoIdentity: there are none of use; the text names file, reason and remedy.
        """
        if self.problem:
            raise refusal(self.source, self.problem)
        return self.text


def refusal(source: Source, problem: str) -> NoIdentity:
    """The error that names a file, what is wrong with it and what to do."""
    return NoIdentity(f"{source.what} {source.path} {problem}; {source.remedy}")


def read(source: Source) -> Reading:
    """What is in the file now. Blocks; never raises for what it finds."""
    try:
        return _opened(source)
    except FileNotFoundError:
        return _of_no_use(source, _NOT_THERE)
    except regular.NotAFile as error:
        return _of_no_use(source, str(error.strerror))
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        return _of_no_use(source, f"cannot be read ({getattr(error, 'strerror', None) or 'no such path'})")


def _opened(source: Source) -> Reading:
    data, mode = regular.read(source.path, source.largest + 1)
    return _judged(source, data, mode)


def _judged(source: Source, data: bytes, mode: int) -> Reading:
    mark = hashlib.sha256(data).hexdigest()
    text = data.decode("utf-8", "replace").strip()
    if len(data) > source.largest:
        problem = f"is larger than {source.largest >> 10} KiB"
    elif not text:
        problem = "is empty"
    elif not source.lines and not _BARE.fullmatch(text):
        problem = "holds blanks, control characters or other than ASCII within"
    else:
        exposed = mode if mode & stat.S_IROTH and not source.public else None
        return Reading(source=source, mark=mark, text=Secret(text), exposed=exposed)
    return Reading(source=source, mark=mark, problem=problem)


def _of_no_use(source: Source, problem: str) -> Reading:
    return Reading(source=source, mark=problem, problem=problem)
