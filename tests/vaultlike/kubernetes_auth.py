"""auth/kubernetes: logins with service account tokens, which the cluster is asked about."""

import asyncio
import http.client
import json
import ssl
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import urlsplit

from tests.vaultlike.engine import Route
from tests.vaultlike.logins import LoginEngine, LoginRole, role_of
from tests.vaultlike.messages import DENIED, NOTHING, Answer, Call, Json, Problem, listed

_REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
_DEADLINE = 10.0


class KubernetesAuth(LoginEngine):
    """The kubernetes method."""

    kind: ClassVar[str] = "kubernetes"

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
        if not call.text("kubernetes_host"):
            raise Problem(400, "no host provided")
        if not call.text("kubernetes_ca_cert"):
            if call.body.get("disable_local_ca_jwt"):
                raise Problem(400, "kubernetes_ca_cert must be given when disable_local_ca_jwt is true")
            text = "open /var/run/secrets/kubernetes.io/serviceaccount/ca.crt: no such file or directory"
            raise Problem(400, text)
        self._config = dict(call.body)
        return NOTHING

    async def _read_config(self, call: Call) -> Answer:
        if not self._config:
            raise Problem(404)
        data: Json = {
            "disable_iss_validation": bool(self._config.get("disable_iss_validation", True)),
            "disable_local_ca_jwt": bool(self._config.get("disable_local_ca_jwt")),
            "issuer": self._config.get("issuer", ""),
            "kubernetes_ca_cert": self._config.get("kubernetes_ca_cert", ""),
            "kubernetes_host": self._config["kubernetes_host"],
            "pem_keys": [],
            "token_reviewer_jwt_set": bool(self._config.get("token_reviewer_jwt")),
        }
        return Answer(data=data)

    async def _write_role(self, call: Call, name: str) -> Answer:
        before = self.roles.get(name)
        body = {**(before.own if before else {}), **call.body}
        own = {
            "alias_name_source": str(body.get("alias_name_source") or "serviceaccount_uid"),
            "audience": str(body.get("audience") or ""),
            "bound_service_account_names": listed(body.get("bound_service_account_names")),
            "bound_service_account_namespaces": listed(body.get("bound_service_account_namespaces")),
            "bound_service_account_namespace_selector": "",
        }
        if not own["bound_service_account_names"]:
            raise Problem(400, '"bound_service_account_names" can not be empty')
        if not own["bound_service_account_namespaces"]:
            end = 'can not be empty if "bound_service_account_namespace_selector" is not set'
            raise Problem(400, f'"bound_service_account_namespaces" {end}')
        self.roles[name] = role_of(name, call.body, before, own)
        return NOTHING

    async def _login(self, call: Call) -> Answer:
        jwt, name = call.text("jwt"), call.text("role")
        if not name:
            raise Problem(400, "missing role")
        if not jwt:
            raise Problem(400, "missing jwt")
        role = self.roles.get(name)
        if role is None:
            raise Problem(400, f'invalid role name "{name}"')
        if not self._config:
            raise Problem(500, "could not load backend configuration")
        account = _account(jwt, role)
        reviewer = self._config.get("token_reviewer_jwt") or jwt
        user = await asyncio.to_thread(_reviewed, self._config, reviewer, jwt, role.own["audience"])
        if user.get("username") != f"system:serviceaccount:{account['namespace']}:{account['name']}":
            raise Problem(403, DENIED)
        meta: Json = {
            "role": role.name,
            "service_account_name": account["name"],
            "service_account_namespace": account["namespace"],
            "service_account_secret_name": "",
            "service_account_uid": account["uid"],
        }
        shown = f"{account['namespace']}-{account['name']}"
        return self.logged_in(call, role, alias=account["uid"], display_name=shown, meta=meta)


def _account(jwt: str, role: LoginRole) -> dict[str, str]:
    """Whose token it says it is, if the role would have that one; the signature is the cluster's to check."""
    from tests.vaultlike import jws

    try:
        claims = jws.claims_of(jwt)
    except jws.Rejected as exc:
        raise Problem(403, DENIED) from exc
    try:
        jws.check_times(claims)
        jws.check_audience(claims, [role.own["audience"]] if role.own["audience"] else [])
    except jws.Rejected as exc:
        raise Problem(403, str(exc)) from exc
    said: Json = claims.get("kubernetes.io") or {}
    account: Json = said.get("serviceaccount") or {}
    found = {"namespace": said.get("namespace", ""), "name": account.get("name", ""), "uid": account.get("uid", "")}
    if not _named(found["name"], role.own["bound_service_account_names"]):
        raise Problem(403, "service account name not authorized")
    if not _named(found["namespace"], role.own["bound_service_account_namespaces"]):
        raise Problem(403, "namespace not authorized")
    return found


def _named(name: str, allowed: Sequence[str]) -> bool:
    return any(one in ("*", name) or (one.endswith("*") and name.startswith(one[:-1])) for one in allowed)


def _reviewed(config: Json, reviewer: str, jwt: str, audience: str) -> Json:
    """What the cluster says of the token's user; Problem where it does not vouch for it."""
    review: Json = {
        "kind": "TokenReview",
        "apiVersion": "authentication.k8s.io/v1",
        "spec": {"token": jwt, **({"audiences": [audience]} if audience else {})},
    }
    headers = {"Authorization": f"Bearer {reviewer}", "Content-Type": "application/json", "Accept": "application/json"}
    split = urlsplit(config["kubernetes_host"])
    connection: http.client.HTTPConnection
    if split.scheme == "https":
        context = ssl.create_default_context(cadata=config["kubernetes_ca_cert"])
        connection = http.client.HTTPSConnection(split.hostname or "", split.port, timeout=_DEADLINE, context=context)
    else:
        connection = http.client.HTTPConnection(split.hostname or "", split.port, timeout=_DEADLINE)
    try:
        connection.request("POST", _REVIEWS, json.dumps(review), headers)
        response = connection.getresponse()
        said = json.loads(response.read()) if response.status < 300 else {}
    except (OSError, http.client.HTTPException, ValueError) as exc:
        raise Problem(403, DENIED) from exc
    finally:
        connection.close()
    status: Json = said.get("status") or {}
    if not status.get("authenticated"):
        raise Problem(403, DENIED)
    user: Json = status.get("user") or {}
    return user
