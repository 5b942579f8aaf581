"""A VaultLogin over a scripted wire; and a login to give it."""

from collections.abc import Mapping
from typing import Any

from agent.config.upstreams import Vault
from agent.engines.vault import VaultLogin
from agent.engines.vault.answers import Answer
from agent.identity.proof import Proof
from agent.leases.lease import Grant, Lease, Secret
from tests.fakes import FakeClock
from tests.unit.engines.vault.scripted import (
    FakeIdentity,
    FakeWire,
    Reply,
    good,
)

LOGIN, RENEW_SELF, REVOKE_SELF = "auth/kubernetes/login", "auth/token/renew-self", "auth/token/revoke-self"
JWT = "eyJ.secret.jwt"
KUBERNETES = Proof(path=LOGIN, body={"role": "app", "jwt": Secret(JWT)})
AUTH = {
    "client_token": "hvs.new",
    "accessor": "ILskTfMGB9lV",
    "lease_duration": 60,
    "renewable": True,
    "token_type": "service",
    "num_uses": 0,
    "mfa_requirement": None,
}


def logged_in(**changes: Any) -> Answer:
    return good(None, auth=AUTH | changes)


class World:
    """A login engine, and everything around it."""

    def __init__(
        self,
        replies: Mapping[str, Reply | list[Reply]],
        *,
        proof: Proof | Exception = KUBERNETES,
        server: Vault | None = None,
    ) -> None:
        self.wire = FakeWire(replies)
        self.identity = FakeIdentity(proof)
        self.engine = VaultLogin("vault", server or Vault(address="https://v:8200"), self.wire, clock=FakeClock())
        self.engine.log_in_as(self.identity)

    async def issue(self) -> Grant:
        return await self.engine.issue("session:vault", "proposed")


def lease(grant: Grant) -> Lease:
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


def login() -> Lease:
    token = Secret("hvs.new")
    return lease(Grant(id="ILskTfMGB9lV", data={"token": token}, ttl=60.0, renewable=True, key=token))


FILE = Proof(token=Secret("hvs.file"))
LOOKED = {
    "accessor": "fileaccessor",
    "ttl": 50,
    "renewable": True,
    "num_uses": 0,
    "explicit_max_ttl": 0,
    "creation_time": 1_800_000_000,
    "expire_time": "2027-01-15T08:01:00Z",
}
