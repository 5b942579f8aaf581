"""sys/: health, seal, mounts, policies, capabilities, namespaces, wrapping."""

import time
from collections.abc import Sequence
from typing import ClassVar

from tests.vaultlike import core, policies
from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem, multi
from tests.vaultlike.spaces import Mount, Space, access_of
from tests.vaultlike.sysleases import LeasePaths
from tests.vaultlike.ttl import DEFAULT_TTL, MAX_TTL, seconds


class System(Engine):
    """The server itself."""

    kind: ClassVar[str] = "system"

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        name = "([^/]+)"
        return (
            Route(pattern="health", read=self._health, public=True, sealed=True),
            Route(pattern="seal-status", read=self._seal_status, public=True, sealed=True),
            Route(pattern="unseal", update=self._unseal, public=True, sealed=True),
            Route(pattern="leader", read=self._leader, public=True, sealed=True),
            Route(pattern="init", read=self._init, public=True, sealed=True),
            Route(pattern="seal", update=self._seal),
            Route(pattern="step-down", update=self._step_down),
            Route(pattern="mounts|auth", read=self._mounts),
            Route(pattern="(mounts|auth)/(.+)/tune", read=self._tuned, update=self._tune),
            Route(pattern="(mounts|auth)/(.+)", read=self._mount, update=self._enable, delete=self._disable),
            Route(pattern="internal/ui/mounts/(.+)", read=self._preflight),
            Route(pattern="polic(?:y|ies/acl)", read=self._policies, list=self._policies),
            Route(
                pattern=f"(policy|policies/acl)/{name}",
                read=self._policy,
                update=self._write_policy,
                delete=self._delete_policy,
            ),
            Route(pattern="capabilities-self", update=self._capabilities_self),
            Route(pattern="capabilities", update=self._capabilities),
            Route(pattern="namespaces", list=self._namespaces),
            Route(
                pattern="namespaces/(.+)",
                read=self._namespace,
                update=self._add_namespace,
                delete=self._drop_namespace,
            ),
            Route(pattern="wrapping/wrap", update=self._wrap),
            Route(pattern="wrapping/unwrap", update=self._unwrap),
            Route(pattern="wrapping/rewrap", update=self._rewrap),
            Route(pattern="wrapping/lookup", update=self._wrap_lookup, read=self._wrap_lookup, public=True),
            *LeasePaths(self).routes(),
        )

    # -- health and seal ---------------------------------------------------------------------------------------------

    async def _health(self, call: Call) -> Answer:
        if self.mount.space.path:
            raise Problem(400, "operation unavailable in namespaces")
        sealed = self.core.sealed
        known = "unknown" if sealed else "disabled"
        status = int(call.query.get("sealedcode" if sealed else "activecode", "503" if sealed else "200"))
        body: Json = {
            "initialized": True,
            "sealed": sealed,
            "standby": sealed,
            "replication_performance_mode": known,
            "replication_dr_mode": known,
            "server_time_utc": int(time.time()),
            "version": core.VERSION,
        }
        return Answer(bare={**body, **({} if sealed else self._cluster())}, status=status)

    def _cluster(self) -> Json:
        return {"cluster_name": f"vault-cluster-{self.core.cluster_id[:8]}", "cluster_id": self.core.cluster_id}

    async def _seal_status(self, call: Call) -> Answer:
        body: Json = {
            "type": "shamir",
            "initialized": True,
            "sealed": self.core.sealed,
            "t": 1,
            "n": 1,
            "progress": 0,
            "nonce": "",
            "recovery_seal": False,
            "version": core.VERSION,
            "commit_date": "",
            "migration": False,
            "storage_type": "inmem",
        }
        return Answer(bare={**body, **({} if self.core.sealed else self._cluster())})

    async def _unseal(self, call: Call) -> Answer:
        if "key" not in call.body:
            raise Problem(400, "'key' must be specified in request body as JSON, or 'reset' set to true")
        if call.text("key") != self.core.unseal_key:
            text = "failed to decrypt keys from storage: cipher: message authentication failed"
            raise Problem(400, f"unable to retrieve stored keys: invalid key: {text}")
        self.core.sealed = False
        return await self._seal_status(call)

    async def _seal(self, call: Call) -> Answer:
        self.core.sealed = True
        return NOTHING

    async def _leader(self, call: Call) -> Answer:
        return Answer(bare={"ha_enabled": False})

    async def _init(self, call: Call) -> Answer:
        return Answer(bare={"initialized": True})

    async def _step_down(self, call: Call) -> Answer:
        return NOTHING

    # -- mounts ------------------------------------------------------------------------------------------------------

    def _prefix(self, call: Call) -> str:
        return "auth/" if call.rest.startswith("auth") else ""

    def _found(self, call: Call, path: str) -> Mount | None:
        return self.mount.space.mounts.get(f"{self._prefix(call)}{path.strip('/')}/")

    async def _mounts(self, call: Call) -> Answer:
        logins = call.rest == "auth"
        listed = (one for one in self.mount.space.mounts.values() if one.is_login == logins)
        return Answer(data={one.path.removeprefix("auth/"): one.as_data() for one in listed}, flat=True)

    async def _mount(self, call: Call, where: str, path: str) -> Answer:
        found = self._found(call, path)
        if found is None:
            raise Problem(400, f"No {'auth' if where == 'auth' else 'secret'} engine mount at {path.strip('/')}/")
        return Answer(data=found.as_data(), flat=True)

    async def _enable(self, call: Call, where: str, path: str) -> Answer:
        full = f"{self._prefix(call)}{path.strip('/')}/"
        other = self.mount.space.taken(full)
        if other:
            raise Problem(400, f"path is already in use at {other.removeprefix(self._prefix(call))}")
        config = call.body.get("config") or {}
        self.core.mount(
            self.mount.space,
            full,
            call.text("type"),
            description=call.text("description"),
            options=call.body.get("options") or {},
            default_ttl=int(seconds(config.get("default_lease_ttl"))),
            max_ttl=int(seconds(config.get("max_lease_ttl"))),
        )
        return NOTHING

    async def _disable(self, call: Call, where: str, path: str) -> Answer:
        found = self._found(call, path)
        if found is not None:
            await self.core.unmount(found)
        return NOTHING

    async def _tuned(self, call: Call, where: str, path: str) -> Answer:
        found = self._found(call, path)
        if found is None:
            raise Problem(400, f"no mount at {path}")
        data = {
            "default_lease_ttl": found.default_ttl or DEFAULT_TTL,
            "description": found.description,
            "force_no_cache": False,
            "max_lease_ttl": found.max_ttl or MAX_TTL,
            "options": found.options or None,
        }
        return Answer(data=data, flat=True)

    async def _tune(self, call: Call, where: str, path: str) -> Answer:
        found = self._found(call, path)
        if found is None:
            raise Problem(400, f"no mount at {path}")
        if "default_lease_ttl" in call.body:
            found.default_ttl = int(seconds(call.body["default_lease_ttl"]))
        if "max_lease_ttl" in call.body:
            found.max_ttl = int(seconds(call.body["max_lease_ttl"]))
        return NOTHING

    async def _preflight(self, call: Call, path: str) -> Answer:
        found = self.mount.space.mount_of(path)
        if found is None:
            raise Problem(403, "preflight capability check returned 403, please ensure client's policies grant access")
        return Answer(data={**found.as_data(), "path": found.path})

    # -- policies ----------------------------------------------------------------------------------------------------

    async def _policies(self, call: Call) -> Answer:
        names = sorted({*self.mount.space.policies, "root"} - {"response-wrapping"})
        return Answer(data={"keys": names, "policies": names} if call.rest.startswith("policy") else {"keys": names})

    async def _policy(self, call: Call, where: str, name: str) -> Answer:
        text = self.mount.space.policies.get(name)
        if text is None:
            raise Problem(404)
        old = where == "policy"
        return Answer(data={"name": name, "rules" if old else "policy": text}, flat=old)

    async def _write_policy(self, call: Call, where: str, name: str) -> Answer:
        text = call.text("policy") or call.text("rules")
        if name == "root":
            raise Problem(400, 'cannot update "root" policy')
        if not text:
            raise Problem(400, "'policy' parameter not supplied or empty")
        policies.parse(text)
        self.mount.space.policies[name] = text
        return NOTHING

    async def _delete_policy(self, call: Call, where: str, name: str) -> Answer:
        if name in ("root", "default"):
            raise Problem(400, f"cannot delete {'default' if name == 'default' else chr(34) + name + chr(34)} policy")
        self.mount.space.policies.pop(name, None)
        return NOTHING

    async def _capabilities_self(self, call: Call) -> Answer:
        assert call.token is not None
        access = access_of(call.token)
        paths = call.words("paths") or call.words("path")
        data: Json = {path: sorted(access.capabilities(call.space.path + path)) for path in paths}
        if "path" in call.body and len(paths) == 1:
            data["capabilities"] = data[paths[0]]
        return Answer(data=data, flat=True)

    async def _capabilities(self, call: Call) -> Answer:
        token = self.core.tokens.find(call.text("token"))
        if token is None:
            raise Problem(400, multi("invalid token"))
        access = access_of(token)
        return Answer(
            data={path: sorted(access.capabilities(call.space.path + path)) for path in call.words("paths")}, flat=True
        )

    # -- namespaces --------------------------------------------------------------------------------------------------

    async def _namespaces(self, call: Call) -> Answer:
        base = self.mount.space.path
        below = [
            one for one in self.core.spaces.by_path if one.startswith(base) and one.count("/") == base.count("/") + 1
        ]
        if not below:
            raise Problem(404)
        return Answer(data={"keys": sorted(one.removeprefix(base) for one in below)})

    async def _add_namespace(self, call: Call, name: str) -> Answer:
        path = f"{self.mount.space.path}{name.strip('/')}/"
        if path not in self.core.spaces.by_path:
            self.core.furnish(self.core.spaces.add(path))
        return Answer(data=_about(self.core.spaces.by_path[path]))

    async def _namespace(self, call: Call, name: str) -> Answer:
        found = self.core.spaces.by_path.get(f"{self.mount.space.path}{name.strip('/')}/")
        if found is None:
            raise Problem(404)
        return Answer(data=_about(found))

    async def _drop_namespace(self, call: Call, name: str) -> Answer:
        path = f"{self.mount.space.path}{name.strip('/')}/"
        found = self.core.spaces.by_path.pop(path, None)
        if found is None:
            return Answer(warnings=("requested namespace does not exist",))
        for mount in tuple(found.mounts.values()):
            await self.core.unmount(mount)
        for token in self.core.tokens.all():
            if token.space is found:
                await self.core.tokens.revoke(token)
        return Answer(data={"status": "in-progress"})

    # -- wrapping ----------------------------------------------------------------------------------------------------

    async def _wrap(self, call: Call) -> Answer:
        if call.wrap_ttl <= 0:
            raise Problem(400, "endpoint requires response wrapping to be used")
        return Answer(data=dict(call.body))

    async def _unwrap(self, call: Call) -> Answer:
        return Answer(replay=await self.core.wrapping.unwrap(call.text("token") or call.client_token))

    async def _rewrap(self, call: Call) -> Answer:
        sent = call.text("token") or call.client_token
        info = self.core.wrapping.info(sent)
        envelope = await self.core.wrapping.unwrap(sent)
        fresh = self.core.wrapping.wrap(call.space, envelope, info["creation_path"], float(info["ttl"]))
        return Answer(replay={**dict.fromkeys(envelope, None), "lease_id": "", "wrap_info": fresh})

    async def _wrap_lookup(self, call: Call) -> Answer:
        sent = call.text("token") or call.client_token
        if not sent:
            raise Problem(403, "error validating wrapping token: token is empty")
        info = self.core.wrapping.info(sent)
        data = {name: info[name] for name in ("creation_path", "creation_time")}
        return Answer(data={**data, "creation_ttl": info["ttl"]})


def _about(space: Space) -> Json:
    return {
        "custom_metadata": {},
        "id": space.id,
        "locked": False,
        "path": space.path,
        "tainted": False,
        "uuid": space.uuid,
    }
