"""What every command shares: exit codes, one-line errors, durations from the command line."""

import sys

from agent.config.durations import parse_duration
from agent.errors import ConfigError, LeaseholdError

OK, FAILED, MISTAKE, CANNOT_START, NO_AGENT, REFUSED, LEFT_BEHIND = range(7)
EXPLAINED = """exit codes:
  0  done
  1  it did not work out: the agent is not ready or crashed, no new credential came in time, a live check failed
  2  a mistake in the arguments or the configuration
  3  the agent cannot start here (the text says what stands in the way)
  4  no agent answers on the socket
  5  the agent refused: not allowed, no such role, too soon, nothing to serve now
  6  ended in order, but something could not be revoked or removed (it is named)
"""


class Unknown(LeaseholdError):
    """The agent knows no such role, or will not say."""


def say(line: str) -> None:
    """One line for people, on standard error."""
    print(f"leasehold: {line}", file=sys.stderr)


def duration(option: str, text: str) -> float:
    """The seconds that `text` stands for.

    Raises:
        ConfigError: naming the option.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError([f'{option} {text}: {error}; write for example "30s" or "5m"']) from error
