"""What a login takes: Proof, and the Identity that gives it. No upstream's client enters this room's interface."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.leases.lease import Secret


@dataclass(frozen=True, kw_only=True)
class Proof:
    """One login's request, made from what the files hold at this moment.

    Attributes:
        path: to write to, below /v1/, e.g. "auth/kubernetes/login"; "" where `token` is there already.
        body: of the request; values that prove something are Secrets.
        token: a token that needs no login (token_file). It is not ours to revoke.
        certificate: files of the client certificate and its key to present with the login, and at every renewal of it.
        namespace: of the mount, where it is not the server's.
    """

    path: str = ""
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)
    token: Secret | None = None
    certificate: tuple[str, str] | None = None
    namespace: str | None = None


class Identity(Protocol):
    """Who the pod is, at one upstream."""

    async def prove(self) -> Proof:
        """A fresh proof: every file is read, and every service asked, again.

        Raises:
            NoIdentity: something is missing, empty, too large or of no use; the text names it and the remedy.
            Unavailable: a service that vouches for the pod does not answer.
        """
        ...

    async def accepted(self) -> None:
        """The last proof has led to a login: remove what was to be used only once."""
        ...

    async def changed(self) -> None:
        """Return when what `prove` reads has changed since the last call of either; never where it reads no files."""
        ...

    @property
    def binding(self) -> bool:
        """Whether a change makes the present login worthless too: a new certificate, a new token in a token file."""
        ...


class Unwrap(Protocol):
    """Exchanges a wrapping token for what it wraps; the engine of the upstream brings it."""

    async def __call__(self, token: Secret, made_at: str) -> Mapping[str, Secret]:
        """The wrapped data, taken out exactly once.

        Args:
            made_at: the path that must have made it; anything else is refused before it is opened.

        Raises:
            NoIdentity: it was made elsewhere, or has been opened before, which is an alarm: see
                `agent.log.Event.WRAPPING_TOKEN_REUSED`. The same token is not brought again.
            Unavailable: the server does not answer; the same token may be brought again.
        """
        ...
