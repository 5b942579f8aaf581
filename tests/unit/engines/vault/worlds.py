"""A VaultEngine with one role over a scripted wire; and leases to give it."""

from collections.abc import Mapping
from typing import Any

from agent.config.model import Role
from agent.config.upstreams import Vault
from agent.engines.vault import VaultEngine
from agent.engines.vault.answers import Answer
from agent.errors import (
    UpstreamError,
)
from agent.leases.lease import Grant, Lease, Secret
from tests.fakes import FakeClock
from tests.unit.engines.vault.scripted import (
    FakeLogins,
    FakeWire,
    Reply,
    good,
)

APP = "database/creds/app"
ID = f"{APP}/ELjDJSbF0ul5qkFtfRAhAgyM"
DATA = {"username": "v-kubernetes-app-LjGrsUpO-1795247247", "password": "0nlo6sb-Brk23WUhUJJ2"}
ROLE = Role(upstream="vault")
WRITE = Role(upstream="vault", path="pki/issue/r", kind="write", parameters={"common_name": "a.b"}, multiline=True)
Replies = Mapping[str, Reply | list[Reply]]


def issued(data: Mapping[str, Any] = DATA, *, id_: Any = ID, ttl: Any = 60, renewable: bool = True) -> Answer:
    return good(data, lease_id=id_, lease_duration=ttl, renewable=renewable)


class World:
    """An engine with one role, and everything around it."""

    def __init__(self, replies: Replies, *, role: Role = ROLE, name: str = APP, none: UpstreamError | None = None):
        self.wire = FakeWire(replies)
        self.logins = FakeLogins(none=none)
        self.clock = FakeClock()
        self.name = name
        self.engine = VaultEngine(
            "vault", Vault(address="https://v:8200"), {name: role}, self.wire, self.logins, self.clock
        )

    async def issue(self) -> Grant:
        return await self.engine.issue(self.name, "proposed")


def lease(id_: str = ID, data: Mapping[str, str] = DATA) -> Lease:
    secrets = {key: Secret(value) for key, value in data.items()}
    grant = Grant(id=id_, data=secrets, ttl=60.0, renewable=True, parent="login-1")
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


def plain(grant: Grant) -> dict[str, str]:
    return {key: secret.reveal() for key, secret in grant.data.items()}
