"""auth/jwt: logins with tokens signed by a key that the mount knows."""

from collections.abc import Sequence
from typing import Any, ClassVar

from tests.vaultlike.engine import Route
from tests.vaultlike.logins import LoginEngine, LoginRole, role_of
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, listed

_NOTHING_GIVEN = (
    "exactly one of 'jwt_validation_pubkeys', 'jwks_url', 'jwks_pairs', 'oidc_discovery_url', "
    "or 'provider_config' must be set"
)


class JwtAuth(LoginEngine):
    """The jwt method, with keys in its configuration."""

    kind: ClassVar[str] = "jwt"

    def __init__(self, *args: Any) -> None:
        self._config: Json = {}
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (
            Route(pattern="config", read=self._read_config, update=self._configure),
            Route(pattern="role", list=self.list_roles),
            Route(pattern="role/([^/]+)", read=self.read_role, update=self._write_role, delete=self.delete_role),
            Route(pattern="login", update=self._login, public=True),
        )

    async def _configure(self, call: Call) -> Answer:
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        keys = call.words("jwt_validation_pubkeys")
        if not keys:
            raise Problem(400, _NOTHING_GIVEN)
        for pem in keys:
            try:
                load_pem_public_key(pem.encode())
            except ValueError as exc:
                raise Problem(400, "error parsing public key: data does not contain any valid public keys") from exc
        self._config = {
            "bound_issuer": call.text("bound_issuer"),
            "default_role": call.text("default_role"),
            "jwt_validation_pubkeys": keys,
            "status": "valid",
        }
        return NOTHING

    async def _read_config(self, call: Call) -> Answer:
        if not self._config:
            raise Problem(404)
        return Answer(data=self._config)

    async def _write_role(self, call: Call, name: str) -> Answer:
        before = self.roles.get(name)
        body = {**(before.own if before else {}), **call.body}
        own = {
            "role_type": str(body.get("role_type") or "oidc"),
            "user_claim": str(body.get("user_claim") or ""),
            "bound_audiences": listed(body.get("bound_audiences")),
            "bound_subject": str(body.get("bound_subject") or ""),
            "bound_claims": body.get("bound_claims") or {},
            "claim_mappings": body.get("claim_mappings") or {},
        }
        role = role_of(name, call.body, before, own)
        if not own["user_claim"]:
            raise Problem(400, "a user claim must be defined on the role")
        if not any(own[bound] for bound in ("bound_audiences", "bound_subject", "bound_claims")):
            raise Problem(400, "must have at least one bound constraint when creating/updating a role")
        self.roles[name] = role
        return NOTHING

    async def _login(self, call: Call) -> Answer:
        from tests.vaultlike import jws

        if not self._config:
            raise Problem(400, "could not load configuration")
        name = call.text("role") or self._config["default_role"]
        if not name:
            raise Problem(400, "missing role")
        role = self.roles.get(name)
        if role is None:
            raise Problem(400, f'role "{name}" could not be found')
        if not call.text("jwt"):
            raise Problem(400, "missing token")
        try:
            claims = jws.verify(call.text("jwt"), self._config["jwt_validation_pubkeys"])
            jws.check_times(claims)
            _check_names(claims, self._config["bound_issuer"], role.own["bound_subject"])
            jws.check_audience(claims, role.own["bound_audiences"])
        except jws.Rejected as exc:
            raise Problem(400, f"error validating token: {exc}") from exc
        return self._accepted(call, role, claims)

    def _accepted(self, call: Call, role: LoginRole, claims: Json) -> Answer:
        for claim, wanted in role.own["bound_claims"].items():
            if claim not in claims:
                raise Problem(400, f'error validating claims: claim "{claim}" is missing')
            if not {*map(str, _many(claims[claim]))} & {*map(str, _many(wanted))}:
                text = f'claim "{claim}" does not match any associated bound claim values'
                raise Problem(400, f"error validating claims: {text}")
        user = claims.get(role.own["user_claim"])
        if not isinstance(user, str):
            raise Problem(400, f'claim "{role.own["user_claim"]}" not found in token')
        meta = {to: str(claims[claim]) for claim, to in role.own["claim_mappings"].items() if claim in claims}
        return self.logged_in(call, role, alias=user, display_name=user, meta={**meta, "role": role.name})


def _check_names(claims: Json, issuer: str, subject: str) -> None:
    from tests.vaultlike.jws import Rejected

    if issuer and claims.get("iss") != issuer:
        raise Rejected("invalid issuer (iss) claim")
    if subject and claims.get("sub") != subject:
        raise Rejected("invalid subject (sub) claim")


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
