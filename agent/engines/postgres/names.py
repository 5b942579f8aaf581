"""User names and passwords of minted roles: drawn here, with `secrets`, and nowhere else.

A user name says which role it belongs to, for people who read pg_stat_activity. Nothing may be inferred from it:
the journal alone says what is ours (docs/adr/0001).
"""

import math
import re
import secrets
import string
from typing import Literal

MAX_NAME = 63
"""Bytes of a PostgreSQL identifier; the server cuts longer ones without an error."""

_LOWER_ALNUM = string.ascii_lowercase + string.digits
_BASE32 = string.ascii_lowercase + "234567"
_ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "base64": string.ascii_letters + string.digits + "+/",
}
_ROLE_PART = 20
_V_RANDOM = 12
_SHUB_RANDOM = 8
_PREFIX = re.compile(r"(?!pg_)[a-z][a-z0-9_]{0,19}")

Style = Literal["v", "shub"]


def role_part(role: str) -> str:
    """The last segment of a role's name as 1 to 20 characters of `a-z0-9_`."""
    last = role.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9]+", "_", last).strip("_")[:_ROLE_PART].rstrip("_") or "role"


def username(role: str, *, style: Style, prefix: str | None, wall: float) -> str:
    """A new user name: `v_<role>_<12 random>`, or `shub_<role>_<8 base32>_<Unix seconds>`."""
    head = f"{prefix or style}_{role_part(role)}"
    if style == "v":
        return f"{head}_{_draw(_LOWER_ALNUM, _V_RANDOM)}"
    return f"{head}_{_draw(_BASE32, _SHUB_RANDOM)}_{int(wall):010d}"


def prefix_mistake(prefix: str | None) -> str | None:
    """What is wrong with a configured prefix, None where nothing is."""
    if prefix is None or _PREFIX.fullmatch(prefix):
        return None
    return "username_prefix must be 1 to 20 of a-z, 0-9 and _, begin with a letter, and not with pg_ (reserved)"


def password(*, length: int, alphabet: Literal["alnum", "base64"], bits: int | None) -> str:
    """A new password of `length` characters, more where `bits` of entropy need them."""
    letters = _ALPHABETS[alphabet]
    if bits is not None:
        length = max(length, math.ceil(bits / math.log2(len(letters))))
    return _draw(letters, length)


def name_mistake(name: str) -> str | None:
    """Why `name` cannot be an identifier, None where it can: quotes are fine, they are quoted."""
    if not name:
        return "is empty"
    if "\0" in name:
        return "contains a NUL character"
    if len(name.encode(errors="surrogatepass")) > MAX_NAME:
        return f"is longer than {MAX_NAME} bytes, where PostgreSQL cuts names"
    return None


def _draw(letters: str, count: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(count))
