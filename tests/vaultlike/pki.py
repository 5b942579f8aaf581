"""pki/: certificates issued from a root of the mount's own, leased where the role says so."""

import datetime
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Grant, Json, Problem
from tests.vaultlike.ttl import DEFAULT_TTL, granted, seconds

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
_NO_NAME = (
    'the common_name field is required, or must be provided in a CSR with "use_csr_common_name" set to true, '
    'unless "require_cn" is set to false'
)


@dataclass(frozen=True, kw_only=True)
class Root:
    """Who signs."""

    key: Key = field(repr=False)
    certificate: x509.Certificate

    @property
    def pem(self) -> str:
        """For those who check."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode().strip()


class Pki(Engine):
    """A root, roles, and certificates; no revocation lists."""

    kind: ClassVar[str] = "pki"

    def __init__(self, *args: Any) -> None:
        self._root: Root | None = None
        self._roles: dict[str, Json] = {}
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (
            Route(pattern="root/generate/(internal|exported)", update=self._generate),
            Route(pattern="ca/pem|ca_chain", read=self._pem, public=True),
            Route(pattern="cert/ca", read=self._certificate, public=True),
            Route(pattern="config/.+", update=self._configure),
            Route(pattern="roles/([^/]+)", read=self._read_role, update=self._write_role, delete=self._delete_role),
            Route(pattern="issue/([^/]+)", update=self._issue),
        )

    async def _configure(self, call: Call) -> Answer:
        return NOTHING

    async def _generate(self, call: Call, how: str) -> Answer:
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, call.text("common_name"))])
        ttl = seconds(call.body.get("ttl")) or DEFAULT_TTL
        builder = _builder(name, name, key, key, ttl)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self._root = Root(key=key, certificate=builder.sign(key, hashes.SHA256()))
        certificate = self._root.certificate
        return Answer(data={**_shown(certificate), "certificate": self._root.pem, "issuing_ca": self._root.pem})

    async def _pem(self, call: Call) -> Answer:
        return Answer(bare=self._root.pem if self._root else "")

    async def _certificate(self, call: Call) -> Answer:
        return Answer(data={"certificate": self._root.pem if self._root else ""})

    async def _write_role(self, call: Call, name: str) -> Answer:
        self._roles[name] = {
            "allow_any_name": False,
            "allow_subdomains": False,
            "allow_bare_domains": False,
            "generate_lease": False,
            "key_type": "rsa",
            **call.body,
            "allowed_domains": call.words("allowed_domains"),
            "ttl": int(seconds(call.body.get("ttl"))),
            "max_ttl": int(seconds(call.body.get("max_ttl"))),
        }
        return Answer(data=self._roles[name])

    async def _read_role(self, call: Call, name: str) -> Answer:
        if name not in self._roles:
            raise Problem(404)
        return Answer(data=self._roles[name])

    async def _delete_role(self, call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return NOTHING

    async def _issue(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None or self._root is None:
            raise Problem(400, f"unknown role: {name}")
        common_name = call.text("common_name")
        if not common_name:
            raise Problem(400, _NO_NAME)
        names = [common_name, *call.words("alt_names")]
        for one in names:
            if not _allowed(one, role):
                raise Problem(400, f"common name {one} not allowed by this role")
        terms = self.mount.terms(ttl=float(role["ttl"]), max_ttl=float(role["max_ttl"]))
        ttl, warnings = granted(terms, seconds(call.body.get("ttl")))
        key: Key = ec.generate_private_key(ec.SECP256R1()) if role["key_type"] == "ec" else _rsa()
        certificate = self._signed(self._root, names, call.words("ip_sans"), key, ttl)
        form = serialization.PrivateFormat.TraditionalOpenSSL
        pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode().strip()
        data: Json = {
            **_shown(certificate),
            "ca_chain": [self._root.pem],
            "certificate": certificate.public_bytes(serialization.Encoding.PEM).decode().strip(),
            "issuing_ca": self._root.pem,
            "private_key": pem,
            "private_key_type": role["key_type"],
        }
        grant = Grant(ttl=ttl, renewable=False) if role["generate_lease"] else None
        return Answer(data=data, grant=grant, warnings=tuple(warnings))

    def _signed(self, root: Root, names: Sequence[str], hosts: Sequence[str], key: Key, ttl: int) -> x509.Certificate:
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        builder = _builder(subject, root.certificate.subject, key, root.key, ttl)
        if builder_end(ttl) > root.certificate.not_valid_after_utc:
            text = (
                f"notAfter of {builder_end(ttl):%Y-%m-%dT%H:%M:%SZ} that is beyond the expiration of the CA certificate"
            )
            end = f"at {root.certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}"
            raise Problem(400, f"cannot satisfy request, as TTL would result in {text} {end}")
        alternatives: list[x509.GeneralName] = [x509.DNSName(one) for one in names]
        alternatives += [x509.IPAddress(ipaddress.ip_address(one)) for one in hosts]
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        return builder.sign(root.key, hashes.SHA256())


def _rsa() -> Key:
    return rsa.generate_private_key(65537, 2048)


def builder_end(ttl: float) -> datetime.datetime:
    """When a certificate made now ends."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(seconds=ttl)


def _builder(subject: x509.Name, issuer: x509.Name, key: Key, signer: Key, ttl: float) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(builder_end(-30))
        .not_valid_after(builder_end(ttl))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
    )


def _shown(certificate: x509.Certificate) -> Json:
    number = f"{certificate.serial_number:x}"
    number = number.zfill(len(number) + len(number) % 2)
    serial = ":".join(number[at : at + 2] for at in range(0, len(number), 2))
    return {"expiration": int(certificate.not_valid_after_utc.timestamp()), "serial_number": serial}


def _allowed(name: str, role: Json) -> bool:
    if role["allow_any_name"]:
        return True
    subdomain = role["allow_subdomains"] and any(name.endswith(f".{one}") for one in role["allowed_domains"])
    return subdomain or (role["allow_bare_domains"] and name in role["allowed_domains"])
