"""A file that a template or a ready-made format makes: what agent.files.keeper keeps for each [[template]]."""

from collections.abc import Callable, Mapping

from agent.config import model
from agent.errors import ConfigError, RenderError
from agent.files.credential import Credential
from agent.files.keeper import RunBlocking, Written
from agent.files.sink import Sink
from agent.files.template import Rendering, compiled
from agent.leases.cache import Snapshot


class Rendered:
    """See `agent.files.keeper.Content`."""

    name = "template"

    def __init__(
        self,
        template: model.Template,
        config: model.TemplateConfig,
        roles: Mapping[str, model.Role],
        run_blocking: RunBlocking,
    ) -> None:
        self.roles = template.roles
        self._template = template
        self._config = config
        self._roles = roles
        self._run_blocking = run_blocking
        self._render: Callable[[Mapping[str, Credential]], Rendering] | None = None

    @property
    def gating(self) -> bool:
        """Whether start waits for it: every role of it is required, and obtained without being asked for."""
        return all(self._roles[role].required and not self._roles[role].lazy for role in self.roles)

    def prepare(self) -> list[str]:
        """Compile the template."""
        try:
            self._render = compiled(self._template, self._roles, self._config)
        except ConfigError as error:
            return list(error.mistakes)
        return []

    async def write(self, sink: Sink, snapshots: Mapping[str, Snapshot], now: float) -> Written:
        """See Content."""
        return await self._run_blocking(lambda: self._write(sink, snapshots, now))

    def _write(self, sink: Sink, snapshots: Mapping[str, Snapshot], now: float) -> Written:
        if self._render is None:
            raise RenderError("not prepared")
        credentials = {role: Credential(snapshot, self._roles[role], now) for role, snapshot in snapshots.items()}
        rendering = self._render(credentials)
        changed = sink.write(rendering.data)
        return Written(changed=changed, shows_life=rendering.shows_life, look_in=self._config.render_interval)
