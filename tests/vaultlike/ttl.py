"""Durations as Vault reads and writes them, and the one rule that bounds every lease and token."""

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tests.vaultlike.messages import Problem

DEFAULT_TTL = 32 * 86_400  # seconds, of leases and tokens whose role says nothing
MAX_TTL = 32 * 86_400

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h|d)")


class BadDuration(ValueError):
    """Text that is no duration."""


def seconds(value: Any) -> float:
    """A JSON number, "60", "1h30m" or nothing; BadDuration for what is none of these."""
    if value is None or value == "":
        return 0.0
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = str(value)
    if re.fullmatch(r"-?\d+", text):
        return float(text)
    parts = _PART.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.removeprefix("-"):
        raise BadDuration(f'time: invalid duration "{text}"')
    return (-1 if text.startswith("-") else 1) * float(sum(float(number) * _UNITS[unit] for number, unit in parts))


def shown(ttl: float) -> str:
    """As Go prints it: "6s", "1m0s", "768h0m0s"."""
    hours, rest = divmod(int(ttl), 3600)
    minutes, left = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{left}s"
    return f"{minutes}m{left}s" if minutes else f"{left}s"


def remaining(expires_at: float) -> int:
    """Seconds left as look-ups tell them: now is rounded to whole seconds first, so it may be one more or less."""
    return max(0, int(expires_at - round(time.time())))


def instant(at: float | None) -> str | None:
    """RFC 3339 with a fraction, as in every answer."""
    return None if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a role and a request allow, seconds; 0: nothing said."""

    ttl: float = 0.0
    max_ttl: float = 0.0
    period: float = 0.0
    explicit_max_ttl: float = 0.0
    default_ttl: float = DEFAULT_TTL
    ceiling: float = MAX_TTL


def granted(terms: Terms, increment: float, issued_at: float | None = None) -> tuple[int, list[str]]:
    """Seconds from now, and warnings about what was cut.

    Everything is cut to whole seconds first, so that what has less than one second left is past its end.

    Raises:
        Problem: nothing is left before the ceiling.
    """
    now = int(time.time())
    start = now if issued_at is None else int(issued_at)
    limits = [limit for limit in (terms.max_ttl, terms.explicit_max_ttl, terms.ceiling) if limit > 0]
    asked = increment if increment > 0 else terms.ttl or terms.default_ttl
    end = start + min(limits)
    if terms.period > 0:
        asked = min(terms.period, terms.ceiling)
        end = start + terms.explicit_max_ttl if terms.explicit_max_ttl > 0 else now + asked
    left = end - now
    if left <= 0:
        raise Problem(400, "past the max TTL, cannot renew")
    if asked <= left:
        return int(asked), []
    warning = (
        f'TTL of "{shown(asked)}" exceeded the effective max_ttl of "{shown(left)}"; TTL value is capped accordingly'
    )
    return int(left), [warning]
