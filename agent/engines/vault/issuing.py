"""From an issue's answer to a Grant. Pure.

Most paths lease what they give: the server knows it by an id, renews and revokes it. Certificates (`pki/issue`,
`ssh/sign`) are not leased as a rule: they end by themselves, with nobody's login, and nothing revokes them.
"""

from collections.abc import Callable, Mapping
from typing import Any

from agent.config.durations import parse_duration
from agent.config.model import Role
from agent.engines.vault import values
from agent.engines.vault.answers import Answer
from agent.errors import BadResponse, Unfit
from agent.leases.lease import Grant, Secret

_ENDS = ("expiration", "expires_at_seconds")
"""Fields of `data` that say when what is not leased ends, in Unix seconds: pki's, gcp's."""

_CLOCK_TICK = 1.0
"""The server's time in the Date header is cut off to whole seconds."""


def lease_id(where: str, path: str, answer: Answer) -> str:
    """The server's id of what it has issued at `path`, "" where it is not leased.

    Raises:
        BadResponse: the answer holds something else there; or the lease of another path, which is somebody else's and
            not to be revoked.
    """
    try:
        leased = values.lease_id(answer.body.get("lease_id"))
    except values.Wrong as wrong:
        raise BadResponse(f"{where}: the server answers {wrong}") from None
    if leased and not values.leased_at(leased, path):
        raise BadResponse(
            f"{where}: the server answers with a lease of another path: does a cache stand in front of it?"
        )
    return leased


def grant(
    where: str, role: Role, answer: Answer, *, leased: str, proposed_id: str, parent: str, wall: Callable[[], float]
) -> Grant:
    """What was granted.

    Args:
        where: upstream and path; messages begin with it.
        leased: the server's id, "" where there is none: then the lease is `proposed_id`, and hangs on no login.
        wall: our own Unix time, for servers that do not tell theirs.

    Raises:
        Unfit: it must not be handed out like this; the text names the remedy.
        BadResponse: it is not what such a path gives.
    """
    body = answer.body
    data = body.get("data")
    if not isinstance(data, Mapping) or not data:
        raise BadResponse(f"{where}: the answer holds no data")
    if data.get("key_type") == "otp":
        raise Unfit(
            f"{where}: gives one-time SSH passwords, which are used up by the first who logs in: a role's credential "
            'is shared by all its readers; use an SSH role of key_type "ca" with ssh/sign'
        )
    try:
        ttl = values.seconds(body.get("lease_duration")) if leased else _unleased(role, data, answer, wall)
    except values.Wrong as wrong:
        raise BadResponse(f"{where}: the server grants {wrong}: set TTLs on the role there") from None
    if ttl is None:
        raise BadResponse(
            f'{where}: what it gives is not leased and has no end: set kind = "kv" or "static" on the role'
            + (", or a ttl among its parameters" if role.kind == "write" else "")
        )
    return Grant(
        id=leased or proposed_id,
        data=fields(where, role, data),
        ttl=ttl,
        renewable=bool(leased) and body.get("renewable") is True,
        parent=parent if leased else "",
    )


def fields(where: str, role: Role, data: Mapping[str, Any]) -> dict[str, Secret]:
    """The credential's fields as texts.

    Raises:
        Unfit: control characters in one, which the role does not allow.
        BadResponse: they are no fields.
    """
    try:
        return values.fields(data, multiline=role.multiline)
    except values.ControlCharacters:
        raise Unfit(
            f"{where}: a value holds line ends or other control characters: set multiline = true on the role if that "
            "is meant, as for certificates and keys"
        ) from None
    except values.Wrong as wrong:
        raise BadResponse(f"{where}: the answer holds {wrong}") from None


def _unleased(role: Role, data: Mapping[str, Any], answer: Answer, wall: Callable[[], float]) -> float | None:
    """Seconds that something lives which is not leased; None where nothing says so.

    Raises:
        values.Wrong: its end is no time to come.
    """
    end = next((values.whole(data[field]) for field in _ENDS if field in data), None)
    if end is not None:
        now = wall() if answer.server_time is None else answer.server_time + _CLOCK_TICK
        return values.seconds(int(end - now))
    asked = role.parameters.get("ttl", "")
    try:
        # Bare numbers are seconds there.
        return values.seconds(int(parse_duration(f"{asked}s" if asked.isdecimal() else asked)))
    except ValueError as error:
        if isinstance(error, values.Wrong):
            raise
        return None
