"""Notices that files of an identity have changed, wherever the change came from.

watchfiles tells that something stirs in a directory; only contents count, compared by digest, so that a neighbour's
file wakes nobody. Directories are watched and not files, because the kubelet swaps a link beside them. Where inotify is
not to be had (a directory that does not exist yet, the user's limit, a network file system) a look every 10 s takes its
place, and it goes on beside inotify too, for links that lead through a third directory.
"""

import asyncio
import contextlib
import os
import threading
from collections.abc import Sequence

from agent.clock import Clock, wait_for

POLL = 10.0
"""Seconds between looks while nothing stirs."""

SOON = 1.0
"""Seconds until the first look: what changed while the watch was being set up told nobody."""

_GROUP_MS, _STEP_MS = 1000, 200
"""Changes within a second are one; and the longest that a watch that nobody wants goes on."""


Place = tuple[str, int, int]
"""A directory's path, device and inode: one that was made anew under its name is another."""


def places(paths: Sequence[str]) -> frozenset[Place]:
    """The directories in which a change of these files may show, as far as there are any: the file's, and that of what
    it links to. Blocks.
    """
    found = set()
    for directory in {os.path.dirname(place) for path in paths for place in (path, os.path.realpath(path))}:
        with contextlib.suppress(OSError):
            status = os.stat(directory)
            found.add((directory, status.st_dev, status.st_ino))
    return frozenset(found)


class Stir:
    """Tells when something stirs in some directories; the thread that listens belongs to it until `close`."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watch: _Watch | None = None

    async def wait(self, directories: frozenset[Place]) -> None:
        """Return when something stirs there, or when it is time to look anyway."""
        pause = POLL
        if self._watch is None or self._watch.ended or self._watch.directories != directories:
            anew = self._watch is None or not self._watch.ended
            self.close()
            self._watch = _Watch(directories)
            pause = SOON if anew else POLL  # what could not be watched is not tried every second
        await wait_for(self._clock, self._watch.stirred, pause)
        self._watch.stirred.clear()

    def close(self) -> None:
        """Listen no more; the thread ends within a fraction of a second, and nobody waits for it."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None


class _Watch:
    """One thread of watchfiles.

    Attributes:
        stirred: set, in the loop, when something has changed.
        ended: it listens no more, or never could.
    """

    def __init__(self, directories: frozenset[Place]) -> None:
        self.directories = directories
        self.stirred = asyncio.Event()
        self.ended = False
        self._stop = threading.Event()
        self._loop = asyncio.get_running_loop()
        try:
            threading.Thread(target=self._listen, name="identity watch", daemon=True).start()
        except RuntimeError:  # no thread to be had: looks every 10 s must do
            self.ended = True

    def close(self) -> None:
        self._stop.set()

    def _listen(self) -> None:
        try:
            self._tell_changes()
        except (OSError, RuntimeError):
            # No such directory, no right to it, no inotify left (ENOSPC, EMFILE); or watchfiles' own word for a
            # failure within (a RuntimeError); or the loop has closed.
            return
        finally:
            self.ended = True

    def _tell_changes(self) -> None:
        from watchfiles import watch  # only those who have files to watch pay for it, and not in the loop

        # Every argument that the environment would decide (WATCHFILES_…) is given.
        for _ in watch(
            *(path for path, *_ in self.directories),
            watch_filter=None,
            debounce=_GROUP_MS,
            step=_STEP_MS,
            stop_event=self._stop,
            rust_timeout=0,
            debug=False,
            raise_interrupt=False,
            force_polling=False,
            recursive=False,
            ignore_permission_denied=False,
        ):
            self._loop.call_soon_threadsafe(self.stirred.set)
