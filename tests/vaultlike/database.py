"""The database engine: users of a real PostgreSQL, made for a lease and dropped with it."""

import asyncio
import fnmatch
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, ClassVar

from tests.vaultlike import postgres
from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.leases import Lease
from tests.vaultlike.messages import NOTHING, Answer, Call, Grant, Json, Problem, bare, listed, multi
from tests.vaultlike.postgres import Server
from tests.vaultlike.static import StaticRoles
from tests.vaultlike.tokens import random_text
from tests.vaultlike.ttl import Terms, granted, seconds

_BUFFER = 5  # seconds that a user outlives its lease, where nobody drops it
_NAME_LIMIT = 63
_STATEMENTS = ("creation_statements", "revocation_statements", "renew_statements", "rollback_statements")


@dataclass(kw_only=True)
class Config:
    """A database that users can be made in.

    Attributes:
        busy: one statement of the engine at a time, as in Vault's plugin.
    """

    server: Server
    allowed: tuple[str, ...]
    written: Json
    busy: threading.Lock = field(default_factory=threading.Lock)

    async def do(self, work: Any, *arguments: Any) -> None:
        """Blocking work at the server, which goes on when the asker has gone."""
        await asyncio.to_thread(self._do, work, arguments)

    def _do(self, work: Any, arguments: tuple[Any, ...]) -> None:
        with self.busy:
            work(self.server, *arguments)


@dataclass(frozen=True, kw_only=True)
class Role:
    """What users of a name are like."""

    name: str
    db_name: str
    ttl: float
    max_ttl: float
    statements: Mapping[str, tuple[str, ...]]

    def as_data(self) -> Json:
        """What reading it tells."""
        return {
            **{name: list(self.statements[name]) for name in _STATEMENTS},
            "credential_type": "password",
            "db_name": self.db_name,
            "default_ttl": int(self.ttl),
            "max_ttl": int(self.max_ttl),
        }


class Database(Engine):
    """database/."""

    kind: ClassVar[str] = "database"

    def __init__(self, *args: Any) -> None:
        self.configs: dict[str, Config] = {}
        self._roles: dict[str, Role] = {}
        self.static = StaticRoles(self)
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        name = "([^/]+)"
        return (
            Route(pattern="config", list=self._list_configs),
            Route(pattern=f"config/{name}", read=self._read_config, update=self._configure, delete=self._delete_config),
            Route(pattern=f"reset/{name}", update=self._reset),
            Route(pattern=f"rotate-root/{name}", update=self._rotate_root),
            Route(pattern="roles", list=self._list_roles),
            Route(pattern=f"roles/{name}", read=self._read_role, update=self._write_role, delete=self._delete_role),
            Route(pattern=f"creds/{name}", read=self._creds),
            *self.static.routes(),
        )

    async def close(self) -> None:
        """See Engine."""
        self.static.close()

    # -- configuration -----------------------------------------------------------------------------------------------

    async def _list_configs(self, call: Call) -> Answer:
        return _keys(self.configs)

    async def _read_config(self, call: Call, name: str) -> Answer:
        if name not in self.configs:
            raise Problem(404)
        return Answer(data=self.configs[name].written)

    async def _configure(self, call: Call, name: str) -> Answer:
        before = self.configs.get(name)
        body = {**(before.written["connection_details"] if before else {}), **call.body}
        plugin = call.text("plugin_name") or (before.written["plugin_name"] if before else "")
        if not plugin:
            raise Problem(400, "empty plugin name")
        if plugin != "postgresql-database-plugin":
            text = f"\t* plugin not found in the catalog: {plugin}\n"
            both = f"2 errors occurred:\n{text}{text}\n"
            raise Problem(400, f"error creating database object: invalid database version: {both}")
        password = call.text("password") or (before.server.password if before else "")
        server = Server(
            url=str(body.get("connection_url") or ""),
            username=str(body.get("username") or ""),
            password=password,
            scram=body.get("password_authentication") == "scram-sha-256",
        )
        if not server.url:
            raise Problem(400, "error creating database object: connection_url cannot be empty")
        if call.body.get("verify_connection", True):
            try:
                await asyncio.to_thread(postgres.check, server)
            except Problem as exc:
                text = bare(exc.text).removeprefix("unable to start transaction: ")
                raise Problem(400, f"error creating database object: error verifying connection: {text}") from exc
        allowed = (
            call.words("allowed_roles") if "allowed_roles" in call.body else list(before.allowed) if before else []
        )
        written: Json = {
            "allowed_roles": allowed,
            "connection_details": {"connection_url": server.url, "username": server.username},
            "password_policy": "",
            "plugin_name": plugin,
            "plugin_version": "",
            "root_credentials_rotate_statements": listed(body.get("root_rotation_statements")),
        }
        self.configs[name] = Config(server=server, allowed=tuple(allowed), written=written)
        return NOTHING

    async def _delete_config(self, call: Call, name: str) -> Answer:
        self.configs.pop(name, None)
        return NOTHING

    async def _reset(self, call: Call, name: str) -> Answer:
        self.config(name)
        return NOTHING

    async def _rotate_root(self, call: Call, name: str) -> Answer:
        config = self.config(name)
        fresh = postgres.new_password()
        await config.do(postgres.change_password, config.server.username, fresh)
        config.server = replace(config.server, password=fresh)
        return NOTHING

    def config(self, name: str) -> Config:
        """The database of that name."""
        if name not in self.configs:
            raise Problem(500, multi(f'failed to find entry for connection with name: "{name}"'))
        return self.configs[name]

    # -- roles -------------------------------------------------------------------------------------------------------

    async def _list_roles(self, call: Call) -> Answer:
        return _keys(self._roles)

    async def _read_role(self, call: Call, name: str) -> Answer:
        if name not in self._roles:
            raise Problem(404)
        return Answer(data=self._roles[name].as_data())

    async def _write_role(self, call: Call, name: str) -> Answer:
        before = self._roles.get(name)
        body = {**(before.as_data() if before else {}), **call.body}
        role = Role(
            name=name,
            db_name=str(body.get("db_name") or ""),
            ttl=seconds(body.get("default_ttl")),
            max_ttl=seconds(body.get("max_ttl")),
            statements={key: _statements(body.get(key)) for key in _STATEMENTS},
        )
        if not role.db_name:
            raise Problem(400, "database name is required")
        self._roles[name] = role
        return NOTHING

    async def _delete_role(self, call: Call, name: str) -> Answer:
        self._roles.pop(name, None)
        return NOTHING

    # -- users -------------------------------------------------------------------------------------------------------

    async def _creds(self, call: Call, name: str) -> Answer:
        role = self._roles.get(name)
        if role is None:
            raise Problem(400, f"unknown role: {name}")
        config = self.config(role.db_name)
        if not any(fnmatch.fnmatchcase(name, one) for one in config.allowed):
            raise Problem(500, multi(f'"{name}" is not an allowed role'))
        if not role.statements["creation_statements"]:
            raise Problem(500, multi("empty creation statements"))
        ttl, warnings = granted(self._terms(role), 0)
        assert call.token is not None
        username = _username(call.token.display_name, name)
        password = postgres.new_password()
        words = {**_words(username, ttl), "password": password}
        await config.do(postgres.run, role.statements["creation_statements"], words)
        # What ends the user stands with the lease, for a role that is deleted meanwhile.
        private = {"username": username, "role": name, "left": role}
        grant = Grant(ttl=ttl, private=private)
        return Answer(data={"username": username, "password": password}, grant=grant, warnings=tuple(warnings))

    def _terms(self, role: Role) -> Terms:
        return self.mount.terms(ttl=role.ttl, max_ttl=role.max_ttl)

    def terms(self, lease: Lease) -> Terms:
        """By the role as it is now."""
        name = lease.private["role"]
        if name not in self._roles:
            raise Problem(500, multi(f'error during renew: could not find role with name "{name}"'))
        return self._terms(self._roles[name])

    async def renew(self, lease: Lease, ttl: int) -> None:
        """The user's VALID UNTIL moves."""
        role = self._roles[lease.private["role"]]
        statements = role.statements["renew_statements"] or (postgres.DEFAULT_RENEWAL,)
        await self.config(role.db_name).do(postgres.run, statements, _words(lease.private["username"], ttl))

    async def revoke(self, lease: Lease) -> None:
        """The user goes."""
        left: Role = lease.private["left"]
        role = self._roles.get(left.name, left)
        username = lease.private["username"]
        statements = role.statements["revocation_statements"]
        config = self.config(role.db_name)
        if statements:
            await config.do(postgres.run, statements, _words(username, 0))
        else:
            await config.do(postgres.drop, username)


def _keys(named: Mapping[str, object]) -> Answer:
    if not named:
        raise Problem(404)
    return Answer(data={"keys": sorted(named)})


def _statements(value: Any) -> tuple[str, ...]:
    """A list, or one text: never parted at commas."""
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(str(one) for one in value)


def _words(username: str, ttl: int) -> dict[str, str]:
    end = datetime.fromtimestamp(time.time() + ttl + _BUFFER, UTC)
    return {"name": username, "username": username, "expiration": end.strftime("%Y-%m-%d %H:%M:%S%z")}


def _username(display_name: str, role: str) -> str:
    name = f"v-{display_name[:8]}-{role[:8]}-{random_text(20)}-{int(time.time())}"
    return name[:_NAME_LIMIT]
