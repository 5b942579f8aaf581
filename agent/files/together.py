"""Several files kept side by side: made ready together, each in a task of its own, removed together."""

import asyncio
from collections.abc import Sequence

from agent.errors import ConfigError, StartError
from agent.files.keeper import FileState, Keeper, RunBlocking


class Together:
    """`prepare`, then `run` in a task; at the end cancel that task, then `remove`."""

    def __init__(self, keepers: Sequence[Keeper], run_blocking: RunBlocking) -> None:
        self._keepers = keepers
        self._run_blocking = run_blocking

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self._keepers))})"

    async def prepare(self) -> None:
        """Make every file's content and place ready.

        Raises:
            ConfigError: a template is wrong; with every mistake, those of the surroundings included.
            StartError: only the surroundings are: a directory, an owner, a file system; all in one line.
        """
        wrong: list[str] = []
        obstacles: list[str] = []
        for keeper in self._keepers:
            mistakes, surroundings = await self._run_blocking(keeper.prepare)
            wrong += mistakes
            obstacles += surroundings
        if wrong:
            raise ConfigError(wrong + obstacles)
        if obstacles:
            raise StartError("; ".join(obstacles))

    async def run(self) -> None:
        """Keep all files until cancelled."""
        async with asyncio.TaskGroup() as group:
            for keeper in self._keepers:
                group.create_task(keeper.run(), name=f"file {keeper.state.path}")

    async def written(self) -> None:
        """Return once each file that start waits for has been written in this run."""
        for keeper in self._keepers:
            if keeper.gating:
                await keeper.written.wait()

    @property
    def all_written(self) -> bool:
        """Whether `written` would return at once."""
        return all(keeper.written.is_set() for keeper in self._keepers if keeper.gating)

    def states(self) -> list[FileState]:
        """How each file is doing, in the configuration's order."""
        return [keeper.state for keeper in self._keepers]

    def counts(self) -> list[tuple[str, int, int]]:
        """Each file's path, how often it was made, and how often that failed."""
        return [(keeper.state.path, keeper.rendered, keeper.failed) for keeper in self._keepers]

    async def remove(self) -> list[str]:
        """Remove all files, those of an earlier run included, and write none any more.

        Returns:
            What could not be removed, a line each with the reason.
        """
        return [left for keeper in self._keepers if (left := await keeper.close())]
