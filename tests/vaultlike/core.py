"""The server without HTTP: from a request to an answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.vaultlike.engine import Engine, Found
from tests.vaultlike.leases import Lease, LeaseStore
from tests.vaultlike.messages import DENIED, Answer, Call, Json, Problem, multi
from tests.vaultlike.spaces import Mount, Space, Spaces, access_of
from tests.vaultlike.timer import Timer
from tests.vaultlike.tokens import Token, TokenStore, new_uuid, random_text
from tests.vaultlike.ttl import BadDuration, seconds
from tests.vaultlike.wrapping import GONE, Wrapping

VERSION = "2.6.2"

_OPERATIONS = {
    "GET": "read",
    "HEAD": "read",
    "POST": "update",
    "PUT": "update",
    "DELETE": "delete",
    "LIST": "list",
    "PATCH": "patch",
}
_CAPABILITY = {"read": "read", "update": "update", "delete": "delete", "list": "list", "patch": "patch"}
_LAST_USE = "Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request as it came.

    Attributes:
        path: below /v1/, decoded.
        headers: by lower-case name.
        peer: the client's certificate, DER.
    """

    method: str
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    content: bytes = field(default=b"", repr=False)
    peer: bytes | None = field(default=None, repr=False)

    @property
    def client_token(self) -> str:
        """By either header."""
        bearer = self.headers.get("authorization", "")
        return self.headers.get("x-vault-token") or bearer.removeprefix("Bearer ").strip()


class Core:
    """State of a server, and the way of each request through it.

    Args:
        engines: the kinds that can be mounted, logins as "auth/KIND".
        root_token: may do everything.
        unseal_key: the only one.
    """

    def __init__(self, engines: Mapping[str, type[Engine]], *, root_token: str, unseal_key: str) -> None:
        self.engines = engines
        self.unseal_key = unseal_key
        self.sealed = False
        self.cluster_id = new_uuid()
        self.timer = Timer()
        self.leases = LeaseStore(self.timer)
        self.tokens = TokenStore(self.timer, self._ended)
        self.wrapping = Wrapping(self.tokens)
        self.spaces = Spaces()
        self.entities: dict[tuple[str, str], str] = {}
        self.trusted: list[str] = []  # PEM, of clients' certificates
        self.furnish(self.spaces.root)
        self.tokens.plant(
            Token(
                id=root_token,
                accessor=random_text(24),
                space=self.spaces.root,
                policies=("root",),
                path="auth/token/root",
                display_name="root",
            )
        )

    async def _ended(self, token: Token) -> None:
        self.leases.end_of(token)

    # -- mounts ------------------------------------------------------------------------------------------------------

    def furnish(self, space: Space) -> None:
        """What every namespace has from the start."""
        self.mount(space, "sys/", "system")
        self.mount(space, "auth/token/", "token")
        self.mount(space, "cubbyhole/", "cubbyhole")

    def mount(self, space: Space, path: str, kind: str, **fields: Any) -> Mount:
        """An engine at a path."""
        name = f"auth/{kind}" if path.startswith("auth/") else kind
        if name not in self.engines:
            raise Problem(400, f"plugin not found in the catalog: {kind}")
        if kind == "kv" and (fields.get("options") or {}).get("version") == "2":
            name = "kv-v2"
        accessor = f"{name.replace('/', '_')}_{random_text(8, '0123456789abcdef')}"
        made = Mount(path=path, kind=kind, space=space, accessor=accessor, **fields)
        made.engine = self.engines[name](self, made)
        space.mounts[path] = made
        return made

    async def unmount(self, mount: Mount) -> None:
        """Take an engine away, and end what it granted."""
        for lease in self.leases.matching(lambda one: one.mount is mount):
            await self.leases.revoke(lease)
        for token in self.tokens.all():
            if token.mount is mount:
                await self.tokens.revoke(token)
        mount.space.mounts.pop(mount.path, None)
        await mount.engine.close()

    def entity(self, mount: Mount, alias: str) -> str:
        """The id of whoever logs in there under that name."""
        return self.entities.setdefault((mount.accessor, alias), new_uuid())

    # -- requests ----------------------------------------------------------------------------------------------------

    async def answer(self, asked: Asked) -> tuple[int, Json | str | None]:
        """Status and body."""
        try:
            return await self._answer(asked)
        except Problem as problem:
            return problem.status, problem.body
        except BadDuration as exc:
            return 400, {"errors": [str(exc)]}

    async def _answer(self, asked: Asked) -> tuple[int, Json | str | None]:
        call, found = self._located(asked)
        if self.sealed and not (found and found.route.sealed):
            raise Problem(503, "Vault is sealed")
        if found and found.route.public:
            return self._finished(call, await found.run(call), None)
        call = await self._unwrapping(call)
        token = self.tokens.find(call.client_token)
        if token is None:
            raise Problem(403, DENIED)
        last = self.tokens.use(token)
        try:
            return await self._permitted(replace(call, token=token), found, last=last)
        finally:
            if last:
                await self.tokens.revoke(token)

    async def _permitted(self, call: Call, found: Found | None, *, last: bool) -> tuple[int, Json | str | None]:
        token = call.token
        assert token is not None
        full = call.space.path + call.path
        access = access_of(token)
        wanted = _CAPABILITY[call.operation]
        if call.operation == "update" and found and not call.mount.engine.exists(call):
            wanted = "create"
        if not access.allows(wanted, full):
            raise Problem(403, multi(DENIED))
        if call.mount.path == "":
            raise Problem(404, f'no handler for route "{call.path}". route entry not found.')
        if found is None:
            raise Problem(404, multi("unsupported path"))
        answer = await found.run(call)
        if last and answer.grant:
            lease = self.leases.add(call.mount, call.path.removesuffix("/"), answer.grant, token)
            await self.leases.revoke(lease)
            raise Problem(400, _LAST_USE)
        return self._finished(call, answer, token)

    def _located(self, asked: Asked) -> tuple[Call, Found | None]:
        """The request with its namespace, mount and route; Problem where it cannot be read."""
        if asked.method not in _OPERATIONS:
            raise Problem(405)
        operation = _OPERATIONS[asked.method]
        if operation == "read" and asked.query.get("list") == "true":
            operation = "list"
        path = asked.path
        if operation == "list" and not path.endswith("/"):
            path += "/"
        body = _body(asked.content)
        located = self._space(asked, path)
        if located is None:
            raise Problem(404, "namespace not found")
        space, path = located
        try:
            wrap_ttl = seconds(asked.headers.get("x-vault-wrap-ttl"))
        except BadDuration as exc:
            raise Problem(400, f"error parsing X-Vault-Wrap-TTL header: {exc}") from exc
        mount = space.mount_of(path)
        call = Call(
            operation=operation,
            path=path,
            body=body,
            query=asked.query,
            space=space,
            mount=mount or Mount(path="", kind="", space=space),
            rest=path[len(mount.path) :] if mount else path,
            client_token=asked.client_token,
            wrap_ttl=wrap_ttl,
            peer=asked.peer,
        )
        return call, mount.engine.find(call.rest, operation) if mount else None

    def _space(self, asked: Asked, path: str) -> tuple[Space, str] | None:
        header = asked.headers.get("x-vault-namespace", "")
        located = self.spaces.of(header, path)
        token = self.tokens.find(asked.client_token)
        if located and token and token.space.path and not header and located[0] is self.spaces.root:
            return token.space, path  # a namespace's token says which one it means
        return located

    async def _unwrapping(self, call: Call) -> Call:
        """Check what is to be unwrapped before anything is used up, as Vault does."""
        if call.path != "sys/wrapping/unwrap":
            return call
        sent = call.text("token")
        if not sent and not call.client_token:
            raise Problem(403, DENIED)
        if not self.wrapping.holds(sent or call.client_token):
            raise Problem(400, GONE)
        if sent == call.client_token:
            token = self.tokens.find(sent)
            assert token is not None
            await self.tokens.revoke(token)
            text = "invalid token entry provided for use count decrementing"
            raise Problem(500, multi(f"error decrementing wrapping token's use-count: {text}"))
        return call

    # -- answers -----------------------------------------------------------------------------------------------------

    def _finished(self, call: Call, answer: Answer, token: Token | None) -> tuple[int, Json | str | None]:
        """The answer's envelope, leased and wrapped as asked for."""
        if answer.bare is not None:
            return answer.status, answer.bare
        if answer.replay is not None:
            return 200, {**answer.replay, "request_id": new_uuid()}
        if answer.status in (202, 204):
            return answer.status, None
        path = call.path.removesuffix("/")
        lease = self.leases.add(call.mount, path, answer.grant, token) if answer.grant else None
        envelope = _envelope(answer, lease)
        if call.wrap_ttl > 0 and answer.status < 300:
            info = self.wrapping.wrap(call.space, envelope, path, call.wrap_ttl)
            return 200, {**_envelope(Answer(), None), "request_id": "", "wrap_info": info}
        return answer.status, {**(answer.data or {}), **envelope} if answer.flat else envelope


def _envelope(answer: Answer, lease: Lease | None) -> Json:
    return {
        "request_id": new_uuid(),
        "lease_id": lease.id if lease else answer.lease_id,
        "renewable": lease.renewable if lease else answer.renewable,
        "lease_duration": lease.ttl if lease else answer.lease_duration,
        "data": answer.data,
        "wrap_info": None,
        "warnings": list(answer.warnings) or None,
        "auth": answer.auth,
    }


def _body(content: bytes) -> Json:
    if not content.strip():
        return {}
    try:
        found = json.loads(content)
    except ValueError as exc:
        raise Problem(400, f"failed to decode JSON input: {exc}") from exc
    if not isinstance(found, dict):
        kind = {str: "string", list: "array", bool: "bool"}.get(type(found), "number")
        text = f"json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}"
        raise Problem(400, f"failed to decode JSON input: {text}")
    return found
