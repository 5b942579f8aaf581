"""What a server's bytes mean, looked at with distrust: a JSON object, a delay, a time."""

import json
import math
import re
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn

DEEPEST = 64
"""Nested objects and lists; Vault's own answers have fewer than ten."""

_DIGITS = 300
"""Of a number: what has more is too large for a float, and would fail wherever somebody computes with it."""

_LONGEST_DELAY = 3600.0
_SANE = (1.5e9, 4.1e9)  # Unix times from 2017 to 2099

# The closing quote is optional, so that an unfinished text costs one look and no search for its end from each quote.
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?|[\[{]|[\]}]', re.DOTALL)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", re.ASCII)


def json_object(body: bytes) -> Mapping[str, Any]:
    """The JSON object in `body`. Of a key given twice the last value counts, as for Go's decoder.

    Raises:
        ValueError: there is none, or one that could do harm: nested deeper than DEEPEST, numbers that no float holds,
            halves of surrogate pairs, which cannot be written anywhere. The text may be told.
    """
    _check_depth(body)
    try:
        found = json.loads(body.decode("utf-8"), parse_int=_int, parse_float=_float, parse_constant=_no_number)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise ValueError("what is no JSON object")  # the parser's own words quote the body
    if _HALF.search(body):
        try:
            json.dumps(found, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as half:
            raise ValueError("a text with half a character in it") from half
    result: Mapping[str, Any] = found
    return result


def _check_depth(body: bytes) -> None:
    """Refuse before parsing: a parser would go down with every bracket, and a thread's stack is small."""
    depth = 0
    for token in _TOKEN.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > DEEPEST:
                raise ValueError("JSON that is nested too deep")
        elif first in b"]}":
            depth -= 1


def _int(text: str) -> int:
    if len(text) > _DIGITS:
        raise ValueError
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError
    return number


def _no_number(_: str) -> NoReturn:
    raise ValueError


def error_texts(body: Mapping[str, Any]) -> tuple[str, ...]:
    """What Vault says under "errors": at most eight texts."""
    errors = body.get("errors")
    return tuple(text for text in errors[:8] if isinstance(text, str)) if isinstance(errors, list) else ()


def unix_time(date: str | None) -> float | None:
    """The time of a Date header (RFC 9110, 6.6.1); None where it is of no use."""
    if not date or len(date) > 64:
        return None
    try:
        at = parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    return at if _SANE[0] < at < _SANE[1] else None


def delay(retry_after: str | None, now: Callable[[], float]) -> float:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3), at most an hour; 0 where it is of no use.

    Args:
        now: the Unix time that a date in it is compared with.
    """
    text = (retry_after or "").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), _LONGEST_DELAY)
    at = unix_time(text)
    return 0.0 if at is None else min(max(0.0, at - now()), _LONGEST_DELAY)
