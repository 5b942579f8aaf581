"""One value of the file into one value of a field, or a refusal that says what to write.

Nothing is converted silently: the string "5" is no number, a string is no array. A refusal repeats a value only where
its shape shows that it is no secret: a number, a mode, a duration in words; and never one from the environment.
"""

import re
from collections.abc import Sequence
from typing import Any, get_args

from agent.config.durations import parse_duration, spoken
from agent.config.environment import Expanded

_MAX_SHOWN = 40
_HUGE = 10**15
_UNIT = r"(?:ms|us|ns|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|weeks?|months?|y|years?)"
_TIMELIKE = re.compile(rf"[+-]?(?:[\d.,]+|(?:[\d.,]+\s*{_UNIT}\s*)+)", re.ASCII | re.IGNORECASE)
_DIGITS = re.compile(r"(?:0o)?[0-9]{1,12}", re.ASCII)
_OCTAL = re.compile(r"(?:0o)?[0-7]{3,6}", re.ASCII)


class Wrong(ValueError):
    """A value that the field cannot take; the text is fit to be shown after the field's path."""


def kind_of(value: Any) -> str:
    """What TOML calls `value`, with its article."""
    return next((name for kinds, name in _KINDS if isinstance(value, kinds)), "a date or time")


_KINDS: tuple[tuple[type, str], ...] = (
    (str, "a string"),
    (bool, "a boolean"),
    (int, "a whole number"),
    (float, "a number"),
    (list, "an array"),
    (dict, "a table"),
)


def number(value: float) -> str:
    """A number, short enough for a message."""
    if isinstance(value, int):
        return str(value) if abs(value) < _HUGE else "a huge number"
    return f"{value:.6g}"


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The member of `known` that `word` is most likely a misspelling of."""
    import difflib  # only a mistake needs it

    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=0.75)), None)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: str, shape: re.Pattern[str]) -> str:
    fit = len(value) <= _MAX_SHOWN and not isinstance(value, Expanded) and shape.fullmatch(value)
    return f'"{value}"' if fit else "the value"


def string(value: Any, _: Any) -> str:
    """A string."""
    if isinstance(value, str):
        return str(value)
    if _whole(value) and abs(value) < _HUGE:
        raise Wrong(f'must be a string; write "{value}"')
    raise Wrong(f"must be a string, not {kind_of(value)}")


def integer(value: Any, _: Any) -> int:
    """A whole number."""
    if not _whole(value):
        raise Wrong(f"must be a whole number, not {kind_of(value)}")
    return int(value)


def real(value: Any, _: Any) -> float:
    """A number, whole or not."""
    if isinstance(value, float) or (_whole(value) and abs(value) < _HUGE):
        return float(value)
    raise Wrong(f"must be a number, not {number(value) if _whole(value) else kind_of(value)}")


def boolean(value: Any, _: Any) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    raise Wrong(f"must be true or false, not {kind_of(value)}")


def choice(value: Any, literal: Any) -> Any:
    """One of a few words."""
    choices = [str(c) for c in get_args(literal)]
    if value in choices:
        return str(value)
    listed = ", ".join(f'"{c}"' for c in choices)
    text = f"must be one of {listed}" if len(choices) > 1 else f"must be {listed}"
    near = nearest(value.lower(), choices) if isinstance(value, str) else None
    raise Wrong(f'{text}; did you mean "{near}"?' if near else text)


def duration(value: Any, _: Any) -> float:
    """Seconds, from a string such as "1h30m"."""
    if isinstance(value, str):
        try:
            return parse_duration(str(value))
        except ValueError as error:
            raise Wrong(f"{_shown(value, _TIMELIKE)} is {error}; {_remedy(value)}") from None
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _HUGE:
        raise Wrong(f'{number(value)} has no unit; write "{number(value)}s" if it means seconds')
    raise Wrong(f'must be a duration such as "5m", not {kind_of(value)}')


def _remedy(value: str) -> str:
    meant = None if isinstance(value, Expanded) else spoken(value)
    try:
        parse_duration(meant or "")
    except ValueError:
        return 'write it like "5m" or "1h30m"'
    return f'write "{meant}"'


def mode(value: Any, _: Any) -> int:
    """Permission bits, from an octal string such as "0440"."""
    if not isinstance(value, str):
        raise Wrong(f'must be an octal string such as "0440", not {kind_of(value)}')
    if not _OCTAL.fullmatch(value):
        raise Wrong(f'{_shown(value, _DIGITS)} is not an octal mode; write it like "0440"')
    return int(value.removeprefix("0o"), 8)
