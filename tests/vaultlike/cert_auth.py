"""auth/cert: logins with a client certificate over TLS."""

import fnmatch
from collections.abc import Sequence
from typing import Any, ClassVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import NameOID

from tests.vaultlike.engine import Route
from tests.vaultlike.logins import LoginEngine, LoginRole, role_of
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, listed
from tests.vaultlike.tokens import Token
from tests.vaultlike.ttl import Terms

_NONE = "no client certificate found"
_NO_ROLE = "invalid certificate or no client certificate supplied"
_NO_CHAIN = "no chain matching all constraints could be found for this login certificate"


class CertAuth(LoginEngine):
    """The cert method. Revocation lists and OCSP are not looked at."""

    kind: ClassVar[str] = "cert"

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (
            Route(pattern="certs", list=self.list_roles),
            Route(pattern="certs/([^/]+)", read=self.read_role, update=self._write_role, delete=self.delete_role),
            Route(pattern="login", update=self._login, public=True),
        )

    async def _write_role(self, call: Call, name: str) -> Answer:
        before = self.roles.get(name)
        body = {**(before.own if before else {}), **call.body}
        own: Json = {
            "certificate": str(body.get("certificate") or ""),
            "display_name": str(body.get("display_name") or name),
            "allowed_names": listed(body.get("allowed_names")),
            "allowed_common_names": listed(body.get("allowed_common_names")),
            "allowed_dns_sans": listed(body.get("allowed_dns_sans")),
        }
        try:
            x509.load_pem_x509_certificate(own["certificate"].encode())
        except ValueError as exc:
            raise Problem(400, "failed to parse certificate") from exc
        self.roles[name] = role_of(name, call.body, before, own)
        self.core.trusted.append(own["certificate"])
        return NOTHING

    async def _login(self, call: Call) -> Answer:
        if call.peer is None:
            raise Problem(400, _NONE)
        peer = x509.load_der_x509_certificate(call.peer)
        role = self._role_of(peer, call.text("name"))
        meta: Json = {
            "cert_name": role.name,
            "common_name": _common_name(peer),
            "serial_number": str(peer.serial_number),
            "subject_key_id": _key_id(peer, x509.SubjectKeyIdentifier),
            "authority_key_id": _key_id(peer, x509.AuthorityKeyIdentifier),
        }
        own = {"serial": peer.serial_number}
        shown = str(role.own["display_name"])
        return self.logged_in(call, role, alias=meta["common_name"], display_name=shown, meta=meta, private=own)

    def _role_of(self, peer: x509.Certificate, wanted: str) -> LoginRole:
        trusting = [
            role
            for role in self.roles.values()
            if wanted in ("", role.name) and _vouched(peer, str(role.own["certificate"]))
        ]
        if not trusting:
            raise Problem(400, _NO_ROLE)
        allowing = [role for role in trusting if _allowed(peer, role)]
        if not allowing:
            raise Problem(400, _NO_CHAIN)
        return allowing[0]

    def login_terms(self, token: Token, call: Call) -> Terms:
        """As a login would be judged now: the same certificate must be shown again."""
        if call.peer is None:
            raise Problem(400, _NONE)
        peer = x509.load_der_x509_certificate(call.peer)
        role = self.roles.get(token.private["role"])
        if role is None or peer.serial_number != token.private["serial"] or not _allowed(peer, role):
            raise Problem(400, _NO_CHAIN)
        return super().login_terms(token, call)


def _vouched(peer: x509.Certificate, pem: str) -> bool:
    """Whether it is the role's certificate or one that this has signed."""
    trusted = x509.load_pem_x509_certificate(pem.encode())
    if peer == trusted:
        return True
    try:
        peer.verify_directly_issued_by(trusted)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _allowed(peer: x509.Certificate, role: LoginRole) -> bool:
    name, hosts = _common_name(peer), _dns_names(peer)
    checks = (
        (role.own["allowed_names"], [name, *hosts]),
        (role.own["allowed_common_names"], [name]),
        (role.own["allowed_dns_sans"], hosts),
    )
    return all(not wanted or _any(wanted, given) for wanted, given in checks)


def _any(patterns: Sequence[str], names: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def _common_name(peer: x509.Certificate) -> str:
    found = peer.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(found[0].value) if found else ""


def _dns_names(peer: x509.Certificate) -> list[str]:
    try:
        return peer.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
    except x509.ExtensionNotFound:
        return []


def _key_id(peer: x509.Certificate, kind: type[Any]) -> str:
    try:
        value = peer.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return ""
    raw = value.digest if isinstance(value, x509.SubjectKeyIdentifier) else value.key_identifier
    return ":".join(f"{byte:02x}" for byte in raw or b"")
