"""Whether a configuration makes sense: what is refused, what is worth a word, and the numbers that follow from it.

Pure: no file is looked at and no server asked. SQL placeholders are the engine's to judge, templates' syntax the
renderer's.
"""

from agent.config.model import Config
from agent.config.places import Problem, dotted
from agent.config.rules import inputs, logins, outputs, roles, servers, vaults


def problems(config: Config, *, allow_short: bool = False) -> list[Problem]:
    """Every mistake with its place."""
    return [
        *outputs.mistakes(config),
        *inputs.mistakes(config),
        *servers.mistakes(config, short=allow_short),
        *vaults.mistakes(config, short=allow_short),
        *logins.mistakes(config),
        *roles.mistakes(config, short=allow_short),
    ]


def mistakes(config: Config, *, allow_short: bool = False) -> list[str]:
    """Why `config` cannot be used, one line each, beginning with its place in the file; empty when it can.

    Args:
        allow_short: accept leases of a few seconds, as tests and `leasehold dev` use them.
    """
    return [f"{dotted(place)}: {text}" for place, text in problems(config, allow_short=allow_short)]


def warnings(config: Config) -> list[str]:
    """What is accepted but may surprise, one line each, beginning with its place in the file."""
    rooms = (outputs, servers, vaults, logins, roles)
    found = [problem for room in rooms for problem in room.warnings(config)]
    return [f"{dotted(place)}: {text}" for place, text in found]


def advice(config: Config) -> list[str]:
    """One line per Vault: the way there; and per role: its numbers, and the rule that they set for connection pools."""
    return [f"{dotted(place)}: {text}" for room in (vaults, roles) for place, text in room.advice(config)]
