"""ssh/: user certificates signed by the mount's CA, and one-time passwords."""

import ipaddress
import secrets
import time
from collections.abc import Sequence
from typing import Any, ClassVar

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType, load_ssh_public_key

from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Grant, Json, Problem
from tests.vaultlike.tokens import new_uuid
from tests.vaultlike.ttl import granted, seconds


class Ssh(Engine):
    """ssh/."""

    kind: ClassVar[str] = "ssh"

    def __init__(self, *args: Any) -> None:
        self._key: ed25519.Ed25519PrivateKey | None = None
        self._roles: dict[str, Json] = {}
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (
            Route(pattern="config/ca", read=self._ca, update=self._make_ca),
            Route(pattern="roles/([^/]+)", read=self._read_role, update=self._write_role, delete=self._delete_role),
            Route(pattern="sign/([^/]+)", update=self._sign),
            Route(pattern="creds/([^/]+)", update=self._one_time),
        )

    async def _make_ca(self, call: Call) -> Answer:
        self._key = ed25519.Ed25519PrivateKey.generate()
        return await self._ca(call)

    async def _ca(self, call: Call) -> Answer:
        if self._key is None:
            raise Problem(400, "keys haven't been configured yet")
        form = serialization.PublicFormat.OpenSSH
        public = self._key.public_key().public_bytes(serialization.Encoding.OpenSSH, form)
        return Answer(data={"public_key": public.decode() + "\n"})

    async def _write_role(self, call: Call, name: str) -> Answer:
        self._roles[name] = dict(call.body)
        return NOTHING

    async def _read_role(self, call: Call, name: str) -> Answer:
        if name not in self._roles:
            raise Problem(404)
        return Answer(data=self._roles[name])

    async def _delete_role(self, call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return NOTHING

    async def _sign(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None:
            raise Problem(400, f"Unknown role: {name}")
        if not call.text("public_key"):
            raise Problem(400, "missing public_key")
        if self._key is None:
            raise Problem(500, "failed to read CA private key")
        try:
            public = load_ssh_public_key(call.text("public_key").encode())
        except ValueError as exc:
            raise Problem(400, "failed to parse public_key as SSH key: illegal base64 data at input byte 0") from exc
        terms = self.mount.terms(ttl=seconds(role.get("ttl")), max_ttl=seconds(role.get("max_ttl")))
        ttl, warnings = granted(terms, seconds(call.body.get("ttl")))
        names = call.words("valid_principals") or [str(role.get("default_user") or "")]
        serial = secrets.randbits(64)
        now = int(time.time())
        builder = (
            SSHCertificateBuilder()
            .public_key(public)  # type: ignore[arg-type]
            .serial(serial)
            .type(SSHCertificateType.USER)
            .key_id(f"vault-{new_uuid()}".encode())
            .valid_principals([one.encode() for one in names])
            .valid_after(now - 30)
            .valid_before(now + ttl)
        )
        signed = builder.sign(self._key).public_bytes().decode() + "\n"
        return Answer(data={"serial_number": f"{serial:016x}", "signed_key": signed}, warnings=tuple(warnings))

    async def _one_time(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None or role.get("key_type") != "otp":
            raise Problem(400, f"Unknown role: {name}")
        networks = [ipaddress.ip_network(one) for one in str(role.get("cidr_list") or "0.0.0.0/0").split(",")]
        if not any(ipaddress.ip_address(call.text("ip")) in one for one in networks):
            raise Problem(400, "Error validating IP: IP does not belong to role")
        data: Json = {
            "ip": call.text("ip"),
            "key": new_uuid(),
            "key_type": "otp",
            "port": int(role.get("port") or 22),
            "username": call.text("username") or role.get("default_user"),
        }
        ttl, _ = granted(self.mount.terms(), 0)
        return Answer(data=data, grant=Grant(ttl=ttl, renewable=False))
