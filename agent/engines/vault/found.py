"""What a login's answer says of the token it gives: from JSON to `Found`, checked. Pure."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.engines.vault import values
from agent.engines.vault.answers import Answer
from agent.errors import BadResponse, NoIdentity
from agent.leases.lease import Secret


@dataclass(frozen=True, kw_only=True)
class Found:
    """A token, as the server describes it.

    Attributes:
        accessor: names it without giving it away; "" for batch tokens, which have none.
        ttl: seconds; `math.inf` for one that never ends.
        renewable: whether the server renews it.
        uses: calls that may be made with it; 0 for any number.
        max_ttl: seconds from now after which no renewal helps; `math.inf` where that is not told.
        revocable: by us: a token from a file is somebody else's, and a batch token ends by itself only.
    """

    token: Secret
    accessor: str = field(default="", repr=False)
    ttl: float
    renewable: bool
    revocable: bool
    uses: int = 0
    max_ttl: float = math.inf


def by_login(upstream: str, answer: Answer) -> Found:
    """The token of a successful login.

    Raises:
        BadResponse: the answer holds none that could be used.
        NoIdentity: the server wants a second factor.
    """
    auth = _mapping(upstream, answer, "auth")
    if auth.get("mfa_requirement"):
        raise NoIdentity(
            f"{upstream}: the server asks for a second factor (MFA), which an agent has not: take this role out of "
            "the login's MFA enforcement"
        )
    token, batch = values.token(auth.get("client_token")), auth.get("token_type") == "batch"
    if token is None:
        raise BadResponse(f"{upstream}: the login's answer holds no token that could be sent")
    return Found(
        token=token,
        accessor=values.name(auth.get("accessor")),
        ttl=_ttl(upstream, auth.get("lease_duration")),
        renewable=auth.get("renewable") is True,
        uses=values.whole(auth.get("num_uses")) or 0,
        revocable=not batch,
    )


def by_lookup(upstream: str, token: Secret, answer: Answer, wall: Callable[[], float]) -> Found:
    """What a look at a token from a file tells.

    Args:
        wall: our own Unix time, for servers that do not tell theirs.

    Raises:
        BadResponse: the answer is no description of a token.
        NoIdentity: it is ending right now.
    """
    data = _mapping(upstream, answer, "data")
    ttl = _ttl(upstream, data.get("ttl"))
    if ttl == math.inf and data.get("expire_time") is not None:
        raise NoIdentity(f"{upstream}: the token in the file is ending this second: put a new one there")
    longest, made_at = values.whole(data.get("explicit_max_ttl")) or 0, values.whole(data.get("creation_time"))
    max_ttl = math.inf
    if longest > 0 and made_at is not None:
        now = wall() if answer.server_time is None else answer.server_time
        max_ttl = max(ttl, made_at + longest - now)
    return Found(
        token=token,
        accessor=values.name(data.get("accessor")),
        ttl=ttl,
        renewable=data.get("renewable") is True,
        uses=values.whole(data.get("num_uses")) or 0,
        max_ttl=max_ttl,
        revocable=False,
    )


def renewed_ttl(upstream: str, answer: Answer) -> tuple[float, bool]:
    """What a renewal of a login grants: seconds, and whether it may be renewed again; `math.inf` for no end."""
    auth = _mapping(upstream, answer, "auth")
    return _ttl(upstream, auth.get("lease_duration")), auth.get("renewable") is True


def token_in(answer: Answer) -> Secret | None:
    """The token that a login's answer holds, if any: to be ended because nobody waits for it."""
    auth = answer.body.get("auth")
    return values.token(auth.get("client_token")) if isinstance(auth, Mapping) else None


def _ttl(upstream: str, value: Any) -> float:
    """Seconds; of a token 0 means that it has no end, and so do more than ten years."""
    whole = values.whole(value)
    if whole is None or whole < 0:
        raise BadResponse(f"{upstream}: the server does not say how long the login lives")
    return float(whole) if 0 < whole <= values.LONGEST else math.inf


def _mapping(upstream: str, answer: Answer, key: str) -> Mapping[str, Any]:
    found = answer.body.get(key)
    if not isinstance(found, Mapping):
        raise BadResponse(f"{upstream}: the answer to the login is none")
    return found
