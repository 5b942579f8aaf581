"""Calls made with the present login, and what a 403 to one of them means: is it the token, or the policy?

A 403 by policy must not lead to a new login, and one for a dead token must lead to exactly one. Servers answer both
with "permission denied" and little else, so one look at the token itself decides.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from agent.engines.vault import faults
from agent.engines.vault.answers import Answer, Request, Wire
from agent.engines.vault.values import Wrong, lease_id, leased_at
from agent.errors import Forbidden, Unavailable, UpstreamError
from agent.leases.lease import Secret
from agent.leases.logins import Logins, Token

LOOKUP_SELF = "auth/token/lookup-self"
REVOKE = "sys/leases/revoke"


class Signed:
    """Calls at one upstream, each with a login.

    Attributes:
        name: of the upstream.
    """

    def __init__(self, name: str, wire: Wire, logins: Logins) -> None:
        self.name = name
        self._wire = wire
        self._logins = logins

    def token(self) -> Token:
        """The present login; see `Logins.token`."""
        return self._logins.token()

    async def call(
        self,
        method: str,
        path: str,
        *,
        right: str,
        token: Token | None = None,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        late: Callable[[Answer], Request | None] | None = None,
    ) -> Answer:
        """One call; what comes back is good, or a 400, 404 or 405.

        Args:
            right: the capability that it takes, for the message about its lack.
            token: the login to use; None means the present one.

        Raises:
            AuthExpired: the login has ended (or Unavailable right after a login, see `Logins.refused`).
            Forbidden: the login is good, and may not do this.
        """
        login = token or self.token()
        answer = await self._wire.call(method, path, token=login.secret, body=body, query=query or None, late=late)
        if answer.ok:
            self._logins.accepted(login.id)
        if answer.status == 403:
            raise await self._denied(login, answer, path, right)
        return answer

    async def _denied(self, login: Token, answer: Answer, path: str, right: str) -> UpstreamError:
        if not faults.names_the_token(answer) and await self._is_known(login):
            return faults.forbidden(self.name, path, right)
        return self._logins.refused(login.id)

    async def _is_known(self, login: Token) -> bool:
        try:
            look = await self._wire.call("GET", LOOKUP_SELF, token=login.secret)
        except UpstreamError as error:
            text = f"{self.name}: refused (403), and whether the login has ended could not be found out: {error}"
            raise Unavailable(text, unreachable=error.unreachable) from error
        if look.ok:
            self._logins.accepted(login.id)
        # A policy without "default" may forbid the look itself; that is an answer too.
        return look.status != 403 or faults.names_the_policy(look)

    async def end(self, leased: str, *, token: Token | None = None) -> None:
        """Revoke a lease; when this returns, the system behind the server has ended the credential too (row D-05)."""
        body = {"lease_id": leased, "sync": True}
        answer = await self.call("POST", REVOKE, right="update", token=token, body=body)
        if not answer.ok and not faults.is_gone(answer):
            raise faults.not_revoked(self.name, answer)

    async def look(self) -> None:
        """Return if the server answers and accepts the present login."""
        with contextlib.suppress(Forbidden):  # it may not look at itself, and is known
            await self.call("GET", LOOKUP_SELF, right="read")


def ending(secret: Secret, path: str) -> Callable[[Answer], Request | None]:
    """For `late` of the wire: what was leased at `path` although nobody waits for it any more is revoked with the same
    token. The lease of another path is somebody else's."""

    def end(answer: Answer) -> Request | None:
        try:
            leased = lease_id(answer.body.get("lease_id"))
        except Wrong:
            return None
        if not leased or not leased_at(leased, path):
            return None
        return Request(method="POST", path=REVOKE, token=secret, body={"lease_id": leased, "sync": True})

    return end
