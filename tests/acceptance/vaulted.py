"""What acceptance tests over Vault begin with: one database, one server of either kind, a proxy between, one agent."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent
from tests.acceptance.scenes import ROLE, file_of, place_of
from tests.faultproxy import FaultProxy
from tests.fix_postgres import Database
from tests.issuers import Issuer
from tests.vault_agent import agent_document, vault_of
from tests.vault_setup import DatabaseMount, VaultSetup, Way


class VaultScene:
    """One pod's surroundings on one server.

    Attributes:
        proxy: between the agent and the server; counts requests and plays faults.
        policy: what the pod may do; `setup.write_policy(scene.policy, …)` changes it.
    """

    def __init__(self, setup: VaultSetup, database: Database, proxy: FaultProxy, place: Path, run: RunAgent) -> None:
        self.setup = setup
        self.database = database
        self.proxy = proxy
        self.place = place
        self._run = run
        self.made: DatabaseMount | None = None
        self.policy = ""

    def leases(self, *, ttl: float, max_ttl: float) -> DatabaseMount:
        """A database engine whose role "app" leases for so long, and a policy for it."""
        self.made = self.setup.database(self.database, ttl=ttl, max_ttl=max_ttl)
        self.policy = self.setup.policy(self.made.creds())
        return self.made

    def document(
        self,
        way: Way,
        *,
        role: Mapping[str, Any] | None = None,
        vault: Mapping[str, Any] | None = None,
        agent: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A configuration with the role `ROLE` on that database, its socket and its file."""
        assert self.made is not None
        keys = {"path": self.made.creds(), "connection": place_of(self.database), **(role or {})}
        server = vault_of(self.setup.place, self.proxy.address, **(vault or {}))
        return agent_document(self.place, server, way, {ROLE: keys}, templates=[file_of(self.place)], agent=agent)

    def agent(self, document: Mapping[str, Any], *options: str, **how: Any) -> Agent:
        """An agent under way on that document."""
        return self._run(document, *options, **how)

    def users(self) -> set[str]:
        """The users that the server has minted in the database and that are there now."""
        return users_of(self.database)


def users_of(database: Database) -> set[str]:
    """The users that Vault-like servers have minted in that database and that are there now."""
    rows = database.execute(
        "SELECT rolname FROM pg_roles r WHERE rolname LIKE 'v-%%'"
        " AND pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = %s), 'MEMBER')",
        database.group,
    )
    return {str(name) for (name,) in rows}


@pytest.fixture
def vault_scene(vault_setup: VaultSetup, database: Database, place: Path, run_agent: RunAgent) -> Iterator[VaultScene]:
    """A scene on the shared server of each kind."""
    with FaultProxy(vault_setup.place.address) as proxy:
        yield VaultScene(vault_setup, database, proxy, place, run_agent)


def jwt_way(scene: VaultScene, issuer: Issuer, **keys: Any) -> Way:
    """A login with a projected token, as jwt."""
    return scene.setup.jwt(issuer, scene.policy, **keys)
