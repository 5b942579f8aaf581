"""Every exception that Leasehold raises on purpose, sorted by what the caller should do.

LeaseholdError
├── ConfigError            fix the file: carries every mistake at once, each with its path
├── StartError             fix the surroundings: a socket in use, a directory others can write
├── RenderError            keep the last good file, tell the operator
├── CredentialRefused      the database will not let the new credential in: revoke it, do not publish it
└── UpstreamError          an engine's call failed
    ├── Unavailable        back off, then try again
    │   ├── NotLoggedIn
    │   ├── RateLimited
    │   ├── Sealed
    │   └── BadResponse
    ├── AuthExpired        log in once more, then try again
    ├── NoIdentity         what should prove who we are is missing or of no use: mend it; try when it changes
    ├── Forbidden          do not log in again; say which right is missing; try slowly
    ├── NotFound           the role or path does not exist: say so at once, try slowly
    │   └── Unfit
    └── LeaseEnded         the lease cannot be kept: replace it
        ├── LeaseGone
        ├── NotRenewable
        └── MaxTtlReached

No exception of a client library leaves the room that called it. Messages name role, upstream, operation and remedy;
never a body, a header, a token, a user name, a lease id or SQL text.
"""

from collections.abc import Sequence


class LeaseholdError(Exception):
    """Base of all; its text is one line fit for an operator."""


class ConfigError(LeaseholdError):
    """The configuration cannot be used.

    Attributes:
        mistakes: every mistake found, one line each, beginning with its path in the file.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


class StartError(LeaseholdError):
    """The agent cannot start here: the text names the obstacle and the remedy."""


class RenderError(LeaseholdError):
    """A template or format could not be rendered; the last good file stays."""


class CredentialRefused(LeaseholdError):
    """The database refuses a login with the new credential (28P01, 28000, 42501, 3D000, or a failing probe).

    Attributes:
        code: the SQLSTATE, or "" where the server sent none.
        lacking: what a probe found no privilege on, such as "table reports"; "" where it was not that, or not told.
    """

    def __init__(self, message: str, *, code: str = "", lacking: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.lacking = lacking


class UpstreamError(LeaseholdError):
    """An engine's call failed.

    Attributes:
        unreachable: True where no answer came back at all (refused, reset, timed out): the upstream's circuit counts
            only these.
        outcome_unknown: True where the request may have taken effect although it failed; what it may have issued must
            be revoked.
        timed_out: True where it was waited for in vain: the upstream, or something behind it, may only be slow.
        code: for our own login that was refused, its SQLSTATE; "" elsewhere.
    """

    timed_out: bool = False
    unreachable: bool = False
    outcome_unknown: bool = False
    code: str = ""


class Unavailable(UpstreamError):
    """The upstream cannot answer now.

    Args:
        retry_after: seconds the upstream asked us to stay away, 0 where it said nothing.
    """

    def __init__(
        self,
        message: str,
        *,
        retry_after: float = 0.0,
        unreachable: bool = False,
        outcome_unknown: bool = False,
        timed_out: bool = False,
    ) -> None:
        super().__init__(message)
        self.timed_out = timed_out
        self.retry_after = retry_after
        self.unreachable = unreachable
        self.outcome_unknown = outcome_unknown


class NotLoggedIn(Unavailable):
    """We have no login at the upstream at the moment; no call was made. Tried again as soon as there is one."""


class RateLimited(Unavailable):
    """Too many calls; `retry_after` is a lower bound."""


class Sealed(Unavailable):
    """The upstream is up but cannot serve anyone: sealed, in recovery, a lagging standby."""


class BadResponse(Unavailable):
    """The answer is not what the interface promises; treated as unavailable."""


class AuthExpired(UpstreamError):
    """Our own login at the upstream has ended."""


class NoIdentity(UpstreamError):
    """There is nothing to log in with, or the upstream does not accept it; the text names the file or the service."""


class Forbidden(UpstreamError):
    """Our login is good but may not do this; the text names what is missing."""


class NotFound(UpstreamError):
    """The upstream does not know the role or path."""


class Unfit(NotFound):
    """What is there cannot be handed out the way the role is configured; whatever was issued is being revoked."""


class LeaseEnded(UpstreamError):
    """This lease cannot be kept alive: replace it."""


class LeaseGone(LeaseEnded):
    """The upstream no longer knows the lease."""


class NotRenewable(LeaseEnded):
    """The upstream does not renew this lease."""


class MaxTtlReached(LeaseEnded):
    """The lease has reached its longest life."""
