"""The engine of one Vault or OpenBao cluster: roles whose credentials are leased, or written for.

The server names its leases itself. So the proposed id only stands for the lease where its id is not known to the
caller: after an issue that was refused here, or whose caller had gone when the answer came.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent import log
from agent.clock import Clock
from agent.config.model import Role
from agent.config.upstreams import Vault
from agent.engines.vault import faults, issuing, values
from agent.engines.vault.answers import Answer, ServerFault, Wire
from agent.engines.vault.signed import Signed, ending
from agent.errors import BadResponse, MaxTtlReached, NotRenewable, UpstreamError
from agent.leases.lease import Grant, Lease
from agent.leases.logins import Logins, Token
from agent.log import Event

_log = log.get(__name__)

_RENEW = "sys/leases/renew"
_CAPABILITIES = "sys/capabilities-self"
_ROUNDING = 1.0


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How one role is asked for."""

    path: str
    writes: bool
    role: Role


class VaultEngine:
    """See `agent.leases.engine.Engine`; the rules there hold.

    Args:
        name: of the upstream, "vault" or "vault.NAME".
        server: its configuration.
        roles: the roles of kind "lease" and "write" there, by name.
        logins: who hands out the token to call with.
    """

    def __init__(
        self, name: str, server: Vault, roles: Mapping[str, Role], wire: Wire, logins: Logins, clock: Clock
    ) -> None:
        self.name = name
        self._host = server.address
        self._plans = {
            role_name: _Plan(path=role.path or role_name, writes=role.kind == "write", role=role)
            for role_name, role in roles.items()
        }
        self._wire = wire
        self._signed = Signed(name, wire, logins)
        self._clock = clock
        self._leased: dict[str, str] = {}  # by proposed id, until revoked: as many as there are leases
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"VaultEngine({self.name}, {self._host}, {len(self._plans)} roles)"

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """See Engine. A refused credential has been revoked, or is to be revoked by the proposed id."""
        plan = self._plans[role]
        token = self._signed.token()
        answer = await self._asked(plan, token)
        if not answer.ok:
            raise faults.not_issued(self.name, plan.path, writes=plan.writes, answer=answer)
        return await self._taken(role, plan, answer, proposed_id, token)

    async def _asked(self, plan: _Plan, token: Token) -> Answer:
        try:
            return await self._signed.call(
                "POST" if plan.writes else "GET",
                plan.path,
                right="update" if plan.writes else "read",
                token=token,
                body=plan.role.parameters if plan.writes else None,
                query=None if plan.writes else plan.role.parameters,
                late=ending(token.secret, plan.path),
            )
        except ServerFault as fault:
            raise faults.not_made(self.name, plan.path, fault) from None

    async def _taken(self, role: str, plan: _Plan, answer: Answer, proposed_id: str, token: Token) -> Grant:
        where = f"{self.name}: {plan.path}"
        leased = issuing.lease_id(where, plan.path, answer)
        if leased:
            self._leased[proposed_id] = leased
        try:
            grant = issuing.grant(
                where,
                plan.role,
                answer,
                leased=leased,
                proposed_id=proposed_id,
                parent=token.id,
                wall=self._clock.wall,
            )
        except UpstreamError as error:
            if leased:
                await self._undo(leased, token, error)
            raise
        self._compare(role, plan.role, grant)
        return grant

    async def _undo(self, leased: str, token: Token, error: UpstreamError) -> None:
        """Revoke what cannot be handed out; where that fails, `error` says that the proposed id is to be revoked."""
        error.outcome_unknown = True
        try:
            await self._signed.end(leased, token=token)
        except UpstreamError:
            return
        error.outcome_unknown = False
        self._forget(leased)

    def _compare(self, name: str, role: Role, grant: Grant) -> None:
        asked = role.default_ttl
        if asked is None or grant.ttl >= asked - _ROUNDING or name in self._told:
            return
        self._told.add(name)
        reason = f"default_ttl asks for {asked:g} s: raise default_ttl and max_ttl of the role at the server"
        _log.warning(Event.GRANTED_LESS, upstream=self.name, role=name, ttl=grant.ttl, reason=reason)

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """See Engine. Where the role has a `default_ttl`, that is asked for in place of `increment`."""
        if not values.is_leased(lease.id):
            raise NotRenewable(f"{self.name}: a certificate is not renewed, but replaced")
        body = {"lease_id": lease.id, "increment": self._wanted(lease.id, increment)}
        answer = await self._signed.call("POST", _RENEW, right="update", body=body)
        if not answer.ok:
            user = lease.data.get("username")
            raise faults.not_renewed(self.name, "lease", answer, user="" if user is None else user.reveal())
        return self._renewed(lease, answer)

    def _wanted(self, leased: str, increment: float) -> int:
        """Whole seconds to ask for, as the server reads nothing else; a lease's id begins with its path."""
        path = leased.rpartition("/")[0]
        configured = [plan.role.default_ttl for plan in self._plans.values() if plan.path == path]
        wanted = max((ttl for ttl in configured if ttl is not None), default=increment)
        return max(1, math.ceil(min(wanted, values.LONGEST)))

    def _renewed(self, lease: Lease, answer: Answer) -> Grant:
        if answer.body.get("lease_id", lease.id) != lease.id:
            raise BadResponse(f"{self.name}: the server answers the renewal of one lease with another")
        granted = answer.body.get("lease_duration")
        if granted == 0:  # less than a second is left until its max TTL
            raise MaxTtlReached(f"{self.name}: the lease has reached its max TTL")
        try:
            ttl = values.seconds(granted)
        except values.Wrong as wrong:
            raise BadResponse(f"{self.name}: a renewal grants {wrong}") from None
        return Grant(id=lease.id, data={}, ttl=ttl, renewable=answer.body.get("renewable") is True, parent=lease.parent)

    async def revoke(self, lease_id: str) -> None:
        """See Engine. What is not leased there ends by itself; the id of an issue without an answer means nothing.

        Raises:
            Forbidden: the policy does not allow it: the end of our own login ends the lease too.
        """
        leased = self._leased.get(lease_id, lease_id)
        if values.is_leased(leased):
            await self._signed.end(leased)
        self._forget(leased)

    def _forget(self, leased: str) -> None:
        self._leased = {proposed: id_ for proposed, id_ in self._leased.items() if id_ != leased}

    async def ping(self) -> None:
        """See Engine."""
        await self._signed.look()

    async def capabilities(self, paths: Iterable[str]) -> Mapping[str, tuple[str, ...]]:
        """What our login may do at each of `paths`: "read", "update", …, "deny", "root"; () where it is not told.

        Raises:
            UpstreamError: it could not be asked.
        """
        asked = list(paths)
        answer = await self._signed.call("POST", _CAPABILITIES, right="update", body={"paths": asked})
        data = answer.body.get("data")
        if not answer.ok or not isinstance(data, Mapping):
            raise BadResponse(f"{self.name}: the server does not say what our login may do")
        return {path: _words(data.get(path)) for path in asked}

    async def close(self) -> None:
        """End the connections; the last call of all, after the logins have been revoked."""
        await self._wire.close()


def _words(value: object) -> tuple[str, ...]:
    return tuple(word for word in value if values.name(word)) if isinstance(value, list) else ()
