"""Response wrapping: taking a secret out of a single-use token, and putting one into such a token.

A wrapping token that has been opened before we did, or that was made at another path, may have passed through a
stranger's hands: that is an alarm, and is never tried again by itself (row D-31). Where the answer to our own opening
was lost, it is we who may have opened it: that is said, and is no alarm.
"""

from collections.abc import Mapping

from agent import log
from agent.config.upstreams import Vault
from agent.engines.vault import values
from agent.engines.vault.answers import Answer, ServerFault, Wire
from agent.errors import BadResponse, Forbidden, NoIdentity, UpstreamError
from agent.leases.lease import Secret
from agent.log import Event

_log = log.get(__name__)

_LOOKUP = "sys/wrapping/lookup"
_UNWRAP = "sys/wrapping/unwrap"
_WRAP = "sys/wrapping/wrap"


class Wrapping:
    """Wraps and unwraps at one upstream, without a login.

    Args:
        name: of the upstream.
    """

    def __init__(self, name: str, server: Vault, wire: Wire) -> None:
        self.name = name
        self._namespace = None if server.method is None else server.method.namespace
        self._wire = wire
        self._opening: Secret | None = None  # sent to be opened, and what became of that is not known

    async def unwrap(self, token: Secret, made_at: str) -> Mapping[str, Secret]:
        """See `agent.identity.proof.Unwrap`: looked at first, which opens nothing, and then opened, once."""
        if values.token(token.reveal()) is None:
            raise NoIdentity(f"{self.name}: the wrapping token cannot be one: put a new one in its file")
        look = await self._wire.call("POST", _LOOKUP, body={"token": token}, namespace=self._namespace)
        if not look.ok:
            gone = "is not known (any more): somebody else may have opened it, or it has expired"
            raise self._not_opened(token, look, gone)
        if not self._was_made_at(made_at, look):
            raise self._alarm(f"was not made at {made_at}: somebody may have put it there")
        answer = await self._open(token)
        if not answer.ok:
            raise self._not_opened(token, answer, "has been opened by somebody else at this very moment")
        data = answer.body.get("data")
        if not isinstance(data, Mapping):
            raise BadResponse(f"{self.name}: the wrapping token held no data")
        try:
            return values.fields(data, multiline=True)
        except values.Wrong as wrong:
            raise BadResponse(f"{self.name}: the wrapping token held {wrong}") from None

    async def _open(self, token: Secret) -> Answer:
        before, self._opening = self._opening, token  # until there is an answer; we may be cancelled first
        try:
            answer = await self._wire.call("POST", _UNWRAP, token=token, namespace=self._namespace)
        except UpstreamError as error:
            if not (error.outcome_unknown or isinstance(error, ServerFault)):
                self._opening = before  # it was not sent, or turned away
            raise
        self._opening = before
        return answer

    def _not_opened(self, token: Secret, answer: Answer, gone: str) -> UpstreamError:
        """Why there is nothing in the token for us.

        Args:
            gone: what it means where the server does not know the token, and we have not opened it.
        """
        if answer.status != 400:
            return BadResponse(f"{self.name}: the server does not open wrapping tokens ({answer.status})")
        if token != self._opening:
            return self._alarm(gone)
        lost = "the answer to our own opening of the wrapping token was lost, and it opens once only"
        _log.warning(Event.IDENTITY, upstream=self.name, warning=lost)
        return NoIdentity(f"{self.name}: {lost}: put a new one in its file")

    def _was_made_at(self, made_at: str, look: Answer) -> bool:
        data = look.body.get("data")
        found = data.get("creation_path") if isinstance(data, Mapping) else None
        if not isinstance(found, str):
            raise BadResponse(f"{self.name}: the server does not say where the wrapping token was made")
        return _bare(found) == _bare(made_at)

    def _alarm(self, what: str) -> NoIdentity:
        _log.error(Event.WRAPPING_TOKEN_REUSED, upstream=self.name, reason=what)
        return NoIdentity(f"{self.name}: the wrapping token {what}; find out who, then put a new one in its file")

    async def wrap(self, token: Secret, ttl: float) -> Secret:
        """A single-use token that holds `token` (as the field "token") for `ttl` seconds.

        Raises:
            Forbidden: `token` is not allowed to wrap, or has ended.
        """
        answer = await self._wire.call("POST", _WRAP, token=token, body={"token": token}, wrap_ttl=ttl)
        if answer.status == 403:
            raise Forbidden(
                f"{self.name}: our login may not wrap, or has ended: its policy needs "
                f'path "{_WRAP}" {{ capabilities = ["update"] }}'
            )
        wrapped = answer.body.get("wrap_info")
        made = values.token(wrapped.get("token")) if answer.ok and isinstance(wrapped, Mapping) else None
        if made is None:
            raise BadResponse(f"{self.name}: the server does not answer with a wrapping token")
        return made


def _bare(path: str) -> str:
    return path.strip("/").removeprefix("v1/")
