"""Identities that are one token in one file: kubernetes and jwt, which log in with it, and token_file, which is one."""

from agent.clock import Clock
from agent.config.upstreams import Method
from agent.errors import NoIdentity
from agent.identity.files import Reading, Source, refusal
from agent.identity.jwt import fault_of
from agent.identity.mounts import login_path
from agent.identity.proof import Proof
from agent.identity.watched import Files, FromFiles
from agent.leases.lease import Secret

_WHAT = {"kubernetes": "the service account token", "jwt": "the token", "token_file": "the token"}
_REMEDY = {
    "kubernetes": "mount a projected service account token there, or set token_path",
    "jwt": "have one written there, or set path",
    "token_file": "whoever makes tokens must write one there; or set token_file_path",
}


def jwt_in(reading: Reading, wall: float) -> Secret:
    """The JWT in a file, if at Unix time `wall` a server can accept it at all.

    Raises:
        NoIdentity: it cannot, or there is none.
    """
    token = reading.secret()
    if fault := fault_of(token.reveal(), wall):
        path = f"{reading.source.what} {reading.source.path}"
        if fault.startswith("ended"):
            raise NoIdentity(f"{path} {fault}; is whoever writes it (the kubelet, for one) rotating it?")
        raise refusal(reading.source, fault)
    return token


class JwtIdentity(FromFiles):
    """A JWT from a file, for the kubernetes and jwt methods; the kubelet, or an issuer's agent, keeps it fresh."""

    def __init__(self, method: Method, path: str, clock: Clock) -> None:
        source = Source(path=path, what=_WHAT[method.type], remedy=_REMEDY[method.type])
        super().__init__(Files([source], clock))
        self._method = method
        self._clock = clock

    async def prove(self) -> Proof:
        """The login's request with the token of this moment."""
        (reading,) = await self._files.read()
        role = {} if self._method.config.role is None else {"role": self._method.config.role}
        body = {**role, "jwt": jwt_in(reading, self._clock.wall())}
        return Proof(path=login_path(self._method), body=body, namespace=self._method.namespace)


class TokenFile(FromFiles):
    """A token that somebody else made and renews or replaces: it needs no login, and is never ours to revoke."""

    binding = True

    def __init__(self, method: Method, path: str, clock: Clock) -> None:
        super().__init__(Files([Source(path=path, what=_WHAT["token_file"], remedy=_REMEDY["token_file"])], clock))
        self._method = method

    async def prove(self) -> Proof:
        """The token of this moment."""
        (reading,) = await self._files.read()
        return Proof(token=reading.secret(), namespace=self._method.namespace)
