"""What stands at a Vault or OpenBao cluster without being leased: static roles and key-value secrets."""

import contextlib
from collections.abc import Mapping

from agent.config.model import Role
from agent.engines.vault import faults, issuing, reading
from agent.engines.vault.answers import Wire
from agent.engines.vault.signed import Signed, ending
from agent.errors import NotFound, Unfit, UpstreamError
from agent.leases.engine import Fetched
from agent.leases.logins import Logins


class VaultSource:
    """See `agent.leases.engine.Source`; the rules there hold.

    Args:
        name: of the upstream, "vault" or "vault.NAME".
        roles: the roles of kind "static" and "kv" there, by name.
        logins: who hands out the token to call with.
    """

    def __init__(self, name: str, roles: Mapping[str, Role], wire: Wire, logins: Logins) -> None:
        self.name = name
        self._roles = roles
        self._signed = Signed(name, wire, logins)

    def __repr__(self) -> str:
        return f"VaultSource({self.name}, {len(self._roles)} roles)"

    async def fetch(self, role: str) -> Fetched:
        """See Source."""
        config = self._roles[role]
        path = config.path or role
        where = f"{self.name}: {path}"
        token = self._signed.token()
        answer = await self._signed.call("GET", path, right="read", token=token, late=ending(token.secret, path))
        if answer.status == 404 and config.kind == "kv":
            raise NotFound(f"{where}: there is no such secret (any more); a version 2 mount has data/ after its name")
        if not answer.ok:
            raise faults.not_issued(self.name, path, writes=False, answer=answer)
        if leased := issuing.lease_id(where, path, answer):
            # Each look would make another user.
            with contextlib.suppress(UpstreamError):
                await self._signed.end(leased, token=token)
            raise Unfit(f'{where}: what it gives is leased: set kind = "lease" on the role')
        return reading.kv(where, config, answer) if config.kind == "kv" else reading.static(where, config, answer)

    async def ping(self) -> None:
        """Return if the server answers and accepts our login."""
        await self._signed.look()
