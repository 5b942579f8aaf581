"""What every command shares: exit codes, one-line errors, durations from the command line, text fit for a terminal."""

import sys

from agent.config.durations import parse_duration
from agent.errors import ConfigError, LeaseholdError

OK, FAILED, MISTAKE, CANNOT_START, NO_AGENT, REFUSED, LEFT_BEHIND = range(7)
EXPLAINED = """exit codes:
  0  done
  1  it did not work out: not ready or crashed, not there in time, a live check failed, not all was revoked
  2  a mistake in the arguments or the configuration
  3  the agent cannot start here (the text says what stands in the way)
  4  no agent, or no server, answers
  5  the agent refused: not allowed, no such role or lease, too soon, nothing to serve now
  6  ended in order, but something could not be revoked or removed (it is named)
"""


class Unknown(LeaseholdError):
    """The agent knows no such role or lease, or will not say."""


def shown(text: str) -> str:
    """`text` on one line with what a terminal would obey made visible: names and reasons come from elsewhere."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def say(line: str) -> None:
    """One line for people, on standard error."""
    print(f"leasehold: {shown(line)}", file=sys.stderr)


def duration(option: str, text: str) -> float:
    """The seconds that `text` stands for.

    Raises:
        ConfigError: naming the option.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError([f'{option} {text}: {error}; write for example "30s" or "5m"']) from error
