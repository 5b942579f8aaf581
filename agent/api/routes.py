"""Everything that is not a plain cached read, over aiohttp. Imported only when first asked for: aiohttp is heavy.

Requests come from our own protocol, whole and in canonical form; answers are the same Response values as everywhere.
aiohttp would log request bytes on malformed requests and show error pages of its own: its logger is mute and its errors
are ours.
"""

import asyncio
import json
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from aiohttp import web

from agent import log
from agent.api.access import Peer
from agent.api.connection import Connection
from agent.api.fastpath import Reads, RoleReader
from agent.api.health import Health
from agent.api.leases import PATH as LEASES
from agent.api.leases import Ask, Leases
from agent.api.metrics import PATH, Metrics
from agent.api.spacing import Spacing
from agent.api.wire import FAULT, NOT_FOUND, READ_ONLY, Response, error, plain, split_target
from agent.clock import Clock
from agent.config.durations import parse_duration
from agent.config.model import UnixListener
from agent.errors import LeaseholdError
from agent.log import Event

_log = log.get(__name__)

_MUTE = logging.getLogger("leasehold.api.mute")
_MUTE.disabled = True

_READ, _ASK = ("GET", "HEAD"), ("POST", "PUT")
_ROTATE = "/rotate"


class Routes:
    """Answers requests by path.

    Args:
        rotate: asks for a role's replacement; its second argument is `revoke_after` in seconds.
    """

    def __init__(
        self,
        *,
        reads: Reads,
        health: Health,
        metrics: Metrics,
        leases: Leases,
        rotate: Callable[[str, float | None], None],
        clock: Clock,
    ) -> None:
        self._leases = leases
        self._roles: Mapping[str, RoleReader] = reads.by_role
        self._rotate = rotate
        self._clock = clock
        self._rotated = Spacing()
        self._health = health
        self._metrics = metrics
        self._probes = health.probes
        self._fixed = frozenset({*self._probes, "/v1/sys/health", PATH})

    async def answer(self, request: web.Request, peer: Peer) -> Response:
        """The answer to any request."""
        split = split_target(request.raw_path.encode("latin-1", "replace"))
        if split is None:
            return error(400, "the request's target has no path")
        path = split[0]
        if path in self._fixed:
            return await self._about_us(request, peer, path) if request.method in _READ else READ_ONLY
        if path == LEASES or path.startswith(f"{LEASES}/"):
            return await self._about_leases(request, peer, path.removeprefix(LEASES), split[1])
        role = path.removeprefix("/v1/") if path.startswith("/v1/") else ""
        if role in self._roles:
            return await self._read(request, peer, self._roles[role])
        reader = self._roles.get(role.removesuffix(_ROTATE)) if role.endswith(_ROTATE) else None
        if reader is None:
            return NOT_FOUND
        if request.method not in _ASK:
            return _not_allowed(_ASK)
        return self._rotation(peer, reader, await request.read())

    async def _about_us(self, request: web.Request, peer: Peer, path: str) -> Response:
        if path in self._probes:
            return self._probes[path]()
        if path != PATH:
            return self._health.report(peer)
        if not self._health.operator(peer):
            return self._leases.denied(peer, "metrics", "; or use [listener.health]")
        accept = request.headers.get("Accept")
        return await self._metrics.response(None if accept is None else accept.encode("latin-1", "replace"))

    async def _about_leases(self, request: web.Request, peer: Peer, rest: str, query: str) -> Response:
        if request.method not in (*_READ, *_ASK):
            return _not_allowed((*_READ, *_ASK))
        ask = Ask(method=request.method, rest=rest, query=query, body=await request.read())
        return await self._leases.answer(ask, peer)

    async def _read(self, request: web.Request, peer: Peer, reader: RoleReader) -> Response:
        if request.method not in _READ:
            return READ_ONLY
        known = request.headers.get("If-None-Match")
        tags = None if known is None else known.encode("latin-1", "replace")
        now = self._clock.now()
        answer = reader.headers(peer, tags, now) if request.method == "HEAD" else reader.answer(peer, tags, now)
        return answer if isinstance(answer, Response) else await answer.response()

    def _rotation(self, peer: Peer, reader: RoleReader, body: bytes) -> Response:
        now = self._clock.now()
        if not reader.access.rotate.admits(peer):
            return reader.denied(peer, "rotate", now)
        try:
            revoke_after = _revoke_after(body)
        except ValueError as mistake:
            return error(400, str(mistake))
        wait = self._rotated.wait(reader.role, now, reader.access.rotate_min_interval)
        if wait:
            after = math.ceil(wait)
            text = f"{reader.role} was asked to rotate a moment ago: try again in {after} s"
            return error(429, text, ("Retry-After", str(after)))
        try:
            self._rotate(reader.role, revoke_after)
        except LeaseholdError as problem:
            return error(503, str(problem), ("Retry-After", "1"))
        _log.info(Event.ROTATE_ASKED, role=reader.role, uid=peer.uid)
        if reader.witness is not None:
            reader.witness.rotated(peer, reader.role)
        return plain(202, {"data": {"role": reader.role, "generation": reader.generation(now)}})


def _revoke_after(body: bytes) -> float | None:
    """The seconds of `{"revoke_after": "30s"}`, None where the body says nothing.

    Raises:
        ValueError: it says something else; the text does not repeat it.
    """
    if not body.strip():
        return None
    try:
        value: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("the body is not JSON") from None
    if not isinstance(value, dict) or value.keys() - {"revoke_after"}:
        raise ValueError('the body may hold "revoke_after" and nothing else, such as {"revoke_after": "30s"}')
    wish = value.get("revoke_after")
    if wish is None:
        return None
    if not isinstance(wish, str):
        raise ValueError('revoke_after must be a duration such as "30s"')
    try:
        return parse_duration(wish)
    except ValueError:
        raise ValueError('revoke_after must be a duration such as "30s"') from None


def _not_allowed(methods: tuple[str, ...]) -> Response:
    return error(405, f"only {' and '.join(methods)} here", ("Allow", ", ".join(methods)))


def _as_aiohttp(response: Response) -> web.Response:
    return web.Response(status=response.status, headers=dict(response.headers), body=response.body or None)


class _Inner(web.RequestHandler):
    """aiohttp's protocol, with error answers of ours."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """500 for a bug of ours, 400 for what aiohttp's parser refuses although ours did not."""
        if status != 400 and exc is not None and (connection := _connection_of(request)) is not None:
            connection.fault(exc)
        answer = _as_aiohttp(error(400, "this is not a well-formed HTTP/1.1 request") if status == 400 else FAULT)
        answer.force_close()
        return answer


def _connection_of(request: web.BaseRequest) -> Connection | None:
    """The connection a request came on; None once it is gone."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Connection) else None


async def _bare(_: web.BaseRequest, response: web.StreamResponse) -> None:
    """Name no software, and no time of a clock that may be stepped."""
    for name in ("Server", "Date"):
        response.headers.pop(name, None)


class Inner:
    """Makes aiohttp's protocol for one connection after another."""

    def __init__(self, routes: Routes, config: UnixListener) -> None:
        self._routes = routes
        self._config = config
        self._runner: web.AppRunner | None = None

    async def open(self) -> Callable[[], asyncio.Protocol]:
        """The factory of protocols."""
        app = web.Application(client_max_size=self._config.max_body + 1)
        # Any path, line ends included: what aiohttp's router answered itself, nobody would tell the connection of.
        app.router.add_route("*", r"/{path:[\s\S]*}", self._handle)
        app.on_response_prepare.append(_bare)
        # A client that leaves ends its own waiting, and nothing else waits in a handler.
        runner = web.AppRunner(app, access_log=None, logger=_MUTE, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        self._runner = runner
        server, loop = runner.server, asyncio.get_running_loop()
        if server is None:
            _impossible()
        longest = self._config.max_header + 64

        def make() -> asyncio.Protocol:
            return _Inner(
                server,
                loop=loop,
                logger=_MUTE,
                access_log=_MUTE,
                auto_decompress=False,
                max_line_size=longest,
                max_field_size=longest,
            )

        return make

    async def close(self) -> None:
        """Let go of every handler; the connections are gone by then."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        connection = _connection_of(request)
        if connection is None:
            raise ConnectionResetError
        try:
            answer = _as_aiohttp(await self._routes.answer(request, connection.peer))
            if connection.last_answer:
                answer.force_close()
            return answer
        finally:
            # aiohttp writes the answer in the same step of its task, as soon as we return.
            asyncio.get_running_loop().call_soon(connection.inner_answered)


def _impossible() -> NoReturn:
    raise RuntimeError("aiohttp's runner has no server after its set-up")
