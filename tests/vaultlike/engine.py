"""What an engine is: routes below a mount, and what becomes of the leases that it granted."""

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from tests.vaultlike.messages import Answer, Call, Problem, multi
from tests.vaultlike.ttl import Terms

if TYPE_CHECKING:
    from tests.vaultlike.core import Core
    from tests.vaultlike.leases import Lease
    from tests.vaultlike.spaces import Mount
    from tests.vaultlike.tokens import Token

Handler = Callable[..., Awaitable[Answer]]


@dataclass(frozen=True, kw_only=True)
class Route:
    """A path below a mount and what may be done there.

    Attributes:
        pattern: a regular expression for all of it; its groups are the handlers' further arguments.
        public: no token is looked at.
        sealed: also while the server is sealed.
    """

    pattern: str
    read: Handler | None = None
    update: Handler | None = None
    delete: Handler | None = None
    list: Handler | None = None
    patch: Handler | None = None
    public: bool = False
    sealed: bool = False

    def handler(self, operation: str) -> Handler | None:
        """For an operation."""
        found: Handler | None = getattr(self, operation)
        return found


@dataclass(frozen=True, kw_only=True)
class Found:
    """A route that a path took."""

    route: Route
    groups: tuple[str, ...]

    async def run(self, call: Call) -> Answer:
        """Do it."""
        handler = self.route.handler(call.operation)
        if handler is None:
            if self.route.sealed:
                raise Problem(405)  # told before any engine is asked
            text = "unsupported operation"
            raise Problem(405, text if self.route.public else multi(text))
        return await handler(call, *self.groups)


class Engine:
    """Base of all engines."""

    kind: ClassVar[str] = ""

    def __init__(self, core: "Core", mount: "Mount") -> None:
        self.core = core
        self.mount = mount
        self._routes = [(re.compile(route.pattern), route) for route in self.routes()]

    def routes(self) -> Sequence[Route]:
        """First match wins."""
        raise NotImplementedError

    def find(self, rest: str, operation: str) -> Found | None:
        """The route of a path below the mount."""
        trimmed = rest.rstrip("/") if operation == "list" else rest
        for pattern, route in self._routes:
            match = pattern.fullmatch(trimmed)
            if match:
                return Found(route=route, groups=tuple(one or "" for one in match.groups()))
        return None

    def exists(self, call: Call) -> bool:
        """Whether a write changes something that is there: then it takes `update`, else `create`."""
        return True

    def terms(self, lease: "Lease") -> Terms:
        """Of a renewal."""
        return self.mount.terms()

    async def renew(self, lease: "Lease", ttl: int) -> None:
        """Carry a renewal out."""

    async def revoke(self, lease: "Lease") -> None:
        """Undo what was granted; what is gone already is fine."""

    def login_terms(self, token: "Token", call: Call) -> Terms:
        """Of the renewal of a token that was made here."""
        return self.mount.terms(
            ttl=float(token.ttl), period=token.period, explicit_max_ttl=token.explicit_max_ttl, max_ttl=0.0
        )

    async def close(self) -> None:
        """The mount is gone."""


async def answered(answer: Answer) -> Answer:
    """For handlers that have nothing to wait for."""
    return answer
