"""static-roles and static-creds: users that stay, with a password that the server changes."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.vaultlike import postgres
from tests.vaultlike.engine import Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, multi
from tests.vaultlike.ttl import instant, seconds

if TYPE_CHECKING:
    from tests.vaultlike.database import Database

_LEAST_PERIOD = 5.0  # seconds
_RETRY = 10.0


@dataclass(kw_only=True)
class StaticRole:
    """One user.

    Attributes:
        period: seconds between rotations.
        rotated_at: Unix time.
    """

    name: str
    db_name: str
    username: str
    period: float
    statements: tuple[str, ...]
    password: str = ""
    rotated_at: float = 0.0

    @property
    def timing(self) -> Json:
        """As reading the role and reading the credential tell."""
        return {"last_vault_rotation": instant(self.rotated_at), "rotation_period": int(self.period)}


class StaticRoles:
    """The routes of Database that are about users that stay."""

    def __init__(self, engine: "Database") -> None:
        self._engine = engine
        self._roles: dict[str, StaticRole] = {}

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        name = "([^/]+)"
        return (
            Route(pattern="static-roles", list=self._list),
            Route(pattern=f"static-roles/{name}", read=self._read, update=self._write, delete=self._delete),
            Route(pattern=f"static-creds/{name}", read=self._creds),
            Route(pattern=f"rotate-role/{name}", update=self._rotate_now),
        )

    def close(self) -> None:
        """No rotation any more."""
        for role in self._roles.values():
            self._engine.core.timer.drop(("rotation", role.name, id(self)))

    def _known(self, name: str) -> StaticRole:
        if name not in self._roles:
            raise Problem(400, f"unknown role: {name}")
        return self._roles[name]

    async def _list(self, call: Call) -> Answer:
        if not self._roles:
            raise Problem(404)
        return Answer(data={"keys": sorted(self._roles)})

    async def _read(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None:
            raise Problem(404)
        data: Json = {
            "credential_type": "password",
            "db_name": role.db_name,
            "rotation_statements": list(role.statements),
            "username": role.username,
            **role.timing,
        }
        return Answer(data=data)

    async def _write(self, call: Call, name: str) -> Answer:
        before = self._roles.get(name)
        statements = call.body.get("rotation_statements") or (before.statements if before else ())
        role = StaticRole(
            name=name,
            db_name=call.text("db_name") or (before.db_name if before else ""),
            username=call.text("username") or (before.username if before else ""),
            period=seconds(call.body.get("rotation_period")) or (before.period if before else 0.0),
            statements=(statements,) if isinstance(statements, str) else tuple(statements),
            password=before.password if before else "",
            rotated_at=before.rotated_at if before else 0.0,
        )
        if not role.username:
            raise Problem(400, "username is a required field to create a static account")
        if not role.period:
            raise Problem(400, "rotation_period is required to create static accounts")
        if role.period < _LEAST_PERIOD:
            raise Problem(400, f"rotation_period must be {int(_LEAST_PERIOD)} seconds or more")
        if before is None:
            try:
                await self._rotate(role)
            except Problem as exc:
                raise Problem(500, multi(f"error setting credentials: {exc.text}")) from exc
        self._roles[name] = role
        self._schedule(role, role.rotated_at + role.period)
        return NOTHING

    async def _delete(self, call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        self._engine.core.timer.drop(("rotation", name, id(self)))
        return NOTHING

    async def _creds(self, call: Call, name: str) -> Answer:
        role = self._known(name)
        left = max(0, int(role.rotated_at + role.period - time.time() + 0.5))
        return Answer(data={"username": role.username, "password": role.password, "ttl": left, **role.timing})

    async def _rotate_now(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None:
            raise Problem(400, "no static role found for role name")
        await self._rotate(role)
        self._schedule(role, role.rotated_at + role.period)
        return NOTHING

    async def _rotate(self, role: StaticRole) -> None:
        fresh = postgres.new_password()
        statements = role.statements or (postgres.DEFAULT_ROTATION,)
        words = {"name": role.username, "username": role.username, "password": fresh}
        await self._engine.config(role.db_name).do(postgres.run, statements, words)
        role.password, role.rotated_at = fresh, time.time()

    def _schedule(self, role: StaticRole, at: float) -> None:
        async def rotate() -> None:
            if self._roles.get(role.name) is not role:
                return
            try:
                await self._rotate(role)
            except Problem:
                self._schedule(role, time.time() + _RETRY)
            else:
                self._schedule(role, role.rotated_at + role.period)

        self._engine.core.timer.set(("rotation", role.name, id(self)), at, rotate)
