"""The embedded PostgreSQL engine: mints users itself, with a journal in the database.

engine      issue, renew, revoke, list, sweep, ping
minting     how a user is made            ending   how it ends          users   the catalog statements of both
sweeping    ends what has expired         backlog  what could not be ended
journal     the table of leases           setup    its creation         heirs   who gets what a user owned
connections login errors                  the way to the server and back
recipe statements tokens names scram      pure          lint     what they should not do
rights      looks a server over, for `leasehold check`
"""

from collections.abc import Mapping

from agent import log
from agent.clock import Clock
from agent.config.model import PostgreSQL, Role
from agent.engines.postgres.engine import PostgresEngine
from agent.engines.postgres.journal import Row
from agent.engines.postgres.lint import DIRECT, lint
from agent.engines.postgres.names import name_mistake, prefix_mistake
from agent.engines.postgres.recipe import check_statements, recipe
from agent.engines.postgres.sweeping import Swept
from agent.errors import ConfigError
from agent.log import Event

_log = log.get(__name__)
__all__ = ["PostgresEngine", "Row", "Swept", "build", "check_statements", "lint_role"]


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
            _log.warning(Event.CONFIG_WARNING, upstream=name, role=one.name, warning=DIRECT)
    return PostgresEngine(name, config, recipes, holder=holder, incarnation=incarnation, clock=clock)


def lint_role(name: str, role: Role) -> list[str]:
    """What is worth a second look in the SQL of a role without mistakes, one line each, beginning with the key."""
    return lint(role, recipe(name, role).creation)


def _name_mistakes(config: PostgreSQL) -> list[str]:
    mistakes = [
        f"{key} {wrong}"
        for key, value in (("schema", config.schema), ("marker_group", config.marker_group), ("user", config.user))
        if (wrong := name_mistake(value))
    ]
    if wrong := prefix_mistake(config.username_prefix):
        mistakes.append(wrong)
    return mistakes
