"""The cert method: a client certificate is shown in the TLS handshake of the login, and of every renewal of it."""

import re

from agent.certificates import first_end_in
from agent.clock import Clock
from agent.config.upstreams import Method
from agent.identity.files import LARGEST_PEM, Reading, Source, refusal
from agent.identity.jwt import SKEW, span
from agent.identity.mounts import login_path
from agent.identity.proof import Proof
from agent.identity.watched import Files, FromFiles

_FIRST = re.compile(r"-----BEGIN (?:TRUSTED )?CERTIFICATE-----.*?-----END", re.DOTALL)
_LOCKED = ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")


class CertificateIdentity(FromFiles):
    """A client certificate and its key. A session is bound to them: the server lets it renew with no other."""

    binding = True

    def __init__(self, method: Method, certificate: str, key: str, clock: Clock) -> None:
        remedy = "have one issued there, or set client_cert"
        of_key = "write the key of the certificate there, or set client_key"
        sources = [
            Source(
                path=certificate,
                what="the client certificate",
                remedy=remedy,
                largest=LARGEST_PEM,
                lines=True,
                public=certificate != key,
            ),
            Source(path=key, what="the client key", remedy=of_key, largest=LARGEST_PEM, lines=True),
        ]
        super().__init__(Files(sources, clock))
        self._method = method
        self._clock = clock
        self._files_named = (certificate, key)

    async def prove(self) -> Proof:
        """The files, looked at: the handshake itself would not name what is wrong with them."""
        certificate, key = await self._files.read()
        _check_certificate(certificate, self._clock.wall())
        _check_key(key)
        name = self._method.config.name
        body = {} if name is None else {"name": name}
        return Proof(
            path=login_path(self._method), body=body, certificate=self._files_named, namespace=self._method.namespace
        )


def _check_certificate(reading: Reading, wall: float) -> None:
    """Whether the first certificate, which is the client's own, can be read and has not ended."""
    own = _FIRST.search(reading.secret().reveal())
    try:
        over = wall - first_end_in(own[0] if own else "")
    except ValueError as error:
        raise refusal(reading.source, "holds no certificate that can be read (PEM)") from error
    if over > SKEW:
        raise refusal(reading.source, f"ended {span(over)} ago")


def _check_key(reading: Reading) -> None:
    text = reading.secret().reveal()
    if any(word in text for word in _LOCKED):  # OpenSSL would ask the terminal for it, and wait
        raise refusal(reading.source, "needs a passphrase, which nobody is here to type")
    if "PRIVATE KEY-----" not in text:
        raise refusal(reading.source, "holds no private key (PEM)")
