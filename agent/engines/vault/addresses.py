"""Where a cluster answers: its addresses in turn, and the hosts that a redirect may lead to."""

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

from agent.config.addresses import loopback

_PORTS = {"http": 80, "https": 443}
_HARMLESS = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,120}")


class Refused(Exception):
    """A redirect that is not followed; the text says why, in words that may be told."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """One server: where to connect, and what comes before /v1/.

    Attributes:
        scheme: "http" or "https".
        host: a name or an IP address, without brackets, in lower case.
        port: always a number.
        base: path before /v1/, "" as a rule; begins with a slash, ends without one.
    """

    scheme: str
    host: str
    port: int
    base: str = ""

    @property
    def authority(self) -> str:
        """HOST:PORT as a Host header has it: without a port that goes without saying."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def label(self) -> str:
        """What people read, in logs and errors."""
        return f"{self.scheme}://{self.authority}"

    @property
    def place(self) -> tuple[str, int]:
        """Host and port."""
        return self.host, self.port


def parse_address(text: str) -> Address:
    """The address that `text` means.

    Raises:
        ValueError: it is none, or holds what no address should: a user, a password, a query.
    """
    parts = urlsplit(text)
    if parts.scheme not in _PORTS or not parts.hostname or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("not an address: write https://HOST:PORT")
    return _address_of(parts, parts.path.rstrip("/"))


def _address_of(parts: SplitResult, base: str = "") -> Address:
    port = parts.port or _PORTS[parts.scheme]
    return Address(scheme=parts.scheme, host=(parts.hostname or "").lower(), port=port, base=base)


@dataclass(frozen=True, kw_only=True)
class Switch:
    """Another address answers now.

    Attributes:
        address: which one.
        reason: what was wrong with the one before.
    """

    address: Address
    reason: str


class Addresses:
    """The addresses of one cluster, in the order in which to try them; shared by threads.

    The first to try is the one that answered last. One that is sealed, resets or hangs is tried last by the next call.

    Args:
        addresses: the configuration's, at least one.
        redirect_hosts: "HOST:PORT" of further servers that a redirect may lead to.
    """

    def __init__(self, addresses: Sequence[Address], redirect_hosts: Sequence[str]) -> None:
        self._all = tuple(dict.fromkeys(addresses))
        self._allowed = {address.place for address in self._all}
        for text in redirect_hosts:
            parts = urlsplit(f"//{text}")
            ports = (parts.port,) if parts.port else tuple(_PORTS.values())
            self._allowed |= {((parts.hostname or "").lower(), port) for port in ports}
        self._lock = threading.Lock()
        self._first = self._all[0]
        self._serving = self._all[0]
        self._reason = ""

    def __repr__(self) -> str:
        return f"Addresses({', '.join(address.label for address in self.in_turn())})"

    @property
    def serving(self) -> Address:
        """The one that answered last; before any has, the configuration's first."""
        with self._lock:
            return self._serving

    def in_turn(self) -> tuple[Address, ...]:
        """All of them, the one to try first first."""
        with self._lock:
            start = self._all.index(self._first)
        return self._all[start:] + self._all[:start]

    def answered(self, address: Address) -> Switch | None:
        """`address` has given an answer of use: begin there next time.

        Returns:
            What to tell, where another one did so before. A redirect's host outside the list changes nothing.
        """
        with self._lock:
            if address not in self._all:
                return None
            self._first = address
            reason, self._reason = self._reason, ""
            if address == self._serving:
                return None
            self._serving = address
            return Switch(address=address, reason=reason or "it leads the cluster")

    def unreachable(self, reason: str) -> None:
        """One could not be connected to, and the next is tried at once: remember why, should that one answer."""
        with self._lock:
            self._reason = reason

    def failed(self, address: Address, reason: str, *, began_with: Address) -> None:
        """`address` was reached, and of no use: the next call begins with the one after it.

        Args:
            began_with: the first that the call tried. If another call has learnt better since, that stands.
        """
        with self._lock:
            if self._first == began_with:
                self._reason = reason
                self._first = self._all[(self._all.index(address) + 1) % len(self._all)]

    def redirected(self, source: Address, sent_path: str, location: str) -> Address:
        """The server that `location`, the redirect of a request for `sent_path` at `source`, leads to.

        Only the server is taken from it. The path must be the request's own: a standby sends it on unchanged.

        Raises:
            Refused: no token may go there.
        """
        try:
            parts = urlsplit(urljoin(f"{source.label}{sent_path}", location))
            target = _address_of(parts, source.base) if parts.scheme in _PORTS and parts.hostname else None
        except ValueError:
            target = None
        if target is None:
            raise Refused("redirects to what is no address")
        if target.place not in self._allowed:
            host = f" ({target.authority})" if _HARMLESS.fullmatch(target.authority) else ""
            raise Refused(
                f"redirects to another host{host}, and no token is sent there; "
                "if it belongs to the cluster, add its HOST:PORT to redirect_hosts"
            )
        if source.scheme == "https" and target.scheme != "https":
            raise Refused("redirects from https to http, and no token is sent in clear")
        if target.scheme != "https" and not loopback(target.host):
            raise Refused("redirects to http on another machine, and no token is sent there in clear")
        if unquote(parts.path) != unquote(sent_path.partition("?")[0]):
            raise Refused("redirects to another path, as no server of a cluster does; is it a proxy's login page?")
        return next((known for known in self._all if known.place == target.place), target)
