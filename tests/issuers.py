"""Who vouches for a pod in tests: an issuer of tokens, the kubelet's directory, a cluster's TokenReview, and a CA."""

import base64
import datetime
import ipaddress
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

ISSUER = "https://kubernetes.default.svc.cluster.local"

# -- tokens ----------------------------------------------------------------------------------------------------------


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Issuer:
    """Signs JSON web tokens, and knows its own again.

    Args:
        algorithm: "RS256" or "ES256".
    """

    def __init__(self, algorithm: str = "RS256", *, issuer: str = ISSUER) -> None:
        self.issuer = issuer
        self._algorithm = algorithm
        self._rsa = rsa.generate_private_key(65537, 2048) if algorithm == "RS256" else None
        self._ec = ec.generate_private_key(ec.SECP256R1())

    @property
    def public_pem(self) -> str:
        """What tokens are checked with."""
        key = (self._rsa or self._ec).public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return key.public_bytes(serialization.Encoding.PEM, form).decode()

    def token(self, subject: str, *, audience: Sequence[str] = ("vault",), ttl: float = 600.0, more: Any = None) -> str:
        """A token that ends `ttl` seconds from now, or has ended if negative; `more` adds or replaces claims."""
        now = int(time.time())
        said = {
            "iss": self.issuer,
            "sub": subject,
            "aud": list(audience),
            "iat": min(now, int(now + ttl)),
            "nbf": min(now, int(now + ttl)),
            "exp": int(now + ttl),
            "jti": secrets.token_hex(8),
            **(more or {}),
        }
        head = {"alg": self._algorithm, "typ": "JWT"}
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (head, said))
        return f"{signed}.{_encoded(self._sign(signed.encode()))}"

    def service_account_token(self, namespace: str = "default", name: str = "app", **how: Any) -> str:
        """As the cluster's API server makes it for a projected volume."""
        particulars = {
            "namespace": namespace,
            "pod": {"name": f"{name}-0", "uid": "8d6f0b53-6c4a-4f6e-9d57-0c6b7a2f0000"},
            "serviceaccount": {"name": name, "uid": "3f0b1f4e-55a2-4b0a-8a61-5f2d4f1d0000"},
        }
        return self.token(f"system:serviceaccount:{namespace}:{name}", more={"kubernetes.io": particulars}, **how)

    def claims(self, token: str) -> dict[str, Any] | None:
        """What a token of ours says; None if it is not ours, or has ended."""
        try:
            signed, _, signature = token.rpartition(".")
            self._verify(_decoded(signature), signed.encode())
            said: dict[str, Any] = json.loads(_decoded(signed.split(".")[1]))
        except (InvalidSignature, ValueError, IndexError):
            return None
        return said if said["exp"] > time.time() else None

    def _sign(self, data: bytes) -> bytes:
        if self._rsa:
            return self._rsa.sign(data, padding.PKCS1v15(), hashes.SHA256())
        r, s = decode_dss_signature(self._ec.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    def _verify(self, signature: bytes, data: bytes) -> None:
        if self._rsa:
            self._rsa.public_key().verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
            return
        r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
        self._ec.public_key().verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))


class ProjectedToken:
    """A directory as the kubelet keeps a projected token in it: `token` leads through `..data` to the real file.

    Attributes:
        directory: the volume's mount.
        path: what a configuration names.

    Args:
        make: gives the next token.
    """

    def __init__(self, directory: Path, make: Callable[[], str]) -> None:
        self.directory = directory
        self.path = directory / "token"
        self._make = make
        directory.mkdir(parents=True)
        self.rotate()
        self.path.symlink_to("..data/token")

    def read(self) -> str:
        """The token that is there now."""
        return self.path.read_text()

    def rotate(self) -> str:
        """Put the next token in place as the kubelet does, and return it: a new directory, then one rename."""
        return self.put(self._make())

    def put(self, token: str) -> str:
        """Put that text in place."""
        fresh = self.directory / f"..2026_01_01_00_00_00.{secrets.randbelow(10**9)}"
        fresh.mkdir()
        (fresh / "token").write_text(token)
        (fresh / "token").chmod(0o640)
        link, data = self.directory / "..data_tmp", self.directory / "..data"
        old = data.resolve() if data.is_symlink() else None
        link.symlink_to(fresh.name)
        link.rename(data)
        if old is not None:
            (old / "token").unlink()
            old.rmdir()
        return token


# -- the cluster's TokenReview ---------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    owner: "TokenReviewer"


class TokenReviewer:
    """The part of a Kubernetes API server that a Vault asks whether a pod's token is good; on loopback, in a thread.

    Attributes:
        ca: text of the certificate that its own is checked against.
        token: what the Vault must show to be allowed to ask.
        reviews: subjects asked about so far; "" for tokens that are not ours.
        broken: while True it answers 500.
    """

    PATH = "/apis/authentication.k8s.io/v1/tokenreviews"

    def __init__(self, issuer: Issuer, authority: "Authority") -> None:
        self.issuer = issuer
        self.ca = authority.file.read_text()
        self.token = issuer.service_account_token("kube-system", "vault-reviewer", audience=[issuer.issuer], ttl=86400)
        self.reviews: list[str] = []
        self.broken = False
        self._server = _Server(("127.0.0.1", 0), _Review)
        self._server.owner = self
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*map(str, authority.server("kubernetes")))
        # Shaking hands on the first read leaves it to the connection's own thread.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="token-review")

    @property
    def address(self) -> str:
        """What `kubernetes_host` is set to."""
        return f"https://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, authorization: str, review: Mapping[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and document for one TokenReview."""
        if self.broken:
            return 500, {"kind": "Status", "status": "Failure", "reason": "InternalError", "code": 500}
        if authorization != f"Bearer {self.token}":
            return 401, {"kind": "Status", "status": "Failure", "reason": "Unauthorized", "code": 401}
        claims = self.issuer.claims(review["spec"]["token"])
        self.reviews.append(claims["sub"] if claims else "")
        return 201, {**review, "status": self._status(claims, review["spec"].get("audiences") or [self.issuer.issuer])}

    @staticmethod
    def _status(claims: Mapping[str, Any] | None, wanted: Sequence[str]) -> dict[str, Any]:
        shared = [one for one in (claims or {"aud": []})["aud"] if one in wanted]
        if claims is None or not shared:
            return {"authenticated": False, "error": "[invalid bearer token, token is not for the audience]"}
        account = claims["kubernetes.io"]["serviceaccount"]
        groups = ["system:serviceaccounts", "system:authenticated"]
        user = {"username": claims["sub"], "uid": account["uid"], "groups": groups}
        return {"authenticated": True, "user": user, "audiences": shared}


class _Review(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, document = 404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}
        if self.path == TokenReviewer.PATH:
            status, document = self.server.owner.answer(self.headers.get("Authorization", ""), review)
        content = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests count `reviews`."""


# -- certificates ----------------------------------------------------------------------------------------------------


class Authority:
    """A CA of its own, and the certificates it signs, as files.

    Attributes:
        file: its certificate.
    """

    def __init__(self, directory: Path, name: str = "tests' CA") -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        signed = (
            self._builder(self._name, self._key.public_key(), 86400.0)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self.file = directory / "ca.pem"
        self.file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def server(self, name: str = "server", *, hosts: Sequence[str] = ("127.0.0.1", "localhost"), ttl: float = 3600.0):
        """Files of a server's certificate and key; the same `name` again puts a new pair in their place."""
        return self._issue(name, ExtendedKeyUsageOID.SERVER_AUTH, hosts, ttl)

    def client(self, name: str = "app", *, ttl: float = 3600.0) -> tuple[Path, Path]:
        """Files of a client's certificate, whose common name is `name`, and key."""
        return self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, [name], ttl)

    def _builder(self, name: x509.Name, key: Any, ttl: float) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        end = now + datetime.timedelta(seconds=ttl)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(min(now, end) - datetime.timedelta(minutes=5))
            .not_valid_after(end)
        )

    def _issue(self, name: str, purpose: x509.ObjectIdentifier, names: Sequence[str], ttl: float) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        alternatives = x509.SubjectAlternativeName([_general(one) for one in names])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        signed = (
            self._builder(subject, key.public_key(), ttl)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(alternatives, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        cert, private = self._directory / f"{name}.pem", self._directory / f"{name}.key"
        _replace(cert, signed.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.PKCS8
        _replace(private, key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
        return cert, private


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.touch(0o600)
    fresh.write_bytes(content)
    fresh.rename(path)
