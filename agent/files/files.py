"""The door of this room: the credential files as a whole, made ready together, kept apart, removed together."""

import asyncio
from collections.abc import Mapping, Sequence

from agent.clock import Clock
from agent.config import model
from agent.errors import ConfigError, StartError
from agent.files.keeper import FileState, Keeper, RunBlocking
from agent.files.template import check_template
from agent.leases.cache import LeaseCache

__all__ = ["Files", "FileState", "check_template"]


class Files:
    """Every [[template]] of the configuration.

    `prepare`, then `run` in a task; at the end cancel that task, then `remove`.
    """

    def __init__(
        self,
        templates: Sequence[model.Template],
        config: model.TemplateConfig,
        roles: Mapping[str, model.Role],
        cache: LeaseCache,
        clock: Clock,
        *,
        run_blocking: RunBlocking = asyncio.to_thread,
    ) -> None:
        self._run_blocking = run_blocking
        self._keepers = [Keeper(template, config, roles, cache, clock, run_blocking) for template in templates]

    def __repr__(self) -> str:
        return f"Files({', '.join(map(repr, self._keepers))})"

    async def prepare(self) -> None:
        """Compile every template and make its place ready.

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
        """Return once each file of required, eager roles has been written in this run."""
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
        """Each file's path, how often it was rendered, and how often that failed."""
        return [(keeper.state.path, keeper.rendered, keeper.failed) for keeper in self._keepers]

    async def remove(self) -> list[str]:
        """Remove all files, those of an earlier run included, and write none any more.

        Returns:
            What could not be removed, a line each with the reason.
        """
        return [left for keeper in self._keepers if (left := await keeper.close())]
