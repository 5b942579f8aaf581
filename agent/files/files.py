"""The door of this room: the files for apps as a whole."""

import asyncio
from collections.abc import Mapping, Sequence

from agent.clock import Clock
from agent.config import model
from agent.files.keeper import FileState, Keeper, RunBlocking
from agent.files.rendered import Rendered
from agent.files.sink import Place
from agent.files.template import check_template
from agent.files.together import Together
from agent.leases.cache import LeaseCache

__all__ = ["Files", "FileState", "check_template"]


class Files(Together):
    """Every [[template]] of the configuration."""

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
        contents = [(template, Rendered(template, config, roles, run_blocking)) for template in templates]
        super().__init__(
            [
                Keeper(
                    *(content, Place.of_template(template), cache, clock, run_blocking),
                    gating=content.gating,
                )
                for template, content in contents
            ],
            run_blocking,
        )
