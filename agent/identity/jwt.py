"""Looks at a token's shape and end before it is sent: what cannot be accepted costs no call and names its reason.

The signature is the server's to check; nothing here trusts what a token says.
"""

import base64
import binascii
import json
import math
import re

_SHAPE = re.compile(r"[\w-]+\.([\w-]+)\.[\w-]+", re.ASCII)

SKEW = 60.0
"""Seconds by which this machine's wall clock may be wrong: a token that ended less than that ago is sent."""


def fault_of(token: str, wall: float) -> str:
    """Why no server would accept `token` at Unix time `wall`, as the end of a sentence; "" where nothing is seen."""
    shape = _SHAPE.fullmatch(token)
    if shape is None:
        return "does not hold a JWT (three parts of base64url, with dots between)"
    claims = _claims(shape[1])
    if claims is None:
        return "does not hold a JWT: its middle part is no JSON object"
    over = wall - _end(claims.get("exp"))
    return f"ended {span(over)} ago" if over > SKEW else ""


def _end(exp: object) -> float:
    """Unix time of the end; infinite where none is told: whether that will do is the server's to say."""
    if isinstance(exp, bool) or not isinstance(exp, int | float):
        return math.inf
    try:
        return float(exp)
    except OverflowError:  # JSON's integers have no bound
        return math.inf


def _claims(part: str) -> dict[str, object] | None:
    try:
        found = json.loads(base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True))
    except (ValueError, RecursionError, binascii.Error):
        return None
    return found if isinstance(found, dict) else None


def span(seconds: float) -> str:
    """Seconds in the largest unit that fits: "5 min", "3 h", "12 days"."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.0f} days"
    return f"{seconds / 3600:.0f} h" if seconds >= 2 * 3600 else f"{seconds / 60:.0f} min"
