"""What a pod's agent has of one Vault or OpenBao server, for the tests of the engines there."""

from dataclasses import dataclass
from typing import Any

from attrs import evolve

from agent import identity
from agent.clock import SystemClock
from agent.config.model import Role, Vault
from agent.config.upstreams import Method, MethodConfig
from agent.engines.vault import VaultEngine, VaultLogin, VaultSource
from agent.engines.vault.wire import HttpWire
from agent.leases.lease import Grant, Lease, Secret
from tests.contract.on_vault import OneLogin
from tests.vault_setup import DatabaseMount, VaultSetup, Way

SESSION = "session:vault"


@dataclass(kw_only=True)
class Pod:
    """What a pod's agent has of one server; `made` is a database there."""

    setup: VaultSetup
    made: DatabaseMount
    wire: HttpWire

    def login(self, way: Way, **server: bool) -> VaultLogin:
        method = Method(
            type=way.type,
            mount_path=f"auth/{way.mount}" if way.mount else None,
            config=MethodConfig(**way.config),  # type: ignore[arg-type]
        )
        found = Vault(address=self.setup.place.address, method=method, **server)  # type: ignore[arg-type]
        login = VaultLogin("vault", found, self.wire, clock=SystemClock())
        login.log_in_as(identity.build(method, server=found, clock=SystemClock(), unwrap=login.unwrap))
        return login

    def engine(self, role: Role, token: str) -> VaultEngine:
        server = Vault(address=self.setup.place.address)
        return VaultEngine("vault", server, {"role": role}, self.wire, OneLogin(Secret(token)), SystemClock())

    def source(self, role: Role, token: str) -> VaultSource:
        return VaultSource("vault", {"role": role}, self.wire, OneLogin(Secret(token)))

    def knows(self, token: Secret) -> bool:
        return self.setup.place.ask("GET", "auth/token/lookup-self", token=token.reveal()).status == 200


def kept(grant: Grant) -> Lease:
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


def role(path: str, **keys: Any) -> Role:
    return evolve(Role(upstream="vault", path=path), **keys)
