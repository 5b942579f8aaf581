"""An agent that says what a test wants said: the commands run in this process, the socket is real."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Answers = Mapping[str, "tuple[int, Any]"]
"""By "METHOD target": status and JSON document. What is not named is 404."""


@dataclass
class Asked:
    """What was asked, in order: "METHOD target" and the JSON body, None where there was none."""

    requests: list[tuple[str, Any]] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """Without the bodies."""
        return [line for line, _ in self.requests]


@contextlib.contextmanager
def canned(path: Path, answers: Answers) -> Iterator[Asked]:
    """Answer on the socket `path` until the block ends."""
    asked = Asked()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        server = threading.Thread(target=_serve, args=(listener, answers, asked))
        server.start()
        try:
            yield asked
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            server.join()


def _serve(listener: socket.socket, answers: Answers, asked: Asked) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, connection.makefile("rb") as stream:
            method, target, _ = stream.readline().decode().split(" ", 2)
            length = 0
            while (line := stream.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            body = json.loads(stream.read(length)) if length else None
            asked.requests.append((f"{method} {target}", body))
            status, document = answers.get(f"{method} {target}", (404, {"errors": ["no such path"]}))
            content = b"" if document is None else json.dumps(document).encode()
            head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n".encode()
            connection.sendall(head + (b"" if method == "HEAD" else content))
