"""Doubles for the engines over the wire: a wire that answers from a script, and logins that remember what was said."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.engines.vault.answers import Answer, Request
from agent.errors import AuthExpired, UpstreamError
from agent.identity.proof import Proof
from agent.leases.lease import Secret
from agent.leases.logins import Token

LOOKUP, RENEW, REVOKE = "auth/token/lookup-self", "sys/leases/renew", "sys/leases/revoke"
BAD_TOKEN = ("permission denied",)
NO_POLICY = ("1 error occurred:\n\t* permission denied\n\n",)


def good(data: Any = None, *, server_time: float | None = None, **envelope: Any) -> Answer:
    """A 200 with Vault's envelope."""
    body = {"request_id": "r", "lease_id": "", "renewable": False, "lease_duration": 0, "data": data, "auth": None}
    return Answer(status=200, body=body | envelope, server_time=server_time)


def bad(status: int, *errors: str) -> Answer:
    """A 4xx."""
    return Answer(status=status, body={"errors": list(errors)}, errors=errors)


NOTHING = Answer(status=204, body={})


@dataclass(frozen=True, kw_only=True)
class Sent:
    """One request as the wire got it, with every secret revealed."""

    method: str
    path: str
    token: str | None
    body: Mapping[str, Any] | None
    query: Mapping[str, str] | None
    wrap_ttl: float
    certificate: tuple[str, str] | None
    namespace: str | None
    late: Callable[[Answer], Request | None] | None = field(repr=False)

    @property
    def call(self) -> str:
        """Method and path."""
        return f"{self.method} {self.path}"


Reply = Answer | BaseException


class FakeWire:
    """A Wire. `replies` holds, by path, what is answered in turn; the last one stays. 404 where there is none."""

    def __init__(self, replies: Mapping[str, Reply | list[Reply]]) -> None:
        self.replies = {path: list(each) if isinstance(each, list) else [each] for path, each in replies.items()}
        self.sent: list[Sent] = []
        self.closed = False

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
        deadline: float = 10.0,
        late: Callable[[Answer], Request | None] | None = None,
    ) -> Answer:
        """See Wire."""
        self.sent.append(
            Sent(
                method=method,
                path=path,
                token=None if token is None else token.reveal(),
                body=None if body is None else {key: _bare(value) for key, value in body.items()},
                query=query,
                wrap_ttl=wrap_ttl,
                certificate=certificate,
                namespace=namespace,
                late=late,
            )
        )
        replies = self.replies.get(path) or [bad(404)]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, BaseException):
            raise reply
        return reply

    async def close(self, *, linger: float = 1.0) -> None:
        """See Wire."""
        self.closed = True

    @property
    def revoked(self) -> list[Any]:
        """The leases that were to be revoked."""
        return [None if each.body is None else each.body["lease_id"] for each in self.to(REVOKE)]

    def to(self, path: str) -> list[Sent]:
        """The requests to `path`."""
        return [each for each in self.sent if each.path == path]


def _bare(value: Any) -> Any:
    return value.reveal() if isinstance(value, Secret) else value


class FakeLogins:
    """Logins with one token, which remember how it fared."""

    def __init__(self, *, none: UpstreamError | None = None) -> None:
        self.none = none
        self.good: list[str] = []
        self.bad: list[str] = []

    def token(self) -> Token:
        """See Logins."""
        if self.none is not None:
            raise self.none
        return Token(id="login-1", secret=Secret("hvs.login"))

    def accepted(self, login_id: str) -> None:
        """See Logins."""
        self.good.append(login_id)

    def refused(self, login_id: str) -> UpstreamError:
        """See Logins."""
        self.bad.append(login_id)
        return AuthExpired("vault: our login has ended; logging in again")


class FakeIdentity:
    """An Identity with one proof."""

    def __init__(self, proof: Proof | Exception) -> None:
        self.proof = proof
        self.accepts = 0

    async def prove(self) -> Proof:
        """See Identity."""
        if isinstance(self.proof, Exception):
            raise self.proof
        return self.proof

    async def accepted(self) -> None:
        """See Identity."""
        self.accepts += 1

    async def changed(self) -> None:
        """See Identity."""
        raise NotImplementedError

    @property
    def binding(self) -> bool:
        """See Identity."""
        return False
