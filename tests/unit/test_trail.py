"""What the parts tell, as the audit log has it."""

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.api.access import Peer
from agent.audit import Audit, StandardOutput
from agent.config.model import Audit as Table
from agent.config.model import Role
from agent.engines.postgres.journal import Row
from agent.leases.cache import Snapshot
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.observed import Call, Operation
from agent.logfile import LogFile
from agent.trail import Trail, fingerprint, sink_of
from tests.fakes import FakeClock, settle

ROLE = "database/creds/app"
PEER = Peer(uid=1000, gid=2000, groups=frozenset({3000}), pid=42)
WHO = {"who": "uid:1000", "uid": 1000, "gid": 2000, "pid": 42}


class Kept:
    """A sink in memory."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def open(self) -> None: ...

    def append(self, lines: Sequence[bytes]) -> int:
        self.lines += [json.loads(line) for line in lines]
        return len(lines)

    def close(self) -> None: ...


async def inline(work: Callable[[], Any]) -> Any:
    await asyncio.sleep(0)
    return work()


class Scene:
    """A trail, and what it has written."""

    def __init__(self, clock: FakeClock) -> None:
        self.sink = Kept()
        self.audit = Audit(self.sink, clock, run_blocking=inline)
        role = Role(upstream="postgresql.main", group="readers")
        self.trail = Trail(self.audit, roles={ROLE: role}, owner="web-0", incarnation=lambda: 7, clock=clock)

    async def told(self) -> list[dict[str, Any]]:
        """Every line but for its time, which is the same in all."""
        await self.audit.start()
        await settle()
        await self.audit.close(1.0)
        return [{name: value for name, value in line.items() if name != "time"} for line in self.sink.lines]


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene(clock)


def call(operation: Operation, outcome: str = "ok", **keys: Any) -> Call:
    plain = {"lease_id": "id-1", "username": "v_app_1"}
    who = {"role": ROLE, "upstream": "postgresql.main"}
    return Call(operation=operation, outcome=outcome, took=0.1, **who | plain | keys)


def lease() -> Lease:
    data = {"username": Secret("v_app_1"), "password": Secret("pass-canary")}
    grant = Grant(id="id-1", data=data, ttl=60.0, renewable=True)
    return Lease(first=grant, last=grant, issued_at=1000.0, granted_at=1000.0, jitter=0.0)


def snapshot() -> Snapshot:
    return Snapshot(
        role=ROLE, lease=lease(), generation=5, request_id="r", until=1050.0, expires_wall=0.0, verified=True
    )


OURS = {"role": ROLE, "upstream": "postgresql.main", "owner": "web-0", "incarnation": 7}


async def test_calls_carry_what_was_asked_for_and_what_was_granted(scene: Scene) -> None:
    """R003-092; R003-093: the SQL's hash for an issue."""
    scene.trail.called(call(Operation.ISSUE, requested=3600.0, granted=1800.0))
    scene.trail.called(call(Operation.RENEW, "Unavailable", requested=60.0))
    scene.trail.called(call(Operation.VERIFY, "inconclusive", lease_id=""))

    issue, renew, verify = await scene.told()
    assert issue == {
        "what": "issue",
        "outcome": "ok",
        "who": "agent",
        **OURS,
        "lease_id": "id-1",
        "username": "v_app_1",
        "requested_ttl": 3600.0,
        "granted_ttl": 1800.0,
        "statements": fingerprint(Role(upstream="elsewhere", group="readers")),
    }
    assert (renew["what"], renew["outcome"], "granted_ttl" in renew) == ("renew", "Unavailable", False)
    assert (verify["what"], verify["outcome"], "lease_id" in verify) == ("verify", "inconclusive", False)


async def test_a_revocation_that_somebody_asked_for_names_them_until_it_succeeds(scene: Scene) -> None:
    scene.trail.revoking(PEER, ["id-1"], "")
    scene.trail.called(call(Operation.REVOKE, "Unavailable"))
    scene.trail.called(call(Operation.REVOKE, lease_id="id-2"))
    scene.trail.called(call(Operation.REVOKE))
    scene.trail.called(call(Operation.REVOKE))

    assert [(line["lease_id"], line["outcome"], line["who"]) for line in await scene.told()] == [
        ("id-1", "Unavailable", "uid:1000"),
        ("id-2", "ok", "agent"),
        ("id-1", "ok", "uid:1000"),
        ("id-1", "ok", "agent"),
    ]


async def test_a_prefix_is_told_once_with_how_many_it_meant(scene: Scene) -> None:
    scene.trail.revoking(PEER, ["id-1", "id-2"], "database/creds")

    assert await scene.told() == [
        {"what": "revoke-prefix", "outcome": "ok", **WHO, "prefix": "database/creds", "count": 2}
    ]


async def test_ends_that_nobody_asked_for_are_told(scene: Scene) -> None:
    row = Row(
        id="id-9",
        role="other/creds/role",
        username="v_other",
        holder="web-9",
        incarnation=3,
        issued=0.0,
        expires=1.0,
        max_expires=2.0,
        requested_ttl=1.0,
        granted_ttl=1.0,
        revoked_at=None,
    )

    scene.trail.expired(ROLE, lease())
    scene.trail.swept("postgresql.main", [row])

    expired, swept = await scene.told()
    assert expired == {
        "what": "expire",
        "outcome": "ok",
        "who": "agent",
        **OURS,
        "lease_id": "id-1",
        "username": "v_app_1",
    }
    assert swept == {
        "what": "sweep",
        "outcome": "ok",
        "who": "agent",
        "role": "other/creds/role",
        "upstream": "postgresql.main",
        "owner": "web-9",
        "incarnation": 3,
        "lease_id": "id-9",
        "username": "v_other",
    }


async def test_callers_are_named(scene: Scene, clock: FakeClock) -> None:
    scene.trail.read(PEER, snapshot())
    scene.trail.denied(PEER, ROLE, "rotate")
    scene.trail.denied(PEER, "", "journal")
    scene.trail.rotated(PEER, ROLE)

    read, denied, nobodys, rotated = await scene.told()
    assert read == {
        "what": "read",
        "outcome": "ok",
        **WHO,
        "role": ROLE,
        "upstream": "postgresql.main",
        "lease_id": "id-1",
        "username": "v_app_1",
        "granted_ttl": 60.0,
        "generation": 5,
    }
    assert denied == {
        "what": "denied",
        "outcome": "denied",
        **WHO,
        "role": ROLE,
        "upstream": "postgresql.main",
        "operation": "rotate",
    }
    assert nobodys == {"what": "denied", "outcome": "denied", **WHO, "operation": "journal"}
    assert rotated == {"what": "rotate", "outcome": "ok", **WHO, "role": ROLE, "upstream": "postgresql.main"}


async def test_no_password_is_ever_written(scene: Scene) -> None:
    scene.trail.read(PEER, snapshot())
    scene.trail.expired(ROLE, lease())

    assert "pass-canary" not in json.dumps(await scene.told())


async def test_whoever_asks_for_it_waits_until_all_is_written(scene: Scene) -> None:
    await scene.audit.start()
    scene.trail.rotated(PEER, ROLE)

    assert scene.sink.lines == []
    assert await scene.trail.settled(1.0)
    assert len(scene.sink.lines) == 1
    await scene.audit.close(1.0)


@pytest.mark.parametrize(
    "keys",
    [
        {"group": "writers"},
        {"creation_statements": ("A",)},
        {"renewal_statements": ("A",)},
        {"revocation_statements": ("A",)},
        {"rollback_statements": ("A",)},
    ],
)
def test_the_hash_changes_with_the_sql(keys: dict[str, Any]) -> None:
    """R003-093."""
    plain: dict[str, Any] = {"upstream": "postgresql", "group": "readers"}

    assert fingerprint(Role(**plain | keys)) != fingerprint(Role(**plain))
    assert fingerprint(Role(**plain | keys)) == fingerprint(Role(**plain | keys | {"description": "another"}))


def test_the_table_says_which_sink(tmp_path: Path) -> None:
    assert isinstance(sink_of(Table(file="stdout")), StandardOutput)
    assert isinstance(sink_of(Table(file=str(tmp_path / "audit.jsonl"))), LogFile)


async def test_a_login_is_told_like_a_lease_and_has_no_statements(scene: Scene) -> None:
    scene.trail.called(call(Operation.ISSUE, role="session:vault", upstream="vault", username=""))

    (line,) = await scene.told()

    assert (line["what"], line["role"], line["upstream"], line["lease_id"]) == (
        "issue",
        "session:vault",
        "vault",
        "id-1",
    )
    assert "statements" not in line


async def test_the_end_of_a_login_is_told_with_its_upstream_and_without_its_token(scene: Scene) -> None:
    grant = Grant(id="accessor", data={"token": Secret("token-canary")}, ttl=60.0, renewable=True)
    login = Lease(first=grant, last=grant, issued_at=1000.0, granted_at=1000.0, jitter=0.0)

    scene.trail.expired("session:vault.eu", login)

    (line,) = await scene.told()
    assert (line["what"], line["role"], line["upstream"]) == ("expire", "session:vault.eu", "vault.eu")
    assert "token-canary" not in json.dumps(line)


async def test_looks_at_what_nobody_leases_are_not_told(scene: Scene) -> None:
    scene.trail.called(call(Operation.LOOK))

    assert await scene.told() == []
