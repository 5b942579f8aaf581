"""What all auth methods share: roles with token_* keys, and the token at the end of a login."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.vaultlike.engine import Engine
from tests.vaultlike.messages import Answer, Call, Json, Problem, listed, multi
from tests.vaultlike.tokens import Token
from tests.vaultlike.ttl import Terms, seconds

_KINDS = ("default", "service", "batch", "default-service", "default-batch")


@dataclass(frozen=True, kw_only=True)
class LoginRole:
    """A role of an auth method.

    Attributes:
        ttl, max_ttl, period, explicit_max_ttl: seconds; 0: nothing said.
        kind: token_type.
        own: the method's own keys, as they were written.
    """

    name: str
    policies: tuple[str, ...] = ()
    ttl: float = 0.0
    max_ttl: float = 0.0
    period: float = 0.0
    explicit_max_ttl: float = 0.0
    num_uses: int = 0
    no_default_policy: bool = False
    kind: str = "default"
    own: Mapping[str, Any] = field(default_factory=dict)

    def as_data(self) -> Json:
        """What reading the role tells."""
        return {
            **self.own,
            "token_bound_cidrs": [],
            "token_explicit_max_ttl": int(self.explicit_max_ttl),
            "token_max_ttl": int(self.max_ttl),
            "token_no_default_policy": self.no_default_policy,
            "token_num_uses": self.num_uses,
            "token_period": int(self.period),
            "token_policies": list(self.policies),
            "token_strictly_bind_ip": False,
            "token_ttl": int(self.ttl),
            "token_type": self.kind,
        }


def role_of(name: str, body: Json, before: LoginRole | None, own: Mapping[str, Any]) -> LoginRole:
    """A role as written: keys not given keep what they were."""
    made = LoginRole(
        name=name,
        policies=tuple(listed(body["token_policies"]))
        if "token_policies" in body
        else before.policies
        if before
        else (),
        ttl=_seconds(body, "token_ttl", before.ttl if before else 0.0),
        max_ttl=_seconds(body, "token_max_ttl", before.max_ttl if before else 0.0),
        period=_seconds(body, "token_period", before.period if before else 0.0),
        explicit_max_ttl=_seconds(body, "token_explicit_max_ttl", before.explicit_max_ttl if before else 0.0),
        num_uses=int(body.get("token_num_uses", before.num_uses if before else 0) or 0),
        no_default_policy=bool(body.get("token_no_default_policy", before.no_default_policy if before else False)),
        kind=str(body.get("token_type") or (before.kind if before else "default")),
        own=own,
    )
    if made.kind not in _KINDS:
        raise Problem(400, f"invalid 'token_type' value \"{made.kind}\"")
    if made.max_ttl and made.ttl > made.max_ttl:
        raise Problem(400, "'token_ttl' cannot be greater than 'token_max_ttl'")
    if "batch" in made.kind and made.period:
        raise Problem(400, "'token_type' cannot be 'batch' or 'default_batch' when set to generate periodic tokens")
    if "batch" in made.kind and made.num_uses:
        raise Problem(
            400, "'token_type' cannot be 'batch' or 'default_batch' when set to generate tokens with limited use count"
        )
    return made


def _seconds(body: Json, name: str, before: float) -> float:
    return seconds(body[name]) if name in body else before


class LoginEngine(Engine):
    """Base of the auth methods: keeps roles, hands out tokens."""

    def __init__(self, *args: Any) -> None:
        self.roles: dict[str, LoginRole] = {}
        super().__init__(*args)

    async def list_roles(self, call: Call) -> Answer:
        """Their names."""
        if not self.roles:
            raise Problem(404)
        return Answer(data={"keys": sorted(self.roles)})

    async def read_role(self, call: Call, name: str) -> Answer:
        """As it was written."""
        if name not in self.roles:
            raise Problem(404)
        return Answer(data=self.roles[name].as_data())

    async def delete_role(self, call: Call, name: str) -> Answer:
        """Those who logged in by it cannot renew any more."""
        self.roles.pop(name, None)
        return Answer(status=204)

    def logged_in(
        self, call: Call, role: LoginRole, *, alias: str, display_name: str, meta: Json, private: Json | None = None
    ) -> Answer:
        """The token of a login that was found good."""
        policies = {*role.policies, *(() if role.no_default_policy else ("default",))}
        token = self.core.tokens.make(
            self.mount.space,
            terms=self._terms(role),
            kind="batch" if "batch" in role.kind else "service",
            policies=tuple(sorted(policies)),
            path=call.path,
            display_name=f"{self.mount.path.removeprefix('auth/').rstrip('/').replace('/', '-')}-{display_name}",
            meta=meta,
            mount=self.mount,
            renewable=True,
            num_uses=role.num_uses,
            entity_id=self.core.entity(self.mount, alias),
            private={"role": role.name, **(private or {})},
        )
        return Answer(auth=token.as_auth())

    def login_terms(self, token: Token, call: Call) -> Terms:
        """By the role as it is now."""
        name = token.private["role"]
        if name not in self.roles:
            raise Problem(500, multi(f"failed to renew entry: role {name} does not exist during renewal"))
        return self._terms(self.roles[name])

    def _terms(self, role: LoginRole) -> Terms:
        return self.mount.terms(
            ttl=role.ttl, max_ttl=role.max_ttl, period=role.period, explicit_max_ttl=role.explicit_max_ttl
        )
