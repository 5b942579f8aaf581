"""The files of one identity: read together at every proof, and watched together in between."""

import asyncio
import contextlib
import threading
from collections.abc import Mapping, Sequence

from agent import log
from agent.clock import Clock
from agent.errors import NoIdentity, Unavailable, UpstreamError
from agent.identity.files import Reading, Source, read
from agent.identity.watch import Place, Stir, places
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

_DEADLINE = 5.0
_LOOKS_AT_ONCE = 4
_SETTLE = 0.5
_SETTLES = 10

_Marks = Mapping[str, str]


class Files:
    """Some files; see `agent.identity.proof.Identity` for what `changed` promises."""

    def __init__(self, sources: Sequence[Source], clock: Clock) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._seen: _Marks | None = None
        self._told: set[str] = set()
        self._free = threading.Semaphore(_LOOKS_AT_ONCE)

    async def read(self) -> tuple[Reading, ...]:
        """What the files hold now, in the order of the sources.

        Raises:
            NoIdentity: their file system does not answer.
            Unavailable: no thread is to be had to read them in.
        """
        readings, _ = await self._look()
        self._seen = _marks(readings)
        for reading in readings:
            self._warn(reading)
        return readings

    def removed(self, source: Source, now: Reading) -> None:
        """We have removed a file ourselves: that is no change to tell; `now` is what stands in its place."""
        self._seen = {**(self._seen or {}), source.path: now.mark}

    async def changed(self) -> None:
        """Return once contents differ from those read last, or told last; never where there are no files."""
        if not self._sources:
            await asyncio.get_running_loop().create_future()
        stir = Stir(self._clock)
        try:
            directories = frozenset[Place]()
            while True:
                with contextlib.suppress(UpstreamError):  # the next proof tells it; nothing is known to have changed
                    readings, directories = await self._look()
                    if await self._settled(_marks(readings)):
                        return
                await stir.wait(directories)
        finally:
            stir.close()

    async def _settled(self, marks: _Marks) -> bool:
        """Whether the contents have changed, and stay so for a moment: a rewrite in place passes through emptiness."""
        if self._seen is None:
            self._seen = marks
        for _ in range(_SETTLES):
            if marks == self._seen:
                return False
            await self._clock.sleep(_SETTLE)
            before, marks = marks, _marks((await self._look())[0])
            if before == marks:
                break
        if marks == self._seen:  # a proof has read it meanwhile
            return False
        self._seen = marks
        return True

    async def _look(self) -> tuple[tuple[Reading, ...], frozenset[Place]]:
        """Every file's contents, and the directories in which a change would show."""

        def look() -> tuple[tuple[Reading, ...], frozenset[Place]]:
            try:
                return tuple(map(read, self._sources)), places([source.path for source in self._sources])
            finally:
                self._free.release()

        names = " and ".join(source.path for source in self._sources)
        hangs = NoIdentity(f"{names} cannot be read: the file system does not answer; look at the mount")
        if not self._free.acquire(blocking=False):  # threads that hang are not to pile up until none is left
            raise hangs
        try:
            async with self._clock.timeout(_DEADLINE):
                return await in_daemon_thread(look)
        except TimeoutError as error:
            raise hangs from error
        except OSError as error:
            self._free.release()
            raise Unavailable(f"{names} cannot be read: {error.strerror}") from error

    def _warn(self, reading: Reading) -> None:
        """Say once that others can read a secret; kubelets write tokens so, hence no refusal."""
        path = reading.source.path
        if reading.exposed is None or path in self._told:
            return
        self._told.add(path)
        what = f"{reading.source.what} is readable by everybody that the volume is mounted for; mount it here only"
        _log.warning(Event.IDENTITY, path=path, mode=f"{reading.exposed:04o}", warning=what)


class FromFiles:
    """What identities that read files have in common."""

    binding = False

    def __init__(self, files: Files) -> None:
        self._files = files

    async def accepted(self) -> None:
        """Nothing here is used only once."""

    async def changed(self) -> None:
        """Return when a file has changed since it was read last; each change is told once."""
        await self._files.changed()


def _marks(readings: Sequence[Reading]) -> _Marks:
    return {reading.source.path: reading.mark for reading in readings}
