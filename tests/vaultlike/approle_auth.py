"""auth/approle: logins with a role id and a secret id."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from tests.vaultlike.engine import Route
from tests.vaultlike.logins import LoginEngine, LoginRole, role_of
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, multi
from tests.vaultlike.tokens import new_uuid
from tests.vaultlike.ttl import instant, seconds

_WRONG = "invalid role or secret ID"


@dataclass(kw_only=True)
class SecretId:
    """One of a role's passwords.

    Attributes:
        uses: left; 0: any number.
        expires_at: Unix time, None: never.
    """

    value: str
    accessor: str
    role: str
    uses: int
    ttl: int
    made_at: float
    expires_at: float | None

    def as_data(self) -> Json:
        """What making one tells."""
        return {
            "secret_id": self.value,
            "secret_id_accessor": self.accessor,
            "secret_id_num_uses": self.uses,
            "secret_id_ttl": self.ttl,
        }


class AppRoleAuth(LoginEngine):
    """The approle method."""

    kind: ClassVar[str] = "approle"

    def __init__(self, *args: Any) -> None:
        self._role_ids: dict[str, str] = {}  # by role
        self._secrets: dict[str, SecretId] = {}  # by value
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        role = "role/([^/]+)"
        return (
            Route(pattern="role", list=self.list_roles),
            Route(pattern=role, read=self.read_role, update=self._write_role, delete=self._delete_role),
            Route(pattern=f"{role}/role-id", read=self._role_id, update=self._set_role_id),
            Route(pattern=f"{role}/secret-id", update=self._make_secret, list=self._list_secrets),
            Route(pattern=f"{role}/custom-secret-id", update=self._make_secret),
            Route(pattern=f"{role}/secret-id/lookup", update=self._lookup_secret),
            Route(pattern=f"{role}/secret-id/destroy", update=self._destroy_secret, delete=self._destroy_secret),
            Route(pattern=f"{role}/secret-id-accessor/destroy", update=self._destroy_secret),
            Route(pattern="login", update=self._login, public=True),
        )

    async def _write_role(self, call: Call, name: str) -> Answer:
        before = self.roles.get(name)
        body = {**(before.own if before else {}), **call.body}
        own = {
            "bind_secret_id": bool(body.get("bind_secret_id", True)),
            "local_secret_ids": False,
            "secret_id_bound_cidrs": None,
            "secret_id_num_uses": int(body.get("secret_id_num_uses") or 0),
            "secret_id_ttl": int(seconds(body.get("secret_id_ttl"))),
        }
        if not own["bind_secret_id"] and not call.body.get("token_bound_cidrs"):
            raise Problem(500, multi("at least one constraint should be enabled on the role"))
        self.roles[name] = role_of(name, call.body, before, own)
        self._role_ids.setdefault(name, call.text("role_id") or new_uuid())
        return NOTHING

    async def _delete_role(self, call: Call, name: str) -> Answer:
        self._role_ids.pop(name, None)
        self._secrets = {value: one for value, one in self._secrets.items() if one.role != name}
        return await self.delete_role(call, name)

    async def _role_id(self, call: Call, name: str) -> Answer:
        if name not in self.roles:
            raise Problem(404)
        return Answer(data={"role_id": self._role_ids[name]})

    async def _set_role_id(self, call: Call, name: str) -> Answer:
        self._known(name)
        self._role_ids[name] = call.text("role_id")
        return NOTHING

    def _known(self, name: str) -> LoginRole:
        if name not in self.roles:
            raise Problem(404, f'role "{name}" does not exist')
        return self.roles[name]

    async def _make_secret(self, call: Call, name: str) -> Answer:
        role = self._known(name)
        now = time.time()
        ttl = int(seconds(call.body.get("ttl"))) or role.own["secret_id_ttl"]
        made = SecretId(
            value=call.text("secret_id") or new_uuid(),
            accessor=new_uuid(),
            role=name,
            uses=int(call.body.get("num_uses", role.own["secret_id_num_uses"]) or 0),
            ttl=ttl,
            made_at=now,
            expires_at=now + ttl if ttl else None,
        )
        self._secrets[made.value] = made
        return Answer(data=made.as_data())

    async def _list_secrets(self, call: Call, name: str) -> Answer:
        keys = [one.accessor for one in self._secrets.values() if one.role == name]
        if not keys:
            raise Problem(404)
        return Answer(data={"keys": keys})

    async def _lookup_secret(self, call: Call, name: str) -> Answer:
        one = self._secrets.get(call.text("secret_id"))
        if one is None or one.role != name:
            return NOTHING
        data = {key: value for key, value in one.as_data().items() if key != "secret_id"}
        return Answer(data={**data, "creation_time": instant(one.made_at), "expiration_time": instant(one.expires_at)})

    async def _destroy_secret(self, call: Call, name: str) -> Answer:
        accessor = call.text("secret_id_accessor")
        gone = call.text("secret_id") or next((v for v, one in self._secrets.items() if one.accessor == accessor), "")
        self._secrets.pop(gone, None)
        return NOTHING

    async def _login(self, call: Call) -> Answer:
        role_id = call.text("role_id")
        if not role_id:
            raise Problem(500, "missing role_id")
        name = next((role for role, value in self._role_ids.items() if value == role_id), None)
        if name is None:
            raise Problem(400, _WRONG)
        role = self.roles[name]
        if role.own["bind_secret_id"]:
            self._use_secret(call.text("secret_id"), name)
        return self.logged_in(call, role, alias=role_id, display_name="", meta={"role_name": name})

    def _use_secret(self, value: str, role: str) -> None:
        if not value:
            raise Problem(400, "missing secret_id")
        one = self._secrets.get(value)
        if one is None or one.role != role or (one.expires_at is not None and one.expires_at <= time.time()):
            raise Problem(400, _WRONG)
        if one.uses:
            one.uses -= 1
            if one.uses == 0:
                del self._secrets[value]
