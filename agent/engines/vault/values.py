"""Single values of an answer, checked: lengths of time, ids, tokens, fields. Pure.

What a server sends is hostile until it has passed here, and none of it may go into a message: a refusal says what is
wrong with a value, never the value.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from agent.leases.lease import Secret

LONGEST = 10 * 365 * 86400
"""Ten years in seconds, "87600h": whatever claims to live longer has no end."""

_MAX_ID = 2048
_MAX_TOKEN = 8192
_MAX_FIELDS = 256
_MAX_NAME = 256

# What counts as a line end or a control character anywhere; even where those are allowed, no file can hold a NUL.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_NEVER = re.compile("\x00")
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+")
_KEY = os.urandom(32)


class Wrong(ValueError):
    """A value that cannot be used; the text is fit to be shown and repeats nothing of it."""


class ControlCharacters(Wrong):
    """A value holds control characters, and the role does not allow them."""


def whole(value: Any) -> int | None:
    """`value` if it is a whole number, else None: JSON knows neither true nor 1.5 nor "60" as one."""
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def seconds(value: Any) -> float:
    """The TTL that a lease is granted (row D-27).

    Raises:
        Wrong: it is absent, no whole number, not positive, or longer than ten years.
    """
    ttl = whole(value)
    if ttl is None:
        raise Wrong("a TTL that is no whole number of seconds")
    if ttl <= 0:
        raise Wrong("a TTL of 0" if ttl == 0 else "a negative TTL")
    if ttl > LONGEST:
        raise Wrong("a TTL of more than ten years")
    return float(ttl)


def lease_id(value: Any) -> str:
    """The server's id of a lease, "" where nothing is leased. It contains the path: slashes and all.

    Raises:
        Wrong: it is no lease id.
    """
    if value is None or value == "":
        return ""
    if not isinstance(value, str) or len(value) > _MAX_ID or _CONTROL.search(value) or not is_leased(value):
        raise Wrong("something that is no lease id")
    return value


def is_leased(id_: str) -> bool:
    """Whether an id is the server's: those have the path before a slash, ours are UUIDs."""
    return "/" in id_


def leased_at(id_: str, path: str) -> bool:
    """Whether a lease's id is one of `path`'s: "PATH/SOMETHING", perhaps with a namespace before it.

    A namespace that `path` itself begins with is not in the id, which then ends in that namespace's own, after a dot.
    """
    head, _, own = id_.rpartition("/")
    asked, told = f"/{path.strip('/')}", f"/{head}"
    return bool(own) and (told.endswith(asked) or ("." in own and asked.endswith(told)))


def token(value: Any) -> Secret | None:
    """A token that can be sent in a header; None if `value` is none."""
    fit = isinstance(value, str) and len(value) <= _MAX_TOKEN and _HEADER_SAFE.fullmatch(value)
    return Secret(value) if fit else None


def name(value: Any) -> str:
    """`value` if it is a short, printable text, else ""."""
    fit = isinstance(value, str) and len(value) <= _MAX_NAME and not _CONTROL.search(value)
    return value if fit else ""


def fields(data: Mapping[str, Any], *, multiline: bool) -> dict[str, Secret]:
    """Every field as text: numbers as JSON writes them, null as "", lists and maps as JSON.

    Raises:
        ControlCharacters: in a value, and not `multiline`.
        Wrong: too many fields, or a name that cannot be one.
    """
    if len(data) > _MAX_FIELDS:
        raise Wrong(f"more than {_MAX_FIELDS} fields")
    refused = _NEVER if multiline else _CONTROL
    texts: dict[str, Secret] = {}
    for key, value in data.items():
        if not name(key):
            raise Wrong("a field whose name cannot be one")
        text = _text(value)
        if refused.search(text):
            raise ControlCharacters("a value with control characters")
        texts[key] = Secret(text)
    return texts


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, separators=(",", ":"))


def digest(data: Mapping[str, Secret]) -> str:
    """Differs whenever `data` differs, within this run only: nobody can try passwords against it."""
    plain = json.dumps({key: secret.reveal() for key, secret in data.items()}, sort_keys=True)
    return hashlib.blake2b(plain.encode(), key=_KEY, digest_size=16).hexdigest()
