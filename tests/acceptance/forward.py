"""A forward proxy on loopback that tunnels where it is asked to (CONNECT), notes whereto, and can cut every tunnel."""

import contextlib
import socket
import socketserver
import threading
from typing import Any, Self


class ForwardProxy:
    """Use as a context manager.

    Attributes:
        asked: HOST:PORT of every tunnel so far, in order.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._server = _Server(("127.0.0.1", 0), self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="forward-proxy")

    @property
    def address(self) -> str:
        """As a configuration names it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self.cut()

    def cut(self) -> None:
        """End every tunnel; new ones may be asked for."""
        with self._lock:
            ends = list(self._open)
        for one in ends:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def serve(self, near: socket.socket) -> None:
        """One connection, until either side ends it."""
        with contextlib.suppress(OSError), near.makefile("rb") as reader:
            method, target, _ = reader.readline().decode("latin-1").split(" ", 2)
            while reader.readline().strip():
                pass
            if method != "CONNECT":
                near.sendall(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            self.asked.append(target)
            host, _, port = target.rpartition(":")
            with socket.create_connection((host, int(port)), 10.0) as far:
                far.settimeout(None)
                near.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                self._tunnel(near, far)

    def _tunnel(self, near: socket.socket, far: socket.socket) -> None:
        with self._lock:
            self._open |= {near, far}
        back = threading.Thread(target=_pipe, args=(far, near), name="forward-proxy back")
        back.start()
        _pipe(near, far)
        back.join()
        with self._lock:
            self._open -= {near, far}


def _pipe(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            sink.sendall(piece)
    for one in (source, sink):
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], proxy: ForwardProxy) -> None:
        self._proxy = proxy
        super().__init__(address, socketserver.BaseRequestHandler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._proxy.serve(request)

    def shutdown_request(self, request: Any) -> None:
        with contextlib.suppress(OSError):
            super().shutdown_request(request)
