"""Lengths of time as people write them: Go's notation ("1h30m", "500ms", "1.5h"), and "d" for a day of 24 hours."""

import re

LONGEST = 100 * 365.25 * 86400.0
"""Longest duration anything accepts: a hundred years, in seconds."""

_UNITS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ns": 1e-9}
_NUMBER = r"(?:\d+(?:\.\d*)?|\.\d+)"
_PART = re.compile(rf"({_NUMBER})(ms|us|µs|μs|ns|d|h|m|s)", re.ASCII)
_WHOLE = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_MAX_TEXT = 64

# What people write instead, so that a message can say what they meant.
_SPOKEN = re.compile(
    rf"({_NUMBER})\s*(s|m|h|d)?(?:ec(?:ond)?s?|in(?:ute)?s?|(?:ou)?rs?|ays?)?", re.ASCII | re.IGNORECASE
)


def parse_duration(text: str) -> float:
    """Seconds in `text`; "0" needs no unit.

    Raises:
        ValueError: it is no duration, or longer than a hundred years. The message does not repeat `text`.
    """
    if text == "0":
        return 0.0
    if len(text) > _MAX_TEXT or not _WHOLE.fullmatch(text):
        raise ValueError("not a duration")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    if not seconds <= LONGEST:
        raise ValueError("longer than a hundred years")
    return seconds


def format_duration(seconds: float) -> str:
    """`seconds` as `parse_duration` reads them, to the microsecond: 5400 is "1h30m", 0.5 is "500ms"."""
    micros = round(seconds * 1e6)
    if micros < 0:
        return "-" + format_duration(-seconds)
    if 0 < micros < 1_000_000:
        return f"{_decimal(micros, 1000)}ms"
    rest, parts = micros, []
    for unit in ("d", "h", "m"):
        count, rest = divmod(rest, round(_UNITS[unit] * 1e6))
        if count:
            parts.append(f"{count}{unit}")
    if rest or not parts:
        parts.append(f"{_decimal(rest, 1_000_000)}s")
    return "".join(parts)


def _decimal(amount: int, unit: int) -> str:
    whole, rest = divmod(amount, unit)
    digits = str(unit + rest)[1:].rstrip("0")
    return f"{whole}.{digits}" if digits else str(whole)


def spoken(text: str) -> str | None:
    """What the author of "5 minutes", "90" or "2 hrs" meant ("5m", "90s", "2h"); None where that cannot be told."""
    match = _SPOKEN.fullmatch(text.strip()) if len(text) <= _MAX_TEXT else None
    return f"{match[1]}{(match[2] or 's').lower()}" if match else None
