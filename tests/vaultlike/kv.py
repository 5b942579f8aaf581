"""Key-value engines: one version, many versions, and each token's own."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tests.vaultlike.engine import Engine, Route
from tests.vaultlike.messages import NOTHING, Answer, Call, Json, Problem
from tests.vaultlike.ttl import DEFAULT_TTL, BadDuration, instant, seconds

_WRONG_PATH = (
    "Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use."
)


def _keys(paths: Sequence[str], prefix: str) -> Answer:
    base = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
    rests = [path.removeprefix(base) for path in paths if path.startswith(base)]
    keys = sorted({rest.split("/")[0] + ("/" if "/" in rest else "") for rest in rests})
    if not keys:
        raise Problem(404)
    return Answer(data={"keys": keys})


class Plain(Engine):
    """One value per path."""

    kind: ClassVar[str] = "kv"

    def __init__(self, *args: Any) -> None:
        self._values: dict[str, Json] = {}
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        return (Route(pattern="(.*)", read=self._read, update=self._write, delete=self._delete, list=self._list),)

    def exists(self, call: Call) -> bool:
        """See Engine."""
        return call.rest in self._values

    async def _read(self, call: Call, path: str) -> Answer:
        if path not in self._values:
            raise Problem(404)
        value = self._values[path]
        try:
            ttl = seconds(value.get("ttl", value.get("lease")))
        except BadDuration:
            ttl = 0.0
        return Answer(data=value, lease_duration=int(ttl) or self.mount.default_ttl or DEFAULT_TTL)

    async def _write(self, call: Call, path: str) -> Answer:
        if not call.body:
            raise Problem(400, "missing data fields")
        self._values[path] = dict(call.body)
        return NOTHING

    async def _delete(self, call: Call, path: str) -> Answer:
        self._values.pop(path, None)
        return NOTHING

    async def _list(self, call: Call, path: str) -> Answer:
        return _keys(tuple(self._values), path)


class Cubbyhole(Plain):
    """One value per path and token; what a token has kept is not removed when it ends."""

    kind: ClassVar[str] = "cubbyhole"

    async def _read(self, call: Call, path: str) -> Answer:
        answer = await super()._read(call, _own(call, path))
        return Answer(data=answer.data)

    async def _write(self, call: Call, path: str) -> Answer:
        return await super()._write(call, _own(call, path))

    async def _delete(self, call: Call, path: str) -> Answer:
        return await super()._delete(call, _own(call, path))

    async def _list(self, call: Call, path: str) -> Answer:
        return await super()._list(call, _own(call, path))


def _own(call: Call, path: str) -> str:
    return f"{call.client_token}/{path}"


@dataclass(kw_only=True)
class Version:
    """One version of a value."""

    value: Json
    made_at: float = field(default_factory=time.time)
    deleted_at: float | None = None
    destroyed: bool = False

    @property
    def gone(self) -> bool:
        """Whether it cannot be read."""
        return self.destroyed or self.deleted_at is not None

    def about(self, number: int | None = None) -> Json:
        """Its metadata, with its number where one is given."""
        data: Json = {"created_time": instant(self.made_at), "deletion_time": instant(self.deleted_at) or ""}
        if number is not None:
            data["custom_metadata"] = None
        data["destroyed"] = self.destroyed
        return data if number is None else {**data, "version": number}


class Versioned(Engine):
    """Many versions per path. Whatever limits their number is not kept to."""

    kind: ClassVar[str] = "kv"

    def __init__(self, *args: Any) -> None:
        self._values: dict[str, list[Version]] = {}
        super().__init__(*args)

    def routes(self) -> Sequence[Route]:
        """See Engine."""
        path = "(.+)"
        return (
            Route(pattern="config", read=self._config, update=self._configure),
            Route(
                pattern=f"data/{path}",
                read=self._read,
                update=self._write,
                delete=self._delete_latest,
                patch=self._patch,
            ),
            Route(pattern="metadata/?(.*)", read=self._metadata, delete=self._forget, list=self._list),
            Route(pattern=f"delete/{path}", update=self._delete),
            Route(pattern=f"undelete/{path}", update=self._undelete),
            Route(pattern=f"destroy/{path}", update=self._destroy),
            Route(pattern="(.*)", read=self._wrong_path, update=self._wrong_path),
        )

    def exists(self, call: Call) -> bool:
        """See Engine."""
        return not call.rest.startswith("data/") or call.rest.removeprefix("data/") in self._values

    async def _config(self, call: Call) -> Answer:
        return Answer(
            data={
                "cas_required": False,
                "delete_version_after": "0s",
                "max_versions": 0,
                "metadata_cas_required": False,
            }
        )

    async def _configure(self, call: Call) -> Answer:
        return NOTHING

    async def _wrong_path(self, call: Call, path: str) -> Answer:
        return Answer(status=404, warnings=(_WRONG_PATH,))

    def _find(self, path: str, wanted: int) -> tuple[int, Version]:
        versions = self._values.get(path, [])
        number = wanted or len(versions)
        if not 1 <= number <= len(versions):
            raise Problem(404)
        return number, versions[number - 1]

    async def _read(self, call: Call, path: str) -> Answer:
        number, version = self._find(path, int(call.query.get("version", "0")))
        value = None if version.gone else version.value
        return Answer(data={"data": value, "metadata": version.about(number)}, status=404 if version.gone else 200)

    async def _write(self, call: Call, path: str) -> Answer:
        value = call.body.get("data")
        if not isinstance(value, dict):
            raise Problem(400, "no data provided")
        versions = self._values.get(path, [])
        options: Mapping[str, Any] = call.body.get("options") or {}
        if "cas" in options and int(options["cas"]) != len(versions):
            raise Problem(400, "check-and-set parameter did not match the current version")
        self._values[path] = [*versions, Version(value=value)]
        return Answer(data=self._values[path][-1].about(len(versions) + 1))

    async def _patch(self, call: Call, path: str) -> Answer:
        _, version = self._find(path, 0)
        if version.gone:
            raise Problem(404)
        merged = {**version.value, **(call.body.get("data") or {})}
        self._values[path].append(Version(value={key: one for key, one in merged.items() if one is not None}))
        return Answer(data=self._values[path][-1].about(len(self._values[path])))

    async def _delete_latest(self, call: Call, path: str) -> Answer:
        if self._values.get(path):
            self._values[path][-1].deleted_at = time.time()
        return NOTHING

    def _chosen(self, call: Call, path: str) -> list[Version]:
        versions = self._values.get(path, [])
        wanted = [int(one) for one in call.body.get("versions") or ()]
        return [versions[number - 1] for number in wanted if 1 <= number <= len(versions)]

    async def _delete(self, call: Call, path: str) -> Answer:
        for version in self._chosen(call, path):
            version.deleted_at = time.time()
        return NOTHING

    async def _undelete(self, call: Call, path: str) -> Answer:
        for version in self._chosen(call, path):
            version.deleted_at = None
        return NOTHING

    async def _destroy(self, call: Call, path: str) -> Answer:
        for version in self._chosen(call, path):
            version.value, version.destroyed = {}, True
        return NOTHING

    async def _metadata(self, call: Call, path: str) -> Answer:
        if path not in self._values:
            raise Problem(404)
        versions = self._values[path]
        data: Json = {
            "cas_required": False,
            "created_time": instant(versions[0].made_at),
            "current_version": len(versions),
            "custom_metadata": None,
            "delete_version_after": "0s",
            "max_versions": 0,
            "oldest_version": 0,
            "updated_time": instant(versions[-1].made_at),
            "versions": {str(number): one.about() for number, one in enumerate(versions, 1)},
        }
        return Answer(data=data)

    async def _forget(self, call: Call, path: str) -> Answer:
        self._values.pop(path, None)
        return NOTHING

    async def _list(self, call: Call, path: str) -> Answer:
        return _keys(tuple(self._values), path)
