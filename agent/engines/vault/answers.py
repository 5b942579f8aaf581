"""What comes back from a server, checked: Answer, and the Wire that brings it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.errors import Unavailable
from agent.leases.lease import Secret
from agent.leases.schedule import CALL_DEADLINE


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer: 2xx, or a 4xx that says something about the request.

    Attributes:
        status: HTTP's.
        body: the JSON object; empty for 204. Bounded in size and depth, and hostile until looked at.
        errors: texts of `body["errors"]`, for telling cases apart; never for people.
        server_time: the server's Unix time by its Date header, None where it sent none of use.
    """

    status: int
    body: Mapping[str, Any] = field(repr=False)
    errors: tuple[str, ...] = field(default=(), repr=False)
    server_time: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the server did what was asked."""
        return self.status < 300


class ServerFault(Unavailable):
    """A 5xx of a server that serves: Unavailable, with what it said.

    Attributes:
        errors: as of an Answer: OpenBao answers 500 where a role is not in its connection's allowed_roles.
    """

    errors: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to ask because an answer came too late; see Wire.call."""

    method: str
    path: str
    token: Secret
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)


class Wire(Protocol):
    """The way to one cluster and back."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: Secret | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        wrap_ttl: float = 0.0,
        certificate: tuple[str, str] | None = None,
        namespace: str | None = None,
        deadline: float = CALL_DEADLINE,
        late: Callable[[Answer], Request | None] | None = None,
    ) -> Answer:
        """One request; no retry once it may have reached a server.

        Args:
            path: below /v1/; encoded here, slashes kept. Errors name it: no lease id in it.
            token: sent as X-Vault-Token; None sends none, whatever the environment holds.
            body: Secrets in it, at any depth, are revealed on the way out.
            certificate: client certificate and key files in place of the configuration's.
            namespace: in place of the configuration's; "" is the topmost.
            deadline: seconds for everything, bytes that trickle included.
            late: asked, in the wire's own thread, what to do about a good answer that came after the caller had gone
                (was cancelled, or raised Unavailable at the deadline; such an answer is listened for a little longer):
                what was issued must be ended. The request it returns is made there, once, in the same namespace.

        Returns:
            The answer for 2xx, 400, 403, 404 and 405.

        Raises:
            Unavailable: no answer (`unreachable`, with `outcome_unknown` unless certainly nothing was sent), 412;
                other 5xx as ServerFault.
            RateLimited: 429, with `Retry-After`.
            Sealed: 503, 501, 472, 473, and sys/health's 429; `unreachable` is set, so that the circuit narrows.
            BadResponse: not JSON, too large, too deep, cut off, a redirect to where no token may go; `outcome_unknown`
                where the server may have done what was asked all the same.
            NotFound: a part of the path is empty or consists of dots.
            NoIdentity: the token cannot be sent in a header.
        """
        ...

    async def close(self, *, linger: float = 1.0) -> None:
        """End the threads.

        Args:
            linger: seconds to wait at most for answers that come late, and for what is done about them.
        """
        ...
