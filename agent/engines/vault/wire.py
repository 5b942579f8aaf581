"""The way to a Vault or OpenBao cluster: HttpWire. What blocks, and what takes long to import, is in its threads."""

import asyncio
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agent import dial, log
from agent.clock import Clock
from agent.config.upstreams import Vault
from agent.engines.vault.addresses import Addresses, parse_address
from agent.engines.vault.answers import Answer, Request
from agent.engines.vault.errand import Asked, Errand, Outcome, TooLate
from agent.engines.vault.sockets import Bounds
from agent.engines.vault.tls import Contexts
from agent.engines.vault.workers import Workers
from agent.errors import ConfigError, NoIdentity, NotFound, Unavailable
from agent.imports import import_below
from agent.leases.lease import Secret
from agent.leases.schedule import CALL_DEADLINE
from agent.log import Event

if TYPE_CHECKING:
    from agent.engines.vault.asking import Asker

_log = log.get(__name__)

_LINGER = 5.0
"""Seconds beyond the deadline to listen on for an answer that must not be lost."""

_PATIENCE = 1.0
"""Seconds after which a call that is cancelled speaks against the server that has not answered it."""

_LONGEST_PATH = 200


class HttpWire:
    """A `Wire` over HTTP, through hvac, in at most four daemon threads. Constructing it does nothing.

    Args:
        name: the upstream's, for messages.
        server: addresses, TLS, proxy, namespace.
        clock: the callers' time. The threads read the machine's own dial.
    """

    def __init__(self, name: str, server: Vault, clock: Clock) -> None:
        try:
            found = [parse_address(text) for text in (server.address, *server.fallback_addresses)]
            self._addresses = Addresses(found, server.redirect_hosts)
        except ValueError as mistake:
            raise ConfigError([f"{name}.address: {mistake}"]) from mistake
        self._name = name
        self._server = server
        self._clock = clock
        self._contexts = Contexts(server)
        self._workers: Workers[Asker] = Workers(name, self._asker)

    def __repr__(self) -> str:
        return f"HttpWire({self._name}, {self._addresses!r}, {self._workers!r})"

    def _asker(self) -> "Asker":
        import_below("hvac", "hvac.adapters")  # not its Client, and not a class for every engine there is
        from agent.engines.vault.asking import Asker  # hvac and requests take 50 ms to load: in a thread, at first use

        return Asker(self._name, self._server, self._addresses, self._contexts, self._clock.wall)

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
        """One request; see `agent.engines.vault.answers.Wire`."""
        asked = Asked(
            method=method,
            path=_shown(path),
            quoted=self._quoted(path),
            token=self._header(token, "token"),
            body=None if body is None else _json(body),
            query=dict(query or {}),
            wrap_ttl=math.ceil(wrap_ttl),
            certificate=certificate,
            namespace=namespace and self._header(namespace, "namespace"),
            deadline=deadline,
        )
        bounds = Bounds(dial.now() + deadline + (_LINGER if late else 0.0))
        errand = Errand(self._name, asked, bounds, late=late, prepare=self._prepared, again=_again)
        self._submit(errand)
        outcome = await self._outcome(errand, asked)
        if outcome.switch is not None:
            _log.warning(
                Event.FAILOVER,
                upstream=self._name,
                host=outcome.switch.address.label,
                reason=outcome.switch.reason,
            )
        if outcome.error is not None:
            raise outcome.error
        assert outcome.answer is not None  # noqa: S101 - it is one or the other
        return outcome.answer

    @property
    def address(self) -> str:
        """Which server answers now: "https://HOST:PORT" of the one that answered last, or is to be tried first."""
        return self._addresses.serving.label

    @property
    def addresses(self) -> tuple[str, ...]:
        """All that could, the configuration's."""
        return tuple(sorted(each.label for each in self._addresses.in_turn()))

    async def close(self, *, linger: float = 1.0) -> None:
        """End the threads; see Wire."""
        await self._workers.close(self._clock, linger=linger)

    async def _outcome(self, errand: Errand, asked: Asked) -> Outcome:
        began = dial.now()
        try:
            async with self._clock.timeout(asked.deadline):
                return await errand.outcome()
        except TimeoutError:
            outcome, sent = errand.leave(tired=True)
            self._workers.make_room()
            return outcome or Outcome(error=self._late_error(asked, sent=sent))
        except asyncio.CancelledError:
            # Callers have shorter deadlines of their own, and tell us of them so.
            outcome, _ = errand.leave(tired=dial.now() - began >= _PATIENCE)
            self._workers.make_room()
            if outcome is not None:
                self._see_to(errand, outcome)
            raise

    def _see_to(self, errand: Errand, outcome: Outcome) -> None:
        try:
            self._workers.submit(TooLate(errand, outcome))
        except OSError as problem:
            reason = "issued too late"
            _log.warning(Event.REVOKE_FAILED, upstream=self._name, reason=reason, error=problem.strerror)

    def _late_error(self, asked: Asked, *, sent: bool) -> Unavailable:
        what = f"{self._name}: {asked.method} {asked.path}: no answer within {asked.deadline:g} s"
        if not sent:
            what += "; it was not sent"
        return Unavailable(what, unreachable=True, outcome_unknown=sent, timed_out=True)

    def _submit(self, errand: Errand) -> None:
        try:
            self._workers.submit(errand)
        except OSError as problem:
            raise Unavailable(f"{self._name}: {problem.strerror}; nothing was asked") from problem

    def _prepared(self, request: Request) -> Asked:
        """The request that a late answer led to."""
        return Asked(
            method=request.method,
            path=_shown(request.path),
            quoted=self._quoted(request.path),
            token=self._header(request.token, "token"),
            body=_json(request.body) if request.body else None,
            query={},
            wrap_ttl=0,
            certificate=None,
            namespace=None,
            deadline=CALL_DEADLINE,
        )

    def _quoted(self, path: str) -> str:
        segments = path.strip("/").split("/")
        if any(segment in ("", ".", "..") for segment in segments):
            raise NotFound(f"{self._name}: {_shown(path)} is no path: a part of it is empty or consists of dots")
        try:
            return "/".join(quote(segment, safe="") for segment in segments)
        except UnicodeEncodeError:
            raise NotFound(f"{self._name}: a path holds half a character") from None

    def _header(self, value: Secret | str | None, what: str) -> str | None:
        text = value.reveal() if isinstance(value, Secret) else value
        if text is not None and not (text.isascii() and text.isprintable() and " " not in text and text):
            raise NoIdentity(f"{self._name}: the {what} is empty or holds characters that no header can carry")
        return text


def _again() -> Bounds:
    return Bounds(dial.now() + CALL_DEADLINE)


def _shown(path: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in path[:_LONGEST_PATH])


def _json(body: Mapping[str, Any]) -> bytes:
    """JSON with its Secrets revealed: from here on it is bytes that only the socket sees."""
    return json.dumps(body, default=_plain, allow_nan=False, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} cannot be sent")
