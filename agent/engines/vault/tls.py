"""TLS to a cluster: contexts made from the files as they are now, and what went wrong in words with a remedy.

Nothing of the environment enters: no SSL_CERT_FILE, SSL_CERT_DIR or SSLKEYLOGFILE, which a context made by
`ssl.create_default_context` would obey.
"""

import os
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from agent.config.upstreams import Vault
from agent.engines.vault.sockets import TlsSocket

# Where distributions keep the CAs that they trust, after the places that OpenSSL was built with.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_KEPT = 4

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
    """A certificate's, key's or CA's file is of no use; the text names it."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """How to shake hands.

    Attributes:
        context: with the CAs and the client certificate in it.
        stamp: differs once one of the files differs: a connection made before should not be used any more.
    """

    context: ssl.SSLContext
    stamp: Stamp


class Contexts:
    """Contexts of one cluster; shared by threads. They cost milliseconds and megabytes, so they are kept."""

    def __init__(self, server: Vault) -> None:
        self._server = server
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
        stamp = (certificate, *(_stamp("ca_cert", path) for path in [server.ca_cert] if path))
        stamp += tuple(_stamp("client certificate", path) for path in certificate or ())
        with self._lock:
            context = self._made.pop(stamp, None) or self._make(certificate)
            self._made[stamp] = context  # the newest last
            while len(self._made) > _KEPT:
                del self._made[next(iter(self._made))]
        return Tls(context=context, stamp=stamp)

    def _make(self, certificate: tuple[str, str] | None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # ca_cert may be an intermediate, as for Go's clients
        context.set_alpn_protocols(["http/1.1"])
        if self._server.tls_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            _trust(context, self._server.ca_cert)
        if certificate:
            _present(context, *certificate)
        return context


def _stamp(what: str, path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError as problem:
        raise BadFiles(f"{what} {path}: {problem.strerror}") from problem
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _trust(context: ssl.SSLContext, ca_cert: str | None) -> None:
    if ca_cert is not None:
        try:
            context.load_verify_locations(ca_cert)
        except OSError as problem:  # an SSLError is one
            raise BadFiles(f"ca_cert {ca_cert}: {_file_words(problem)}") from problem
        return
    built = ssl.get_default_verify_paths()
    file = next((path for path in (built.openssl_cafile, *_BUNDLES) if path and Path(path).is_file()), None)
    folder = built.openssl_capath if built.openssl_capath and Path(built.openssl_capath).is_dir() else None
    if file is None and folder is None:
        raise BadFiles("this system keeps no CA certificates: set ca_cert")
    context.load_verify_locations(file, folder)


def _present(context: ssl.SSLContext, file: str, key: str) -> None:
    def no_password() -> str:  # without it, OpenSSL would ask a terminal
        raise BadFiles(f"client key {key} is encrypted: give one that is not")

    try:
        context.load_cert_chain(file, key, password=no_password)
    except OSError as problem:
        raise BadFiles(f"client certificate {file} with key {key}: {_file_words(problem)}") from problem


def _file_words(problem: OSError) -> str:
    if not isinstance(problem, ssl.SSLError):
        return str(problem.strerror)
    if problem.reason == "KEY_VALUES_MISMATCH":
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
