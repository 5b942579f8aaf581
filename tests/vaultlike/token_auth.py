"""auth/token/: making, looking up, renewing and revoking tokens."""

import math
from collections.abc import Sequence
from typing import ClassVar

from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, multi
from tests.vaultlike.spaces import access_of
from tests.vaultlike.tokens import Token, check_renewable
from tests.vaultlike.ttl import BadDuration, seconds


class TokenAuth(Engine):
    """The token engine."""

    kind: ClassVar[str] = "token"

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (
            Route(pattern="create", update=self._create),
            Route(pattern="create-orphan", update=self._create_orphan),
            Route(pattern="lookup-self", read=self._lookup_self, update=self._lookup_self),
            Route(pattern="lookup", update=self._lookup, read=self._lookup_self),
            Route(pattern="lookup-accessor", update=self._lookup_accessor),
            Route(pattern="renew-self", update=self._renew_self),
            Route(pattern="renew", update=self._renew),
            Route(pattern="renew-accessor", update=self._renew_accessor),
            Route(pattern="revoke-self", update=self._revoke_self),
            Route(pattern="revoke", update=self._revoke),
            Route(pattern="revoke-orphan", update=self._revoke_orphan),
            Route(pattern="revoke-accessor", update=self._revoke_accessor),
            Route(pattern="accessors", list=self._accessors),
        )

    # -- making ------------------------------------------------------------------------------------------------------

    async def _create_orphan(self, call: Call) -> Answer:
        return self._made(call, orphan=True)

    async def _create(self, call: Call) -> Answer:
        assert call.token is not None
        orphan = bool(call.body.get("no_parent"))
        given = access_of(call.token).capabilities(call.space.path + call.path)
        if orphan and not given & {"root", "sudo"}:
            raise Problem(400, "root or sudo privileges required to create orphan token")
        return self._made(call, orphan=orphan)

    def _made(self, call: Call, *, orphan: bool) -> Answer:
        parent = call.token
        assert parent is not None
        body = call.body
        kind = call.text("type", "service").removeprefix("default-")
        if kind not in ("service", "batch"):
            raise Problem(400, "invalid 'token_type' value")
        policies = self._policies(call, parent)
        _check_batch(kind, policies, body)
        terms = self.mount.terms(
            ttl=seconds(body.get("ttl")),
            period=seconds(body.get("period")),
            explicit_max_ttl=seconds(body.get("explicit_max_ttl")),
        )
        name = call.text("display_name")
        token = self.core.tokens.make(
            self.mount.space,
            terms=terms,
            kind=kind,
            policies=policies,
            path=call.path,
            display_name=f"token-{name}" if name else "token",
            meta=body.get("meta"),
            parent=None if orphan else parent,
            orphan=orphan,
            renewable=bool(body.get("renewable", True)),
            num_uses=int(body.get("num_uses") or 0),
        )
        wanted = call.text("id")
        if wanted:
            self.core.tokens.rename(token, wanted)
        return Answer(auth=token.as_auth())

    def _policies(self, call: Call, parent: Token) -> tuple[str, ...]:
        named = call.words("policies")
        if not named:
            return parent.policies
        if not parent.root and not set(named) <= {*parent.policies, "default"}:
            raise Problem(400, "child policies must be subset of parent")
        if "root" in named:
            return ("root",)
        if call.body.get("no_default_policy"):
            return tuple(sorted(set(named) - {"default"}))
        return tuple(sorted({*named, "default"}))

    # -- looking up --------------------------------------------------------------------------------------------------

    async def _lookup_self(self, call: Call) -> Answer:
        assert call.token is not None
        return Answer(data=call.token.as_data())

    async def _lookup(self, call: Call) -> Answer:
        token = self.core.tokens.find(call.text("token") or call.client_token)
        if token is None:
            raise Problem(403, "bad token")
        return Answer(data=token.as_data())

    async def _lookup_accessor(self, call: Call) -> Answer:
        token = self.core.tokens.by_accessor(call.text("accessor"))
        if token is None:
            raise Problem(400, multi("invalid accessor"))
        return Answer(data={**token.as_data(), "id": ""})

    async def _accessors(self, call: Call) -> Answer:
        return Answer(data={"keys": [one.accessor for one in self.core.tokens.all() if one.accessor]})

    # -- renewing ----------------------------------------------------------------------------------------------------

    async def _renew_self(self, call: Call) -> Answer:
        assert call.token is not None
        return await self._renewed(call, call.token)

    async def _renew(self, call: Call) -> Answer:
        token = self.core.tokens.find(call.text("token"))
        if token is None:
            raise Problem(400, "token not found")
        return await self._renewed(call, token)

    async def _renew_accessor(self, call: Call) -> Answer:
        token = self.core.tokens.by_accessor(call.text("accessor"))
        if token is None:
            raise Problem(400, multi("invalid accessor"))
        answer = await self._renewed(call, token)
        return Answer(auth={**(answer.auth or {}), "client_token": ""}, warnings=answer.warnings)

    async def _renewed(self, call: Call, token: Token) -> Answer:
        try:
            increment = seconds(call.body.get("increment"))
        except BadDuration as exc:
            raise Problem(400, f'Field validation failed: error converting input for field "increment": {exc}') from exc
        check_renewable(token)
        terms = (token.mount.engine if token.mount else self).login_terms(token, call)
        try:
            warnings = await self.core.tokens.renew(token, terms, math.floor(increment))
        except Problem as exc:
            raise Problem(500, multi(exc.text)) from exc
        return Answer(auth=token.as_auth(), warnings=tuple(warnings))

    # -- revoking ----------------------------------------------------------------------------------------------------

    async def _revoke_self(self, call: Call) -> Answer:
        assert call.token is not None
        if call.token.kind == "batch":
            raise Problem(400, "batch tokens cannot be revoked")
        await self.core.tokens.revoke(call.token)
        return NOTHING

    async def _revoke(self, call: Call) -> Answer:
        await self._ended(self.core.tokens.find(call.text("token")))
        return NOTHING

    async def _revoke_orphan(self, call: Call) -> Answer:
        await self._ended(self.core.tokens.find(call.text("token")), keep_children=True)
        return NOTHING

    async def _revoke_accessor(self, call: Call) -> Answer:
        token = self.core.tokens.by_accessor(call.text("accessor"))
        if token is None:
            return Answer(warnings=("No token found with this accessor",))
        await self._ended(token)
        return NOTHING

    async def _ended(self, token: Token | None, *, keep_children: bool = False) -> None:
        if token is None:
            return
        if token.kind == "batch":
            raise Problem(400, "batch tokens cannot be revoked")
        await self.core.tokens.revoke(token, keep_children=keep_children)


def _check_batch(kind: str, policies: tuple[str, ...], body: Json) -> None:
    if kind != "batch":
        return
    if "root" in policies:
        raise Problem(400, "batch tokens cannot be root tokens")
    for name in ("explicit_max_ttl", "num_uses", "period"):
        if body.get(name):
            raise Problem(400, f'batch tokens cannot have "{name}" set')
