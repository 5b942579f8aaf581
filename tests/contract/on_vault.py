"""The engine for Vault and OpenBao as a subject of the contract: over HTTP, its users made in a real PostgreSQL."""

import contextlib
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.clock import SystemClock
from agent.config.model import Role, Vault
from agent.engines.vault import VaultEngine
from agent.engines.vault.wire import HttpWire
from agent.errors import AuthExpired, UpstreamError
from agent.leases.lease import Grant, Secret
from agent.leases.logins import Token
from tests.contract.subject import Subject
from tests.fix_postgres import Database
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup


@dataclass
class OneLogin:
    """Logins with one token that an operator made."""

    secret: Secret
    good: list[str] = field(default_factory=list)

    def token(self) -> Token:
        """See Logins."""
        return Token(id="operator-made", secret=self.secret)

    def accepted(self, login_id: str) -> None:
        """See Logins."""
        self.good.append(login_id)

    def refused(self, login_id: str) -> UpstreamError:
        """See Logins."""
        return AuthExpired("vault: our login has ended")


@contextlib.asynccontextmanager
async def on_vault(
    place: VaultPlace, database: Database, directory: Path, *, role: str, ttl: float, works: Callable[[Grant], bool]
) -> AsyncIterator[Subject]:
    """The engine of a pod that may read one role of that server."""
    setup = VaultSetup(place, directory)
    made = setup.database(database, ttl=ttl, max_ttl=10 * ttl)
    token = setup.token(setup.policy(made.creds()), ttl="1h")
    clock = SystemClock()
    server = Vault(address=place.address)
    wire = HttpWire("vault", server, clock)
    roles = {role: Role(upstream="vault", path=made.creds())}
    engine = VaultEngine("vault", server, roles, wire, OneLogin(Secret(token)), clock)

    def expire(grant: Grant) -> None:
        place.admin("POST", "sys/leases/revoke", {"lease_id": grant.id, "sync": True})

    def live() -> int:
        members = (
            "SELECT count(*) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid JOIN pg_roles u "
            "ON u.oid = m.member WHERE g.rolname = %s AND u.rolname <> %s"
        )
        found: int = database.execute(members, database.group, database.admin)[0][0]
        return found

    try:
        yield Subject(
            engine=engine,
            works=works,
            expire=expire,
            pause=place.pause,
            resume=place.resume,
            names_leases=True,
            unknown=lambda: f"{made.creds()}/{uuid.uuid4()}",
            live=live,
        )
    finally:
        await engine.close()
        setup.undo()
