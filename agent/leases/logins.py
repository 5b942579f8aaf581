"""What an engine is told of the login it works with. `agent.leases.session` keeps logins; tests bring their own."""

import math
from dataclasses import dataclass, field
from typing import Protocol

from agent.errors import UpstreamError
from agent.leases.lease import Secret


@dataclass(frozen=True, kw_only=True)
class Token:
    """A login at an upstream.

    Attributes:
        id: the upstream's name of the login, or ours; leases made with it say it as their `parent`.
        secret: what is sent with every call.
    """

    id: str = field(repr=False)
    secret: Secret


class Logins(Protocol):
    """Hands out the present login of one upstream, and hears how it fared."""

    def token(self) -> Token:
        """The present login.

        Raises:
            Unavailable: there is none at the moment; the text says why.
        """
        ...

    def accepted(self, login_id: str) -> None:
        """The upstream has answered a call with that login: it is good."""
        ...

    def refused(self, login_id: str) -> UpstreamError:
        """The upstream does not know that login (any more): a new one is begun, once however many say so.

        Returns:
            The error to raise: AuthExpired, or Unavailable right after a login, which a lagging standby may not know.
        """
        ...


class Ties(Protocol):
    """When logins end, for the leases that hang on them; instants are the dial's."""

    def assured(self, login_id: str) -> float:
        """The end of that login as far as its own renewals go now; −inf where it is lost, +inf where nobody knows."""
        ...

    def hard(self, login_id: str) -> float:
        """The end that no renewal will move any more: of a login that was replaced; +inf of the present one."""
        ...


class Untied:
    """For leases that hang on no login."""

    def assured(self, login_id: str) -> float:
        """See Ties."""
        return math.inf

    def hard(self, login_id: str) -> float:
        """See Ties."""
        return math.inf


UNTIED = Untied()
