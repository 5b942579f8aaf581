"""The login at one Vault or OpenBao cluster, as an Engine: a login is a lease like any other, and kept like one.

Its credential is `data["token"]`. The server names it by its accessor, which gives nothing away; the token itself is
what renews and revokes it.
"""

import math
from collections.abc import Mapping

from agent.clock import Clock
from agent.config.upstreams import Vault
from agent.engines.vault import faults, found
from agent.engines.vault.answers import Answer, Request, Wire
from agent.engines.vault.found import Found
from agent.engines.vault.signed import LOOKUP_SELF
from agent.engines.vault.values import LONGEST
from agent.engines.vault.values import token as sendable
from agent.engines.vault.wrapping import Wrapping
from agent.errors import BadResponse, LeaseGone, MaxTtlReached, NoIdentity, Unavailable, UpstreamError
from agent.identity.proof import Identity, Proof
from agent.leases.lease import Grant, Lease, Secret

_RENEW_SELF = "auth/token/renew-self"
_REVOKE_SELF = "auth/token/revoke-self"
_HEALTH = "sys/health"
TOKEN = "token"  # noqa: S105 - the field of a login's data


class VaultLogin:
    """See `agent.leases.engine.Engine`; the rules there hold. The role's name means nothing here.

    Args:
        name: of the upstream, "vault" or "vault.NAME".
        server: its configuration.
    """

    def __init__(self, name: str, server: Vault, wire: Wire, *, clock: Clock) -> None:
        self.name = name
        self._server = server
        self._wire = wire
        self._clock = clock
        self._wrapping = Wrapping(name, server, wire)
        self._identity: Identity | None = None
        self._tokens: dict[str, Secret] = {}  # of logins of ours, by id and by proposed id, until revoked
        self._way = _way_of(server)

    def __repr__(self) -> str:
        return f"VaultLogin({self.name}, {len(set(self._tokens.values()))} logins)"

    def log_in_as(self, identity: Identity) -> None:
        """Have `identity` prove who we are, afresh for every login; called once, first of all: it may need `unwrap`."""
        self._identity = identity

    def remember(self, login_id: str, token: Secret) -> None:
        """Know a login of ours that the last incarnation left, so that it can be revoked."""
        self._tokens[login_id] = token

    # -- logging in -------------------------------------------------------------------------------------------------

    async def issue(self, role: str, proposed_id: str) -> Grant:
        """Log in; or, with a token from a file, look at it.

        Raises:
            NoIdentity: there is nothing to log in with, or it is not accepted, or the token is of no use.
        """
        identity = self._identity
        if identity is None:
            raise RuntimeError("a login without an identity")
        proof = await identity.prove()
        self._way = Proof(certificate=proof.certificate, namespace=proof.namespace)
        if proof.token is not None:
            return self._granted(await self._looked_at(proof.token), proposed_id)
        answer = await self._wire.call(
            "POST",
            proof.path,
            body=proof.body,
            certificate=proof.certificate,
            namespace=proof.namespace,
            late=_end_late,
        )
        if not answer.ok:
            raise faults.login_refused(self.name, proof.path, proof.body, answer)
        login = found.by_login(self.name, answer)
        if login.revocable:  # from here on, whatever happens
            self._tokens[proposed_id] = login.token
        try:
            grant = self._granted(login, proposed_id)
        except NoIdentity as error:
            await self._undo(proposed_id, error)
            raise
        if grant.key is not None:
            self._tokens[grant.id] = grant.key
        await identity.accepted()
        return grant

    async def _looked_at(self, token: Secret) -> Found:
        if sendable(token.reveal()) is None:
            raise NoIdentity(f"{self.name}: what is in the token's file cannot be a token: put a new one there")
        answer = await self._wire.call("GET", LOOKUP_SELF, token=token, namespace=self._way.namespace)
        if not answer.ok:
            raise NoIdentity(
                f"{self.name}: the server does not know the token in the file ({answer.status}), or does not let it "
                "look itself up: put a new one there"
            )
        return found.by_lookup(self.name, token, answer, self._clock.wall)

    def _granted(self, login: Found, proposed_id: str) -> Grant:
        if login.uses > 0:
            raise NoIdentity(
                f"{self.name}: the login is good for {login.uses} calls only, and all leases end with it: set "
                "token_num_uses = 0 on the role"
            )
        endless = login.ttl == math.inf
        if endless and not self._server.accept_endless_token:
            raise NoIdentity(
                f"{self.name}: the login never ends (a root token?): set a token_ttl on its role, or "
                "accept_endless_token = true in the configuration"
            )
        return Grant(
            # Somebody else's token may come again, after it was refused even: each look at it is a login by itself.
            id=(login.accessor if login.revocable else "") or proposed_id,
            data={TOKEN: login.token},
            ttl=LONGEST if endless else login.ttl,
            renewable=login.renewable and not endless,
            max_ttl=login.max_ttl,
            key=login.token if login.revocable else None,
        )

    async def _undo(self, proposed_id: str, error: UpstreamError) -> None:
        """End a login that cannot be used; where that fails, `error` says that the proposed id is to be revoked."""
        error.outcome_unknown = True
        try:
            await self.revoke(proposed_id)
        except UpstreamError:
            return
        error.outcome_unknown = False

    # -- keeping it -------------------------------------------------------------------------------------------------

    async def renew(self, lease: Lease, increment: float) -> Grant:
        """See Engine. The client certificate, where there is one, is shown again."""
        token = lease.data[TOKEN]
        # What somebody else's token was made for we do not know: it gets its own length again.
        body = {} if lease.first.key is None else {"increment": max(1, math.ceil(increment))}
        answer = await self._self_call("POST", _RENEW_SELF, token, body=body)
        if answer.status == 403:
            raise await self._denied(token, answer)
        if not answer.ok:
            raise faults.not_renewed(self.name, "login", answer)
        ttl, renewable = found.renewed_ttl(self.name, answer)
        if ttl == math.inf:  # 0: less than a second is left until its max TTL
            raise MaxTtlReached(f"{self.name}: the login has reached its max TTL")
        return Grant(id=lease.id, data={}, ttl=ttl, renewable=renewable)

    async def _denied(self, token: Secret, answer: Answer) -> UpstreamError:
        if not faults.names_the_token(answer):
            look = await self._self_call("GET", LOOKUP_SELF, token)
            if look.status != 403 or faults.names_the_policy(look):
                return faults.forbidden(self.name, _RENEW_SELF, "update")
        return LeaseGone(f"{self.name}: the server does not know our login any more")

    async def revoke(self, lease_id: str) -> None:
        """End a login of ours, and with it every lease that was made with it.

        A token from a file is not ours, and a batch token cannot be revoked: both end by themselves, as does a login
        that nobody here remembers.
        """
        token = self._tokens.get(lease_id)
        if token is None:
            return
        answer = await self._self_call("POST", _REVOKE_SELF, token, body={})
        if answer.status == 403 and faults.names_the_policy(answer):
            raise faults.forbidden(self.name, _REVOKE_SELF, "update")
        if not answer.ok and answer.status != 403:  # a 403: it has ended already
            raise Unavailable(f"{self.name}: the server does not revoke our login ({answer.status})")
        self._tokens = {id_: kept for id_, kept in self._tokens.items() if kept != token}

    async def _self_call(
        self, method: str, path: str, token: Secret, *, body: Mapping[str, object] | None = None
    ) -> Answer:
        way = self._way
        return await self._wire.call(
            method, path, token=token, body=body, certificate=way.certificate, namespace=way.namespace
        )

    # -- wrapping ---------------------------------------------------------------------------------------------------

    async def unwrap(self, token: Secret, made_at: str) -> Mapping[str, Secret]:
        """See `agent.identity.proof.Unwrap`."""
        return await self._wrapping.unwrap(token, made_at)

    async def wrap(self, token: Secret, ttl: float) -> Secret:
        """A single-use token that holds `token` for `ttl` seconds; see Wrapping."""
        return await self._wrapping.wrap(token, ttl)

    # -- the rest ---------------------------------------------------------------------------------------------------

    async def ping(self) -> None:
        """Return if the server can serve; a standby can."""
        # The question is allowed in the topmost namespace only.
        query = {"standbyok": "true", "perfstandbyok": "true"}
        answer = await self._wire.call("GET", _HEALTH, query=query, namespace="")
        if not answer.ok:
            raise BadResponse(f"{self.name}: the server does not say how it is ({answer.status})")


def _way_of(server: Vault) -> Proof:
    """How a login is called with that was taken over, before the first proof of our own."""
    method = server.method
    if method is None:
        return Proof()
    if method.type != "cert":
        return Proof(namespace=method.namespace)
    cert, key = method.config.client_cert or server.client_cert, method.config.client_key or server.client_key
    return Proof(certificate=(cert, key) if cert and key else None, namespace=method.namespace)


def _end_late(answer: Answer) -> Request | None:
    token = found.token_in(answer)
    return None if token is None else Request(method="POST", path=_REVOKE_SELF, token=token)
