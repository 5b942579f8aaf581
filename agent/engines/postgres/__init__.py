"""The embedded PostgreSQL engine: mints users itself, with a journal in the database.

engine      issue, renew, revoke, list, sweep, ping
minting     how a user is made            ending   how it ends          users   the catalog statements of both
sweeping    ends what has expired         backlog  what could not be ended
journal     the table of leases           setup    its creation         heirs   who gets what a user owned
connections login errors                  the way to the server and back
recipe statements tokens names scram      pure
"""

from collections.abc import Mapping

from agent import log
from agent.clock import Clock
from agent.config.model import PostgreSQL, Role
from agent.engines.postgres.engine import PostgresEngine
from agent.engines.postgres.journal import Row
from agent.engines.postgres.names import name_mistake, prefix_mistake
from agent.engines.postgres.recipe import check_statements, recipe
from agent.engines.postgres.sweeping import Swept
from agent.errors import ConfigError
from agent.log import Event

_log = log.get(__name__)
_DIRECT = (
    "its statements grant privileges to each user: such users are made one at a time, and near 2,400 of them "
    "PostgreSQL makes no more; grant to a group instead, and set `group`"
)

__all__ = ["PostgresEngine", "Row", "Swept", "build", "check_statements"]


def build(
    name: str,
    config: PostgreSQL,
    roles: Mapping[str, Role],
    *,
    holder: str,
    incarnation: int,
    clock: Clock,
) -> PostgresEngine:
    """The engine of one configured server; it connects when first called.

    Args:
        name: of the upstream, "postgresql" or "postgresql.NAME".
        roles: the roles it mints for, by name.
        holder: the pod, as the journal names it.
        incarnation: this run of the agent for that holder; a later run has a greater number.

    Raises:
        ConfigError: names or statements that cannot be used, all of them.
    """
    mistakes = [f"{name}: {wrong}" for wrong in _name_mistakes(config)]
    for role_name, role in roles.items():
        mistakes += [f'role."{role_name}".{wrong}' for wrong in check_statements(role_name, role)]
    if mistakes:
        raise ConfigError(mistakes)
    recipes = {role_name: recipe(role_name, role) for role_name, role in roles.items()}
    for one in recipes.values():
        if one.grants:
            _log.warning(Event.CONFIG_WARNING, upstream=name, role=one.name, warning=_DIRECT)
    return PostgresEngine(name, config, recipes, holder=holder, incarnation=incarnation, clock=clock)


def _name_mistakes(config: PostgreSQL) -> list[str]:
    mistakes = [
        f"{key} {wrong}"
        for key, value in (("schema", config.schema), ("marker_group", config.marker_group), ("user", config.user))
        if (wrong := name_mistake(value))
    ]
    if wrong := prefix_mistake(config.username_prefix):
        mistakes.append(wrong)
    return mistakes
