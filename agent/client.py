"""A request to a running agent over its Unix socket, for the command line. Standard library only."""

import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import LeaseholdError


class NoAgent(LeaseholdError):
    """Nobody answers on the socket."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the agent said.

    Attributes:
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


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("leasehold", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path: str, method: str, target: str, *, body: object = None, timeout: float = 10.0) -> Answer:
    """One request to the agent that listens on the socket `path`.

    Raises:
        NoAgent: nobody listens there, we may not open it, or the answer is none of ours.
    """
    connection = _UnixConnection(path, timeout)
    content = None if body is None else json.dumps(body)
    try:
        connection.request(method, target, content, {"Content-Type": "application/json"} if content else {})
        response = connection.getresponse()
        text = response.read(1 << 20)
        document = json.loads(text) if text else {}
    except PermissionError as error:
        raise NoAgent(f"{path}: this uid may not open the socket; its mode and group say who may") from error
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        raise NoAgent(f"{path}: no agent listens there; start one, or name its socket with --socket") from error
    except TimeoutError as error:
        raise NoAgent(f"{path}: the agent did not answer within {timeout:g} s") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoAgent(f"{path}: no answer of a Leasehold agent ({type(error).__name__})") from error
    finally:
        connection.close()
    return Answer(status=response.status, headers=dict(response.getheaders()), body=document)
