"""One destination on disk: who owns it, where it lies, and that it ends with the agent. All of it blocks."""

import errno
import grp
import os
import pwd
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent import atomicfile
from agent.config.model import Template
from agent.config.upstreams import TokenSinkConfig
from agent.errors import RenderError, StartError

_REMEDIES = {
    errno.ENOSPC: "enlarge the volume",
    errno.EMFILE: "raise the agent's limit of open files (ulimit -n)",
    errno.EROFS: "mount the volume writable for the agent",
    errno.EISDIR: "remove the directory that stands in its place",
    errno.EPERM: "run the agent as that user, or grant it CAP_CHOWN and CAP_FOWNER",
}


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a file lies and whose it is; see the classes of the configuration for each field."""

    path: str
    mode: int
    user: str | None = None
    group: str | None = None
    allow_disk: bool = False

    @classmethod
    def of_template(cls, template: Template) -> "Place":
        """A [[template]]'s."""
        return cls(
            path=template.destination,
            mode=template.perms,
            user=template.user,
            group=template.group,
            allow_disk=template.allow_disk,
        )

    @classmethod
    def of_token(cls, sink: TokenSinkConfig) -> "Place":
        """An [[auto_auth.sink]]'s."""
        return cls(path=sink.path, mode=sink.mode, user=sink.user, group=sink.group, allow_disk=sink.allow_disk)


class Sink:
    """Where one file's bytes go."""

    def __init__(self, place: Place) -> None:
        self.path = Path(place.path)
        self._place = place
        self._uid: int | None = None
        self._gid: int | None = None
        self._closed = False
        # A writing thread outlives its cancelled task; `close` waits for it, so that nothing comes after it.
        self._writing = threading.Lock()

    def prepare(self) -> list[str]:
        """Look owners up, make and judge the directory, clear what a killed run left; returns every mistake."""
        mistakes: list[str] = []
        self._uid = _number(mistakes, "user", self._place.user, lambda name: pwd.getpwnam(name).pw_uid)
        self._gid = _number(mistakes, "group", self._place.group, lambda name: grp.getgrnam(name).gr_gid)
        if not self._on_memory():
            mistakes.append(
                "does not lie on a memory file system: mount a tmpfs there (in Kubernetes an emptyDir with "
                "medium: Memory), or set allow_disk = true to accept secrets on disk"
            )
        return mistakes or self._prepare_directory()

    def _on_memory(self) -> bool:
        return self._place.allow_disk or atomicfile.on_memory(self.path)

    def _own_directory(self) -> None:
        atomicfile.own_directory(self.path.parent, gid=self._gid, allow_sticky_leaf=True)

    def _prepare_directory(self) -> list[str]:
        directory = self.path.parent
        try:
            self._own_directory()
            atomicfile.clear_stale_temps(directory, uids=[] if self._uid is None else [self._uid])
            atomicfile.check_writable(directory, mode=self._place.mode, uid=self._uid, gid=self._gid)
        except StartError as error:
            return [str(error)]
        except OSError as error:
            return [_said(error)]
        return self._in_its_place()

    def _in_its_place(self) -> list[str]:
        """What stands where the file goes and cannot be replaced: in a directory such as /tmp, others can plant it."""
        try:
            found = self.path.lstat()
        except OSError:
            return []
        if stat.S_ISDIR(found.st_mode):
            return ["is a directory: remove it, or choose another path"]
        me = os.geteuid()
        parent = self.path.parent.stat()
        if me != 0 and parent.st_mode & stat.S_ISVTX and me not in (found.st_uid, parent.st_uid):
            return [f"belongs to uid {found.st_uid}, and its directory lets nobody else replace it: remove it"]
        return []

    def write(self, data: bytes) -> bool:
        """Make the file hold `data`; True if bytes were written, False if it held them, or the sink is closed.

        The place is judged anew each time: it may have been swapped, opened to others or unmounted since the start. A
        directory that has gone is made again.

        Raises:
            RenderError: the system refuses, or the place is no longer fit for secrets; the old file stays.
        """
        with self._writing:
            if self._closed:
                return False
            try:
                self._own_directory()
                if not self._on_memory():
                    raise RenderError("cannot be written: its memory file system is gone: mount it again")
                return atomicfile.write(self.path, data, mode=self._place.mode, uid=self._uid, gid=self._gid)
            except StartError as error:
                raise RenderError(f"cannot be written: {error}") from error
            except OSError as error:
                planted = "; ".join(self._in_its_place())
                raise RenderError(f"cannot be written: {planted or _said(error)}") from error

    def remove(self) -> bool:
        """Remove the file; False if there was none.

        Raises:
            RenderError: the system refuses.
        """
        with self._writing:
            try:
                return atomicfile.remove(self.path)
            except OSError as error:
                raise RenderError(f"cannot be removed: {_said(error)}") from error

    def close(self) -> bool:
        """Remove the file for good: nothing is written any more."""
        self._closed = True
        return self.remove()


def _said(error: OSError) -> str:
    text = error.strerror or type(error).__name__
    remedy = _REMEDIES.get(error.errno or 0)
    return f"{text}: {remedy}" if remedy else text


def _number(mistakes: list[str], key: str, name: str | None, look_up: Callable[[str], int]) -> int | None:
    """The uid or gid that `name` stands for."""
    if name is None:
        return None
    if name.isascii() and name.isdigit():
        return int(name)
    try:
        return look_up(name)
    except KeyError:
        mistakes.append(f'{key} = "{name}" does not exist here: use its number')
        return None
