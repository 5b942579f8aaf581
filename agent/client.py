"""Requests to a running agent over its Unix socket, for the command line. Standard library only, and little of it.

`http.client` would bring the e-mail parser along and double the start of `leasehold probe`, which an exec probe runs
every second. Each request has a connection of its own, so that the answer ends where the connection does.
"""

import json
import socket
from collections.abc import Mapping
from typing import Any, NamedTuple

from agent import dial
from agent.codes import Unknown, shown
from agent.errors import ConfigError, LeaseholdError

_LARGEST = 16 << 20
_CHUNK = 1 << 16


class NoAgent(LeaseholdError):
    """Nobody answers on the socket."""


class Silent(NoAgent):
    """Somebody listens there and does not answer in time."""


class Answer(NamedTuple):
    """What the agent said.

    Attributes:
        headers: by lower-case name.
        body: the JSON document; an empty mapping where there was none.
    """

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]

    @property
    def error(self) -> str:
        """The agent's own words for what went wrong, in one line."""
        errors = self.body.get("errors")
        return "; ".join(str(each) for each in errors) if isinstance(errors, list) else f"status {self.status}"


def ask(path: str, method: str, target: str, *, body: object = None, timeout: float = 10.0) -> Answer:
    """One request to the agent that listens on the socket `path`.

    Args:
        timeout: seconds for all of it.

    Raises:
        NoAgent: nobody listens there, we may not open it, the answer takes too long or is none of ours.
    """
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: leasehold\r\nConnection: close\r\n"
    if content:
        head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
    try:
        answered = _exchanged(path, f"{head}\r\n".encode("ascii") + content, timeout)
        return _parsed(answered, bare=method == "HEAD")
    except PermissionError as error:
        raise NoAgent(f"{path}: this uid may not open the socket; its mode and group say who may") from error
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NoAgent(f"{path}: no agent listens there; start one, or name its socket with --socket") from error
    except TimeoutError as error:
        raise Silent(f"{path}: the agent did not answer within {timeout:.3g} s") from error
    except (OSError, ValueError) as error:
        raise NoAgent(f"{path}: no answer of a Leasehold agent ({type(error).__name__})") from error


def _exchanged(path: str, request: bytes, timeout: float) -> bytes:
    """All that is answered to `request`."""
    end = dial.now() + timeout
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(request)
        while chunk := connection.recv(_CHUNK):
            received += chunk
            if len(received) > _LARGEST:
                raise ValueError("the answer has no end")
            connection.settimeout(max(0.001, end - dial.now()))
    return bytes(received)


def _parsed(data: bytes, *, bare: bool) -> Answer:
    """The answer in `data`; a `bare` one has no body, whatever length it states.

    Raises:
        ValueError: it is no whole answer with a JSON document of its stated length.
    """
    head, _, content = data.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("not HTTP")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    if not bare and int(headers.get("content-length", "0")) != len(content):
        raise ValueError("cut short")
    document = json.loads(content) if content else {}
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    return Answer(status=int(status[:3]), headers=headers, body=document)


def report(path: str, *, timeout: float = 10.0) -> Mapping[str, Any]:
    """What the agent says of itself at /v1/sys/health.

    Raises:
        NoAgent: nobody says it.
    """
    answer = ask(path, "GET", "/v1/sys/health", timeout=timeout)
    if answer.status != 200 or "roles" not in answer.body:
        raise NoAgent(f"{path}: {answer.error}")
    return answer.body


def target(role: str) -> str:
    """Where a role is read.

    Raises:
        Unknown: no role is called that.
    """
    if not (role.isascii() and role.isprintable()) or set(role) & set(" ?#%"):
        raise Unknown(f"{shown(role)}: no such role")
    return f"/v1/{role}"


def full_name(path: str, role: str, *, timeout: float = 10.0) -> str:
    """`role` itself, or the one role whose path ends in it.

    Raises:
        Unknown: no role that this uid may read.
        ConfigError: several.
    """
    if "/" in role:
        return role.strip("/")
    roles = list(report(path, timeout=timeout)["roles"])
    found = [name for name in roles if name.rpartition("/")[2] == role]
    if not found:
        raise Unknown(f"{role}: no such role; this uid may read {', '.join(roles) or 'none'}")
    if len(found) > 1:
        raise ConfigError([f"{role}: name one role by its whole path: {', '.join(found)}"])
    return str(found[0])
