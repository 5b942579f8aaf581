"""TLS to a cluster: contexts made from the files as they are now, and what went wrong in words with a remedy."""

import contextlib
import os
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from agent import regular, trust
from agent.config.upstreams import Vault
from agent.engines.vault.sockets import TlsSocket

_KEPT = 4
_LARGEST = 4 << 20
"""Bytes of one file; a system's bundle of all public CAs has 220 KiB."""

_PATIENCE = 1.0
"""Seconds to wait for another thread that looks at the files. They take it milliseconds, or their mount is dead."""

# X509_V_ERR_* of OpenSSL's x509_vfy.h.
_UNTRUSTED = (2, 18, 19, 20, 21, 24, 27)
_NOT_YET, _EXPIRED, _REVOKED = 9, 10, 23
_NAMES = (62, 64)

_ALERTS = {
    "CERTIFICATE_REQUIRED": "it asks for a client certificate: set client_cert and client_key",
    "HANDSHAKE_FAILURE": "it refuses the handshake: a client certificate may be missing (client_cert, client_key), "
    "or no TLS version is common",
    "BAD_CERTIFICATE": "it does not accept our client certificate: see client_cert",
    "UNKNOWN_CA": "it does not know the CA of our client certificate: see client_cert",
    "CERTIFICATE_EXPIRED": "it says that our client certificate has expired: see client_cert",
    "CERTIFICATE_UNKNOWN": "it does not accept our client certificate: see client_cert",
    "CERTIFICATE_REVOKED": "it says that our client certificate was revoked: see client_cert",
}
_NO_TLS = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")

Stamp = tuple[object, ...]


class BadFiles(Exception):
    """A certificate's, key's or CA's file is of no use; the text names it, and the remedy."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How to shake hands.

    Attributes:
        context: with the CAs and the client certificate in it.
        stamp: differs once one of the files differs: a connection made before should not be used any more.
    """

    context: ssl.SSLContext
    stamp: Stamp


@dataclass(frozen=True, kw_only=True)
class _File:
    """One of the files; `key` is the configuration's."""

    what: str
    path: str
    key: str

    def stamp(self) -> Stamp:
        """Differs where the contents do."""
        try:
            found = os.stat(self.path)
        except (OSError, ValueError) as problem:
            raise self._unreadable(problem) from problem
        return self.what, self.path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def read(self) -> bytes:
        """What is in it."""
        try:
            data, _ = regular.read(self.path, _LARGEST + 1)
        except (OSError, ValueError) as problem:
            raise self._unreadable(problem) from problem
        if len(data) > _LARGEST:
            raise BadFiles(f"{self.what} {self.path} cannot be read: it is larger than 4 MiB; {self._remedy}")
        return data

    def _unreadable(self, problem: Exception) -> BadFiles:
        why = (isinstance(problem, OSError) and problem.strerror) or "no such path"
        why = f"it {why}" if isinstance(problem, regular.NotAFile) else why
        return BadFiles(f"{self.what} {self.path} cannot be read: {why}; {self._remedy}")

    @property
    def _remedy(self) -> str:
        return f"put it there (PEM), or set {self.key}"


class Contexts:
    """Contexts of one cluster; shared by threads. They cost milliseconds and megabytes, so they are kept."""

    def __init__(self, server: Vault) -> None:
        self._server = server
        self._looking = threading.Lock()
        self._lock = threading.Lock()
        self._made: dict[Stamp, ssl.SSLContext] = {}

    def get(self, certificate: tuple[str, str] | None) -> Tls:
        """How to shake hands now, with `certificate` (its file and its key's) or the configuration's.

        Raises:
            BadFiles: a file is missing, or not what it should be.
        """
        server = self._server
        if certificate is None and server.client_cert and server.client_key:
            certificate = (server.client_cert, server.client_key)
        authority = _File(what="ca_cert", path=server.ca_cert, key="ca_cert") if server.ca_cert else None
        own = _pair(*certificate) if certificate else ()
        files = (*([authority] if authority else []), *own)
        with self._alone(files):
            stamp = tuple(file.stamp() for file in files)
            with self._lock:
                context = self._made.get(stamp)
            read = {} if context else {file: file.read() for file in files}
        if context is None:
            context = self._make(authority, own, read)
        with self._lock:
            self._made.pop(stamp, None)
            self._made[stamp] = context  # the newest last
            while len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
        return Tls(context=context, stamp=stamp)

    @contextlib.contextmanager
    def _alone(self, files: tuple[_File, ...]) -> Iterator[None]:
        """One thread looks at a time: where a mount is dead it hangs there for ever, and the others do not."""
        if not self._looking.acquire(timeout=_PATIENCE):
            names = " and ".join(file.path for file in files)
            raise BadFiles(f"{names} cannot be read: the file system does not answer; look at the mount")
        try:
            yield
        finally:
            self._looking.release()

    def _make(self, authority: _File | None, own: tuple[_File, ...], read: dict[_File, bytes]) -> ssl.SSLContext:
        context = trust.bare_context()
        context.sslsocket_class = TlsSocket
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # ca_cert may be an intermediate, as for Go's clients
        if self._server.tls_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif authority is not None:
            _trust(context, authority, read[authority])
        else:
            _trust_system(context)
        if own:
            _present(context, own[0], own[1], read)
        return context


def _pair(certificate: str, key: str) -> tuple[_File, _File]:
    return (
        _File(what="client certificate", path=certificate, key="client_cert"),
        _File(what="client key", path=key, key="client_key"),
    )


def _trust(context: ssl.SSLContext, authority: _File, data: bytes) -> None:
    try:
        # Bundles have the CAs' names beside the certificates, in any encoding.
        context.load_verify_locations(cadata=data.decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as problem:  # ValueError: it is empty
        raise BadFiles(f"ca_cert {authority.path}: {_file_words(problem)}") from problem


def _trust_system(context: ssl.SSLContext) -> None:
    try:
        trust.trust_system(context)
    except OSError as problem:
        raise BadFiles(f"{problem.strerror}: set ca_cert") from problem


def _present(context: ssl.SSLContext, certificate: _File, key: _File, read: dict[_File, bytes]) -> None:
    def no_password() -> str:  # without it, OpenSSL would ask a terminal
        raise BadFiles(f"client key {key.path} is encrypted: give one that is not")

    try:
        with _as_file(certificate, read) as one, _as_file(key, read) as other:
            context.load_cert_chain(one, other, password=no_password)
    except OSError as problem:
        words = _file_words(problem)
        raise BadFiles(f"client certificate {certificate.path} with key {key.path}: {words}") from problem


@contextlib.contextmanager
def _as_file(file: _File, read: dict[_File, bytes]) -> Iterator[str]:
    """A path for OpenSSL, which takes a client's certificate and key in no other form.

    It leads to what has been read, in memory: whatever stands in the file's place by now is not opened.
    """
    try:
        held = os.fdopen(os.memfd_create("pem"), "wb")
    except (AttributeError, OSError):  # only Linux has it, and a sandbox may forbid it
        yield file.path
        return
    with held:
        held.write(read[file])
        held.flush()
        yield f"/proc/self/fd/{held.fileno()}"


def _file_words(problem: Exception) -> str:
    if isinstance(problem, OSError) and not isinstance(problem, ssl.SSLError):
        return str(problem.strerror)
    if isinstance(problem, ssl.SSLError) and problem.reason == "KEY_VALUES_MISMATCH":
        return "they do not belong together"
    return "there is no certificate or key in it that can be used"


def words(problem: ssl.SSLError, name: str) -> str:
    """What is wrong with a connection to the host `name`, and the remedy."""
    if isinstance(problem, ssl.SSLCertVerificationError):
        return _verification(problem.verify_code, name)
    reason = problem.reason or ""
    for alert, meaning in _ALERTS.items():
        if reason.endswith(f"ALERT_{alert}"):
            return meaning
    if isinstance(problem, ssl.SSLEOFError):
        return "it ended the TLS handshake without a word: does it ask for a client certificate (client_cert)?"
    if reason in _NO_TLS:
        return "it does not speak TLS: is its address http://…?"
    return "TLS failed" + (f" ({reason.lower()})" if reason.replace("_", "").isalnum() else "")


def _verification(code: int, name: str) -> str:
    if code in _NAMES:
        return f"its certificate does not carry the name {name}: set tls_server_name to one that it carries"
    if code == _EXPIRED:
        return "its certificate has expired, or this machine's clock is wrong"
    if code == _NOT_YET:
        return "its certificate is not valid yet, or this machine's clock is wrong"
    if code == _REVOKED:
        return "its certificate was revoked"
    if code in _UNTRUSTED:
        return "its certificate is not signed by a CA that we trust: set ca_cert"
    return f"its certificate is not accepted (OpenSSL's code {code})"


def before_request(problem: ssl.SSLError) -> bool:
    """Whether the server refused our certificate: with TLS 1.3 that is heard only once the request has been written."""
    return any((problem.reason or "").endswith(f"ALERT_{alert}") for alert in _ALERTS)
