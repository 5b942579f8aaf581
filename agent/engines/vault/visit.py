"""One visit to a cluster, for `leasehold check`: a login of its own, a look at what it may do, nothing left behind."""

import math
from collections.abc import Mapping

from attrs import evolve

from agent import identity
from agent.clock import Clock
from agent.config.model import Role
from agent.config.upstreams import Method, Vault
from agent.engines.finding import Finding, Inspection, Level, plain, sorted_by_level
from agent.engines.vault import rights, servers, values
from agent.engines.vault.engine import VaultEngine
from agent.engines.vault.login import TOKEN, VaultLogin
from agent.engines.vault.rights import TokenFacts
from agent.engines.vault.signed import LOOKUP_SELF
from agent.engines.vault.source import VaultSource
from agent.engines.vault.wire import HttpWire
from agent.errors import AuthExpired, NotLoggedIn, UpstreamError
from agent.leases.lease import Grant, Lease
from agent.leases.logins import Token


class Visit:
    """Serves as the engines' `Logins` meanwhile.

    Args:
        name: of the upstream.
        method: how to log in there.
        roles: those of the upstream, by name.

    Attributes:
        engine: for roles of kind "lease" and "write", and
        source: for the others.
        facts: what is known of the login's token, once `inspect` or `log_in` has succeeded.
    """

    def __init__(self, name: str, server: Vault, method: Method, roles: Mapping[str, Role], clock: Clock) -> None:
        self.name = name
        self._server = server = evolve(server, method=method)
        self._method = method
        self._roles = roles
        self._clock = clock
        self._wire = HttpWire(name, server, clock)
        self._login = VaultLogin(name, server, self._wire, clock=clock)
        self._login.log_in_as(identity.build(method, server=server, clock=clock, unwrap=self._login.unwrap))
        self._grant: Grant | None = None
        self.facts = TokenFacts(ttl=0.0, renewable=False)
        self.engine = VaultEngine(name, server, _of(roles, "lease", "write"), self._wire, self, clock)
        self.source = VaultSource(name, _of(roles, "static", "kv"), self._wire, self)

    def __repr__(self) -> str:
        return f"Visit({self.name}, {'not ' if self._grant is None else ''}logged in)"

    @property
    def login(self) -> str:
        """How we log in, in words."""
        method = self._method
        if method.type == "token_file":
            return f"token file {plain(method.config.token_file_path or '')}"
        role = method.config.role or method.config.name
        return f"{method.type} at auth/{plain(method.mount)}" + (f" as {plain(role)}" if role else "")

    @property
    def spends(self) -> str:
        """Why a login must not be tried: it would use up what the agent itself needs; "" where it may."""
        config = self._method.config
        if self._method.type != "approle":
            return ""
        if config.secret_id_response_wrapping_path:
            return "the secret id is wrapped, and can be unwrapped once only: that is left to the agent"
        if config.remove_secret_id_file_after_reading:
            return "a login removes the secret id's file: that is left to the agent"
        return ""

    # -- Logins -----------------------------------------------------------------------------------------------------

    def token(self) -> Token:
        """See `agent.leases.logins.Logins`."""
        if self._grant is None:
            raise NotLoggedIn(f"{self.name}: not logged in")
        return Token(id=self._grant.id, secret=self._grant.data[TOKEN])

    def accepted(self, login_id: str) -> None:
        """See `agent.leases.logins.Logins`."""

    def refused(self, login_id: str) -> UpstreamError:
        """See `agent.leases.logins.Logins`."""
        return AuthExpired(
            f"{self.name}: the server does not know the login that it has just given (a lagging standby?)"
        )

    # -- coming and going -------------------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Log in, once.

        Raises:
            UpstreamError: it did not work out, or must not be tried.
        """
        if self._grant is not None:
            return
        if self.spends:
            raise NotLoggedIn(f"{self.name}: no login is tried: {self.spends}")
        self._grant = grant = await self._login.issue("", "check")
        longest = await self._longest(grant)
        self.facts = TokenFacts(ttl=grant.ttl, renewable=grant.renewable, longest=longest)
        look = await self._wire.call("GET", LOOKUP_SELF, token=grant.data[TOKEN], namespace=self._method.namespace)
        data = look.body.get("data")
        if look.ok and isinstance(data, Mapping):
            self.facts = rights.looked_up(data, ttl=grant.ttl, renewable=grant.renewable, longest=longest)

    async def _longest(self, grant: Grant) -> float:
        """How long the token lives with renewals: the server grants what is asked for, up to that."""
        if grant.key is None or not grant.renewable:
            return grant.max_ttl
        now = self._clock.now()
        lease = Lease(first=grant, last=grant, issued_at=now, granted_at=now, jitter=0.0)
        try:
            renewed = await self._login.renew(lease, values.LONGEST)
        except UpstreamError:
            return math.inf
        return math.inf if renewed.ttl >= values.LONGEST else max(grant.ttl, renewed.ttl)

    async def leave(self) -> str:
        """End the login, and with it whatever was leased meanwhile; why that failed, "" where it did not."""
        try:
            if self._grant is not None:
                await self._login.revoke(self._grant.id)
        except UpstreamError as error:
            return f"{self.name}: the login of this check is left, and ends in {self.facts.ttl:.0f} s: {error}"
        finally:
            await self._wire.close()
        return ""

    # -- looking ----------------------------------------------------------------------------------------------------

    async def inspect(self) -> Inspection:
        """Look the cluster over; changes nothing there, and raises nothing."""
        found = servers.judged(await servers.states(self.name, self._server, self._clock))
        reached = not self.spends and all(one.level is not Level.MISSING for one in found)
        if self.spends:
            text = f"was not tried: {self.spends}"
            found.append(Finding(level=Level.WARNING, subject=f"login {self.login}", text=text))
        if reached:
            try:
                await self.log_in()
            except UpstreamError as error:
                reached = False
                found.append(Finding(level=Level.MISSING, subject=f"login {self.login}", text=str(error)))
        if reached:
            found += [*rights.lifetime(self.login, self.facts), *await self._rights()]
        return Inspection(
            upstream=self.name,
            place=self._server.address,
            user=self.login,
            reached=reached,
            findings=sorted_by_level(found),
        )

    async def _rights(self) -> list[Finding]:
        ours = self._grant is not None and self._grant.key is not None
        wanted = rights.needs(self._roles, renewable=self.facts.renewable, ours=ours)
        policies = self.facts.policies or ()
        try:
            may = await self.engine.capabilities(rights.asked(wanted))
        except UpstreamError as error:
            unknown = Finding(
                level=Level.WARNING,
                subject="policy",
                text=f"what the login may do cannot be looked at: {error}",
                remedy=('path "sys/capabilities-self" { capabilities = ["update"] }',),
            )
            return [unknown, *rights.too_much(wanted, {}, policies)]
        return [*rights.lacking(wanted, may), *rights.too_much(wanted, may, policies)]


def _of(roles: Mapping[str, Role], *kinds: str) -> dict[str, Role]:
    return {name: role for name, role in roles.items() if role.kind in kinds}
