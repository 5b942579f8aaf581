"""sys/leases/: look up, renew, revoke, by id and by prefix."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tests.vaultlike.engine import Route
from tests.vaultlike.leases import Lease
from tests.vaultlike.messages import NOTHING, Answer, Call, Problem
from tests.vaultlike.ttl import BadDuration, seconds

if TYPE_CHECKING:
    from tests.vaultlike.system import System


class LeasePaths:
    """The routes of System that are about leases."""

    def __init__(self, system: "System") -> None:
        self._system = system

    def routes(self) -> Sequence[Route]:
        """Older paths included."""
        some = "(?:/(.+))?"
        return (
            Route(pattern="leases/lookup/?(.*)", list=self._list, update=self._lookup),
            Route(pattern=f"(?:leases/)?renew{some}", update=self._renew),
            Route(pattern=f"(?:leases/)?revoke{some}", update=self._revoke),
            Route(pattern="(?:leases/)?revoke-prefix/(.+)", update=self._revoke_prefix),
            Route(pattern="(?:leases/)?revoke-force/(.+)", update=self._revoke_force),
        )

    def _id(self, call: Call, given: str) -> str:
        lease_id = call.text("lease_id") or given
        if not lease_id:
            raise Problem(400, "lease_id must be specified")
        return lease_id

    def _below(self, prefix: str) -> Iterable[Lease]:
        """Leases of this namespace at a prefix, which ends at a slash or is a whole path."""
        space = self._system.mount.space
        base = prefix.rstrip("/") + "/"
        return self._system.core.leases.matching(lambda one: one.mount.space is space and one.id.startswith(base))

    async def _lookup(self, call: Call, given: str) -> Answer:
        lease = self._system.core.leases.find(self._id(call, given))
        if lease is None:
            raise Problem(400, "invalid lease")
        return Answer(data=lease.as_data())

    async def _list(self, call: Call, prefix: str) -> Answer:
        base = f"{prefix.rstrip('/')}/" if prefix else ""
        rests = [one.id.removeprefix(base) for one in self._below(prefix)] if prefix else []
        keys = sorted({rest.split("/")[0] + ("/" if "/" in rest else "") for rest in rests})
        if not keys:
            raise Problem(404)
        return Answer(data={"keys": keys})

    async def _renew(self, call: Call, given: str) -> Answer:
        lease_id = self._id(call, given)
        try:
            increment = seconds(call.body.get("increment"))
        except BadDuration as exc:
            raise Problem(400, f'Field validation failed: error converting input for field "increment": {exc}') from exc
        lease, warnings = await self._system.core.leases.renew(lease_id, math.floor(increment))
        return Answer(lease_id=lease.id, renewable=lease.renewable, lease_duration=lease.ttl, warnings=tuple(warnings))

    async def _revoke(self, call: Call, given: str) -> Answer:
        lease = self._system.core.leases.find(self._id(call, given))
        return await self._end([lease] if lease else [], call)

    async def _revoke_prefix(self, call: Call, prefix: str) -> Answer:
        return await self._end(self._below(prefix), call)

    async def _revoke_force(self, call: Call, prefix: str) -> Answer:
        store = self._system.core.leases
        for lease in self._below(prefix):
            try:
                await store.revoke(lease)
            except Problem:
                store.forget(lease)
        return NOTHING

    async def _end(self, leases: Iterable[Lease], call: Call) -> Answer:
        sync = bool(call.body.get("sync", True))
        for lease in leases:
            if sync:
                await self._system.core.leases.revoke(lease)
            else:
                self._system.core.leases.revoke_soon(lease)
        return NOTHING if sync else Answer(status=202)
