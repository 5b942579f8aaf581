"""VaultLike: the in-tree server, in a thread of its own."""

import asyncio
import contextlib
import json
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.vaultlike import http
from tests.vaultlike.catalog import Catalog
from tests.vaultlike.core import Asked, Core
from tests.vaultlike.faults import Fault, Faults, Log, Seen

_STOP_DEADLINE = 10.0
_THREADS = 32  # each may hang at a database of its own
_SECRET_HEADERS = ("x-vault-token", "authorization")
_CONTROL = "control/"  # ours, for a server in another process; not of Vault's wire


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files of a TLS listener.

    Attributes:
        client_ca: what clients' certificates are checked against, beside those that auth/cert has been told of.
    """

    cert: Path
    key: Path
    client_ca: Path | None = None


class VaultLike:
    """A server on loopback that speaks Vault's wire.

    It is configured as Vault is, over HTTP with the root token. What it knows is kept over `stop` and `start`, and is
    gone with the object; users that it made in databases stay, as with Vault.

    Args:
        port: 0 takes one that is free, and keeps it over a restart.
    """

    def __init__(
        self, *, port: int = 0, root_token: str = "root", unseal_key: str = "unseal", tls: Tls | None = None
    ) -> None:
        self.port = port
        self.root = root_token
        self.unseal_key = unseal_key
        self._tls = tls
        self._faults = Faults()
        self._log = Log()
        self._core: Core | None = None
        self._context: ssl.SSLContext | None = None
        self._trusted = 0
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failed: BaseException | None = None

    def __repr__(self) -> str:
        return f"<VaultLike {self.address} {'up' if self._thread else 'down'}>"

    @property
    def address(self) -> str:
        """As a configuration names it."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self.port}"

    # -- up and down -------------------------------------------------------------------------------------------------

    def start(self) -> str:
        """Listen; the address. What has ended meanwhile ends now."""
        ready = threading.Event()
        self._failed = None
        self._thread = threading.Thread(target=self._main, args=(ready,), name="vaultlike", daemon=True)
        self._thread.start()
        ready.wait()
        if self._failed is not None:
            self._thread.join()
            self._thread = None
            raise self._failed
        return self.address

    def stop(self) -> None:
        """Drop every connection and refuse new ones; nothing is revoked."""
        if self._thread is None or self._loop is None or self._stop is None:
            return
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_STOP_DEADLINE)
        if self._thread.is_alive():
            raise TimeoutError("vaultlike did not stop")
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def reload(self) -> None:
        """Read the certificate and key again, for connections made from now on."""
        if self._context is not None and self._tls is not None and self._loop is not None:
            # In the thread that shakes hands: between certificate and key there must be no handshake.
            self._loop.call_soon_threadsafe(self._context.load_cert_chain, self._tls.cert, self._tls.key)

    # -- scripts and what was seen -----------------------------------------------------------------------------------

    def fault(self, prefix: str = "", **how: Any) -> None:
        """Misbehave from the next request on; see Fault."""
        self._faults.add(Fault(prefix=prefix.removeprefix("/v1/"), **how))

    def clear(self, prefix: str | None = None) -> None:
        """Behave again."""
        self._faults.clear(prefix)

    def requests(self, prefix: str = "", method: str | None = None) -> list[Seen]:
        """What was asked, oldest first; PUT and POST stand as they came."""
        return self._log.read(prefix, method)

    def forget(self) -> None:
        """Empty the log."""
        self._log.clear()

    # -- the thread --------------------------------------------------------------------------------------------------

    def _main(self, ready: threading.Event) -> None:
        try:
            # Not asyncio.run: that waits for the executor, and so for a statement that hangs at a database.
            with contextlib.closing(asyncio.new_event_loop()) as loop:
                loop.run_until_complete(self._run(ready))
        except (OSError, ssl.SSLError) as exc:  # handed to start()
            self._failed = exc
        finally:
            ready.set()

    async def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="vaultlike")
        self._loop.set_default_executor(executor)
        if self._core is None:
            self._core = Core(Catalog(), root_token=self.root, unseal_key=self.unseal_key)
        self._context = self._tls_context()
        server, connections = await http.listen(self._handle, "127.0.0.1", self.port, self._context)
        self.port = server.sockets[0].getsockname()[1]
        timer = asyncio.create_task(self._core.timer.run(), name="timer")
        ready.set()
        try:
            await self._stop.wait()
        finally:
            server.close()
            for task in (timer, *connections):
                task.cancel()
            await asyncio.gather(timer, *connections, return_exceptions=True)
            await server.wait_closed()
            executor.shutdown(wait=False, cancel_futures=True)

    def _tls_context(self) -> ssl.SSLContext | None:
        if self._tls is None:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._tls.cert, self._tls.key)
        # Python cannot ask for a certificate without checking it: one that nobody vouches for ends the handshake,
        # where Vault would end the login.
        context.verify_mode = ssl.CERT_OPTIONAL
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        if self._tls.client_ca is not None:
            context.load_verify_locations(self._tls.client_ca)
        self._trusted = 0
        return context

    def _trust(self, core: Core) -> None:
        """Let clients in whose certificates auth/cert has been told of since."""
        if self._context is not None:
            for pem in core.trusted[self._trusted :]:
                self._context.load_verify_locations(cadata=pem)
            self._trusted = len(core.trusted)

    # -- requests ----------------------------------------------------------------------------------------------------

    async def _handle(self, asked: Asked, exchange: http.Exchange) -> http.Reply | None:
        core = self._core
        assert core is not None
        if asked.path.removeprefix("/").startswith(_CONTROL):
            return self._control(asked)
        entry = self._note(asked, core)
        fault = self._faults.take(asked.method, asked.path)
        reply = None
        if fault is None or _is_done(fault):
            if fault is not None and not fault.after:
                await asyncio.sleep(fault.delay)
            status, body = await core.answer(asked)
            self._trust(core)
            namespace = asked.headers.get("x-vault-namespace")
            reply = http.reply_of(status, body, {"X-Vault-Namespace": namespace} if namespace else None)
        if fault is not None and _ends(fault):
            await asyncio.sleep(fault.delay)
            reply = await _spoiled(fault, reply, exchange)
        entry["status"] = reply.status if reply else 0
        return reply

    def _note(self, asked: Asked, core: Core) -> dict[str, Any]:
        token = core.tokens.find(asked.client_token)
        headers = {name: "present" if name in _SECRET_HEADERS else value for name, value in asked.headers.items()}
        body: Any = {}
        with contextlib.suppress(ValueError):
            body = json.loads(asked.content or b"{}")
        return self._log.add(
            method=asked.method,
            path=asked.path,
            query=asked.query,
            headers=headers,
            body=body if isinstance(body, dict) else {},
            accessor=token.accessor if token else "",
        )

    def _control(self, asked: Asked) -> http.Reply:
        """requests and faults from another process, with the root token."""
        if asked.client_token != self.root:
            return http.reply_of(403, {"errors": ["permission denied"]})
        what = asked.path.removeprefix("/").removeprefix(_CONTROL)
        if what == "requests" and asked.method == "GET":
            return http.reply_of(200, {"data": [vars(one) for one in self._log.read()]})
        if what == "requests" and asked.method == "DELETE":
            self._log.clear()
            return http.reply_of(204, None)
        if what == "faults" and asked.method == "POST":
            self._faults.add(_fault_of(json.loads(asked.content)))
            return http.reply_of(204, None)
        if what == "faults" and asked.method == "DELETE":
            self._faults.clear(asked.query.get("prefix"))
            return http.reply_of(204, None)
        return http.reply_of(404, {"errors": []})


def _fault_of(said: dict[str, Any]) -> Fault:
    raw = said.pop("raw", None)
    return Fault(**said, raw=raw.encode("latin-1") if isinstance(raw, str) else None)


def _is_done(fault: Fault) -> bool:
    """Whether what was asked is done all the same."""
    return fault.after or not _ends(fault) or (fault.cut is not None and fault.status is None)


def _ends(fault: Fault) -> bool:
    """Whether it puts something in the answer's place, or spoils it."""
    return fault.status is not None or fault.hang or fault.reset or fault.raw is not None or fault.cut is not None


async def _spoiled(fault: Fault, reply: http.Reply | None, exchange: http.Exchange) -> http.Reply | None:
    if fault.hang:
        await exchange.hang()
        return None
    if fault.reset:
        exchange.reset()
        return None
    if fault.raw is not None:
        exchange.writer.write(fault.raw)
        await exchange.writer.drain()
        return None
    if fault.status is not None:
        reply = http.reply_of(fault.status, fault.body, dict(fault.headers))
    if reply is not None:
        reply.cut = fault.cut
    return reply
