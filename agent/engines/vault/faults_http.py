"""What an HTTP status, or none, means for who called: our errors, in words that say which server and which call.

Never a body, a header, a token or a query; the path is the caller's, and holds no secret.
"""

from collections.abc import Callable

from agent.engines.vault.addresses import Address
from agent.engines.vault.answers import ServerFault
from agent.engines.vault.errand import Asked
from agent.engines.vault.transport import Lost
from agent.errors import BadResponse, RateLimited, Sealed, Unavailable

_SAID = (400, 403, 404, 405)
"""Statuses that say something about the request."""

_NOT_SERVING = {
    472: "is the standby of a disaster recovery (472): it serves nobody",
    473: "is a performance standby (473) that cannot serve this",
    501: "is not initialised (501): somebody must run its `operator init`",
    503: "is sealed or in maintenance (503), or nothing behind this address is ready: see its seal status",
}
_SHORT = {472: "a disaster recovery standby", 473: "a standby", 501: "not initialised", 503: "sealed"}


def who(upstream: str, address: Address, asked: Asked) -> str:
    """Whom and what for: the beginning of each text."""
    return f"{upstream}: {asked.method} {asked.path} at {address.label}"


def lost(upstream: str, address: Address, asked: Asked, problem: Lost) -> Unavailable:
    """The request went out, and no answer came."""
    words = f"no answer within {asked.deadline:g} s" if problem.timed_out else str(problem)
    return Unavailable(f"{who(upstream, address, asked)}: {words}", unreachable=True, outcome_unknown=True)


def of_status(
    begin: str, asked: Asked, status: int, wait: float, errors: Callable[[], tuple[str, ...]]
) -> Unavailable | None:
    """What the status alone says; None where the body counts.

    Args:
        begin: of the text.
        wait: seconds that the server asked us to stay away.
        errors: what the body says, looked at where that may tell cases apart.
    """
    if 200 <= status < 300 or status in _SAID:
        return None
    if status == 429 and asked.path == "sys/health":
        return Sealed(f"{begin}: it is a standby (429)", unreachable=True)
    if status == 429:
        return RateLimited(f"{begin}: too many calls for its rate limit (429)", retry_after=wait)
    if status in _NOT_SERVING:
        return Sealed(f"{begin}: it {_NOT_SERVING[status]}", retry_after=wait, unreachable=True)
    if status == 412:
        return Unavailable(f"{begin}: this standby has not caught up with the leader yet (412)", retry_after=wait)
    if status >= 500:
        # A gateway's timeout says nothing of what happened behind it.
        fault = ServerFault(
            f"{begin}: it failed ({status}): its own log says why",
            retry_after=wait,
            outcome_unknown=status in (502, 504),
        )
        fault.errors = errors()
        return fault
    return BadResponse(f"{begin}: status {status} is none of Vault's; is something else at that address?")


def elsewhere(error: Unavailable, status: int) -> bool:
    """Whether the next call should begin with another address."""
    return isinstance(error, Sealed | BadResponse) or status == 504


def in_short(status: int) -> str:
    """The reason to go elsewhere."""
    return _SHORT.get(status, f"status {status}")
