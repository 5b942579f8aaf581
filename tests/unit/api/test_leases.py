"""`/v1/sys/leases`: who sees which leases, and whose renew and revoke do what."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from agent.api.access import AllowList, Peer
from agent.api.fastpath import Reads
from agent.api.leases import PATIENCE
from agent.errors import Unavailable
from agent.leases.cache import Snapshot
from agent.leases.desk import Booked, Shelf
from agent.leases.held import Held
from tests.unit.api.world import ANYONE, LAZY, OTHER, PASSWORD, ROLE, Answer, Keeper, World, get, request

LEASES = "/v1/sys/leases"


class Witness:
    """Remembers what it is told, and in which order."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.settles = True

    def read(self, peer: Peer, snapshot: Snapshot) -> None:
        self.told.append(("read", snapshot.role, snapshot.generation))

    def denied(self, peer: Peer, role: str, operation: str) -> None:
        self.told.append(("denied", role, operation))

    def rotated(self, peer: Peer, role: str) -> None:
        self.told.append(("rotated", role))

    def revoking(self, peer: Peer, lease_ids: Sequence[str], prefix: str) -> None:
        self.told.append(("revoking", *lease_ids, prefix))

    async def settled(self, timeout: float) -> bool:
        self.told.append(("settled",))
        return self.settles


def held(world: World, lease_id: str, role: str = ROLE, *, left: float = 60.0, **keys: Any) -> Held:
    now = world.clock.now()
    first = {"state": "published", "username": "v_app_1", "issued_at": now - 10, "renewable": True}
    return Held(role=role, lease_id=lease_id, **{"expires_at": now + left, "revoke_at": now + left, **first, **keys})


def draining(world: World, lease_id: str, role: str = ROLE, *, left: float = 30.0, **keys: Any) -> Held:
    told = {"state": "draining", "username": "", "issued_at": float("nan"), "renewable": False}
    return held(world, lease_id, role, left=left, **{**told, **keys})


@pytest.fixture
def full(world: World) -> World:
    """Two roles of two upstreams that everybody may read, and one that nobody may."""
    world.keepers[ROLE] = Keeper(held(world, "app-1"), draining(world, "app-0"))
    world.keepers[OTHER] = Keeper(held(world, "other-1", OTHER))
    world.keepers[LAZY] = Keeper(held(world, "lazy-1", LAZY, left=400.0))
    return world


async def ask(world: World, method: str, path: str, body: Any = None) -> Answer:
    data = b"" if body is None else json.dumps(body).encode()
    return await world.ask(request(method, f"{LEASES}{path}", data))


def data(answer: Answer) -> Any:
    assert answer.status == 200, answer
    return answer.json["data"]


# -- looking


async def test_a_reader_sees_the_leases_of_its_roles_and_no_user_name(full: World) -> None:
    async with full.serving():
        found = data(await ask(full, "GET", ""))

    assert found["total"] == 3
    assert [row["lease_id"] for row in found["leases"]] == ["app-1", "app-0", "lazy-1"]
    assert found["leases"][0] == {
        "lease_id": "app-1",
        "role": ROLE,
        "upstream": "postgresql",
        "state": "published",
        "owner": "web-0",
        "incarnation": 7,
        "renewable": True,
        "issue_time": "2027-01-15T07:59:50Z",
        "expires_at": "2027-01-15T08:01:00Z",
        "remaining": 60.0,
        "failed": False,
    }
    assert found["leases"][1]["issue_time"] is None


async def test_an_operator_sees_every_lease_with_its_user(full: World) -> None:
    full.admin = ANYONE

    async with full.serving():
        found = data(await ask(full, "GET", ""))

    assert {row["lease_id"]: row["username"] for row in found["leases"]} == {
        "app-1": "v_app_1",
        "app-0": "",
        "other-1": "v_app_1",
        "lazy-1": "v_app_1",
    }


async def test_a_draining_lease_ends_when_it_is_revoked(world: World) -> None:
    now = world.clock.now()
    world.keepers[ROLE] = Keeper(
        draining(world, "soon", left=60.0, revoke_at=now + 5),
        draining(world, "tried", left=60.0, revoke_at=now + 5, tried=True),
    )

    async with world.serving():
        rows = data(await ask(world, "GET", ""))["leases"]

    assert [(row["remaining"], row["failed"]) for row in rows] == [(5.0, False), (60.0, True)]


async def test_stats_count_by_role_and_upstream_what_the_caller_may_see(full: World) -> None:
    """R003-056."""
    full.cache.count_expired(ROLE)
    full.beyond = {"audit": "ok"}

    async with full.serving():
        found = data(await ask(full, "GET", "/stats"))

    app = {"active": 1, "draining": 1, "doomed": 0, "expiring_soon": 1, "failed_revocations": 0, "expired": 1}
    lazy = {"active": 1, "draining": 0, "doomed": 0, "expiring_soon": 0, "failed_revocations": 0, "expired": 0}
    assert found == {
        **{name: app[name] + lazy[name] for name in app},
        "by_role": {ROLE: app, LAZY: lazy},
        "by_upstream": {"postgresql": app, "postgresql.two": lazy},
    }


async def test_an_operators_stats_tell_of_journals_and_audit_too(full: World) -> None:
    full.admin = ANYONE
    full.beyond = {"audit": "ok"}

    async with full.serving():
        found = data(await ask(full, "GET", "/stats"))

    assert found["audit"] == "ok"
    assert list(found["by_role"]) == [ROLE, OTHER, LAZY]


async def test_lookup_answers_in_vaults_shape(full: World) -> None:
    async with full.serving():
        answer = await ask(full, "PUT", "/lookup", {"lease_id": "app-1"})

    assert data(answer) == {
        "id": "app-1",
        "path": ROLE,
        "issue_time": "2027-01-15T07:59:50Z",
        "expire_time": "2027-01-15T08:01:00Z",
        "last_renewal": None,
        "renewable": True,
        "ttl": 60,
    }


async def test_ids_below_a_path_are_listed_as_vault_lists_them(full: World) -> None:
    async with full.serving():
        found = data(await ask(full, "GET", f"/lookup/{ROLE}/?list=true"))
        above = data(await ask(full, "GET", "/lookup/database?list=true"))
        none = await ask(full, "GET", f"/lookup/{OTHER}?list=true")
        part = await ask(full, "GET", f"/lookup/{ROLE[:-1]}?list=true")

    assert found == {"keys": ["app-1", "app-0"]}
    assert above == {"keys": ["app-1", "app-0", "lazy-1"]}
    assert (none.status, none.json) == (part.status, part.json) == (404, {"errors": []})


# -- a reader's renew and revoke


async def test_a_readers_renew_says_how_the_lease_is_doing_and_changes_nothing(full: World) -> None:
    async with full.serving():
        renewed = await ask(full, "PUT", "/renew", {"lease_id": "app-1", "increment": 86400})
        await full.clock.advance(20.5)
        later = await ask(full, "POST", "/renew", {"lease_id": "app-1", "increment": None})
        old = await ask(full, "POST", "/renew", {"lease_id": "app-0"})

    told = {key: renewed.json[key] for key in ("lease_id", "renewable", "lease_duration", "data")}
    assert (renewed.status, told) == (
        200,
        {"lease_id": "app-1", "renewable": True, "lease_duration": 60, "data": None},
    )
    assert later.json["lease_duration"] == 39, "what is left, in whole seconds rounded down"
    assert (old.json["renewable"], old.json["lease_duration"]) == (False, 9)


@pytest.mark.parametrize("operation", ["lookup", "renew"])
async def test_a_lease_of_another_role_and_an_unknown_one_look_alike(full: World, operation: str) -> None:
    full.keepers[LAZY] = Keeper(held(full, "ended", LAZY, left=0.5))

    async with full.serving():
        answers = [
            await ask(full, "POST", f"/{operation}", {"lease_id": lease}) for lease in ("other-1", "none", "ended")
        ]

    assert {(answer.status, answer.body) for answer in answers} == {(400, b'{"errors":["lease not found"]}')}


@pytest.mark.parametrize("lease", ["app-1", "other-1", "none"])
async def test_a_readers_revoke_succeeds_and_does_nothing(full: World, lease: str) -> None:
    """Client libraries revoke what they let go of, and the lease is shared (promise 2)."""
    async with full.serving():
        answer = await ask(full, "PUT", "/revoke", {"lease_id": lease, "sync": True})

    assert (answer.status, answer.body) == (204, b"")
    assert [keeper.revoked for keeper in full.keepers.values()] == [[], [], []]


async def test_a_reader_may_not_revoke_by_prefix(full: World, lines: list[dict[str, Any]]) -> None:
    full.witness = witness = Witness()

    async with full.serving():
        answers = [await ask(full, "POST", f"/revoke-prefix/{ROLE}") for _ in range(3)]

    assert {answer.status for answer in answers} == {403}
    assert "add" in answers[0].errors
    assert "allow_admin" in answers[0].errors
    assert full.keepers[ROLE].revoked == []
    assert witness.told == [("denied", "", "revoke-prefix")], "once in a while"
    assert [line["operation"] for line in lines if line["event"] == "denied"] == ["revoke-prefix"]


# -- an operator's revoke


async def test_an_operators_revoke_is_real_and_is_audited_before_it_is_answered(full: World) -> None:
    """R003-062, R003-063."""
    full.admin, full.witness = ANYONE, Witness()

    async with full.serving():
        answer = await ask(full, "POST", "/revoke", {"lease_id": "app-1"})

    assert answer.status == 204
    assert full.keepers[ROLE].revoked == ["app-1"]
    assert full.witness.told == [("revoking", "app-1", ""), ("settled",)]


async def test_a_revocation_that_is_not_confirmed_in_time_is_answered_202(full: World) -> None:
    full.admin = ANYONE
    full.keepers[ROLE].confirms = False

    async with full.serving():
        waiting = asyncio.create_task(ask(full, "POST", f"/revoke-prefix/{ROLE}"))
        while not full.keepers[ROLE].revoked:  # noqa: ASYNC110 - the request is on its way through a real socket
            await asyncio.sleep(0)
        await full.clock.advance(PATIENCE - 0.1)
        early = waiting.done()
        await full.clock.advance(0.1)
        answer = await waiting

    assert not early
    assert answer.status == 202
    assert answer.json["warnings"] == [
        "2 of 2 revocations are not confirmed by the upstream yet; the agent goes on trying"
    ]


async def test_a_prefix_is_a_path_and_not_the_beginning_of_a_name(full: World) -> None:
    """R000-036, R001-020: one role, or everything below."""
    full.admin, full.witness = ANYONE, Witness()

    async with full.serving():
        part = await ask(full, "POST", f"/revoke-prefix/{ROLE[:-1]}")
        one = await ask(full, "PUT", f"/revoke-prefix/{ROLE}/")
        nothing = await ask(full, "PUT", f"/revoke-prefix/{ROLE}")
        empty = await ask(full, "PUT", "/revoke-prefix/")
        left = {role: list(keeper.revoked) for role, keeper in full.keepers.items()}
        rest = await ask(full, "POST", "/revoke-prefix/database")

    assert [answer.status for answer in (part, one, nothing, empty, rest)] == [400, 204, 400, 400, 204]
    assert left == {ROLE: ["app-1", "app-0"], OTHER: [], LAZY: []}
    assert full.keepers[OTHER].revoked == ["other-1"]
    assert full.witness.told[0] == ("revoking", "app-1", "app-0", ROLE)


async def test_an_operator_is_told_of_a_lease_that_is_not_there(full: World) -> None:
    full.admin = ANYONE

    async with full.serving():
        answer = await ask(full, "POST", "/revoke", {"lease_id": "none"})

    assert (answer.status, answer.errors) == (400, "lease not found")


# -- limits


async def test_a_loop_of_renewals_is_slowed_down(full: World) -> None:
    async with full.talking() as client:
        body = b'{"lease_id": "app-1"}'
        statuses = [(await client.ask(request("POST", f"{LEASES}/renew", body))).status for _ in range(52)]
        late = await client.ask(request("POST", f"{LEASES}/renew", body))
        reads = (await client.ask(get(LEASES))).status
        await full.clock.advance(0.2)
        again = await client.ask(request("POST", f"{LEASES}/renew", body))

    assert statuses == [200] * 50 + [429] * 2
    assert late.headers["retry-after"] == "1"
    assert (reads, again.status) == (200, 200)


async def test_a_loop_of_revocations_is_slowed_down_more(full: World) -> None:
    full.admin = ANYONE
    full.keepers[ROLE] = Keeper(*(held(full, f"app-{n}") for n in range(12)))

    async with full.serving():
        statuses = [(await ask(full, "POST", "/revoke", {"lease_id": f"app-{n}"})).status for n in range(12)]

    assert statuses == [204] * 10 + [429] * 2
    assert len(full.keepers[ROLE].revoked) == 10


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b"[]", b"{}", b'{"lease_id": 5}', b'{"lease_id": ""}', b"[" * 60000, b'{"lease_id": null}'],
)
async def test_a_body_that_names_no_lease_is_refused(full: World, body: bytes) -> None:
    async with full.serving():
        answer = await full.ask(request("POST", f"{LEASES}/lookup", body))

    assert (answer.status, answer.errors) == (400, 'the body must name a lease, such as {"lease_id": "…"}')


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/lookup", 405),
        ("GET", "/revoke", 405),
        ("GET", f"/revoke-prefix/{ROLE}", 405),
        ("DELETE", "", 405),
        ("POST", "", 404),
        ("POST", "/stats", 404),
        ("GET", "/nothing", 404),
        ("POST", "/nothing", 404),
        ("GET", "-of-somebody", 404),
    ],
)
async def test_everything_else_is_refused(full: World, method: str, path: str, status: int) -> None:
    async with full.serving():
        assert (await ask(full, method, path)).status == status


async def test_no_answer_holds_a_credential(full: World) -> None:
    full.admin = ANYONE
    full.publish()

    async with full.serving():
        answers = [
            await ask(full, "GET", ""),
            await ask(full, "GET", "/stats"),
            await ask(full, "POST", "/lookup", {"lease_id": "app-1"}),
            await ask(full, "POST", "/renew", {"lease_id": "app-1"}),
        ]

    assert all(answer.status == 200 and PASSWORD.encode() not in answer.body for answer in answers)


# -- the journal


def booked(lease_id: str, **keys: Any) -> Booked:
    plain: dict[str, Any] = {
        "role": ROLE,
        "username": "v_app_2",
        "owner": "web-1",
        "incarnation": 3,
        "state": "active",
        "issued": 1_800_000_000.4,
        "expires": 1_800_003_600.0,
        "remaining": 1800.1234,
        "requested_ttl": 3600.0,
        "granted_ttl": 3600.0,
    }
    return Booked(lease_id=lease_id, **{**plain, **keys})


async def test_an_operator_may_look_into_the_journal_of_an_upstream(full: World) -> None:
    """R003-010: of every holder."""
    asked: list[tuple[str, str, int]] = []

    async def journal(upstream: str, prefix: str, most: int) -> Shelf:
        asked.append((upstream, prefix, most))
        return Shelf(leases=(booked("far"),), cut=True)

    full.admin, full.journal = ANYONE, journal

    async with full.serving():
        found = data(await ask(full, "GET", "?upstream=postgresql"))
        await full.clock.advance(10)
        await ask(full, "GET", "?upstream=postgresql&prefix=database%2Fcreds/&limit=5")

    assert asked == [("postgresql", "", 1000), ("postgresql", "database/creds", 5)]
    assert (found["total"], found["cut"]) == (1, True)
    assert found["leases"][0] == {
        "lease_id": "far",
        "role": ROLE,
        "upstream": "postgresql",
        "username": "v_app_2",
        "owner": "web-1",
        "incarnation": 3,
        "state": "active",
        "issued": "2027-01-15T08:00:00Z",
        "expires": "2027-01-15T09:00:00Z",
        "remaining": 1800.123,
        "requested_ttl": 3600.0,
        "granted_ttl": 3600.0,
    }


async def test_a_journal_that_cannot_be_asked_is_named(full: World) -> None:
    async def journal(upstream: str, prefix: str, most: int) -> Shelf:
        raise Unavailable(f"{upstream}: journal: no answer in time", unreachable=True)

    full.admin, full.journal = ANYONE, journal

    async with full.serving():
        answer = await ask(full, "GET", "?upstream=postgresql")

    assert (answer.status, answer.errors) == (503, "postgresql: journal: no answer in time")


@pytest.mark.parametrize("limit", ["0", "10001", "-1", "x", "9" * 5000, "٣"])
async def test_a_limit_is_a_number_within_bounds(full: World, limit: str) -> None:
    full.admin = ANYONE

    async with full.serving():
        answer = await full.ask(get(f"{LEASES}?upstream=postgresql&limit={limit}".encode().decode("latin-1")))

    assert answer.status == 400


@pytest.mark.parametrize("prefix", ["%00", "database%00", "%1b%5b2J"])
async def test_a_prefix_has_no_control_characters(full: World, prefix: str) -> None:
    """PostgreSQL takes no text with a NUL."""
    asked: list[str] = []

    async def journal(upstream: str, prefix: str, most: int) -> Shelf:
        asked.append(prefix)
        return Shelf(leases=(), cut=False)

    full.admin, full.journal = ANYONE, journal

    async with full.serving():
        answer = await ask(full, "GET", f"?upstream=postgresql&prefix={prefix}")

    assert (answer.status, asked) == (400, [])
    assert "no control characters" in answer.errors


async def test_the_journal_is_for_operators(full: World) -> None:
    async with full.serving():
        assert (await ask(full, "GET", "?upstream=postgresql")).status == 403


async def test_an_unknown_upstream_is_not_found(full: World) -> None:
    full.admin = ANYONE

    async with full.serving():
        assert (await ask(full, "GET", "?upstream=nothing")).status == 404


# -- who read what


async def test_a_read_is_told_once_per_generation(world: World) -> None:
    world.witness = witness = Witness()
    first = world.publish()

    async with world.talking() as client:
        for _ in range(3):
            await client.ask()
        await client.ask(get(f"/v1/{ROLE}", If_None_Match=f'W/"{first.generation}"'))
        await client.ask(get(f"/v1/{ROLE}?x=1"))  # by the other way through the listener
        second = world.publish()
        await client.ask()
        await client.ask()

    assert witness.told == [("read", ROLE, first.generation), ("read", ROLE, second.generation)]


async def test_whoever_is_told_that_nothing_changed_or_sees_headers_only_has_read_nothing(world: World) -> None:
    world.witness = witness = Witness()
    first = world.publish()

    async with world.talking() as client:
        statuses = []
        for query in ("", "?x=1"):  # by both ways through the listener
            tag = f'W/"{first.generation}"'
            statuses.append((await client.ask(get(f"/v1/{ROLE}{query}", If_None_Match=tag))).status)
            statuses.append((await client.ask(request("HEAD", f"/v1/{ROLE}{query}"))).status)
        before = list(witness.told)
        await client.ask()

    assert statuses == [304, 200, 304, 200]
    assert before == []
    assert witness.told == [("read", ROLE, first.generation)]


async def test_who_got_nothing_has_read_nothing(world: World) -> None:
    world.witness = witness = Witness()

    async with world.talking() as client:
        waiting = asyncio.create_task(client.ask())
        await asyncio.sleep(0)
        await world.clock.advance(0)
        snapshot = world.publish()
        answer = await waiting
        refused = await client.ask(get(f"/v1/{OTHER}"))
        again = await client.ask(get(f"/v1/{OTHER}"))

    assert (answer.status, refused.status, again.status) == (200, 403, 403)
    assert witness.told == [("read", ROLE, snapshot.generation), ("denied", OTHER, "read")]


async def test_whoever_is_refused_a_credential_that_is_there_has_not_read_it(world: World) -> None:
    world.witness = witness = Witness()
    world.publish()
    reader = Reads(
        world.roles | {ROLE: replace(world.roles[ROLE], read=AllowList(uids=frozenset({7})))},
        world.cache,
        world.clock,
        witness,
    ).by_role[ROLE]

    for uid in (7, 8):
        reader.answer(Peer(uid=uid, gid=0, groups=frozenset(), pid=1), None, world.clock.now())

    assert [told[0] for told in witness.told] == ["read", "denied"]


async def test_a_rotation_is_told(world: World) -> None:
    world.witness = witness = Witness()

    async with world.talking() as client:
        await client.ask(request("POST", f"/v1/{ROLE}/rotate"))
        await client.ask(request("POST", f"/v1/{ROLE}/rotate"))

    assert witness.told == [("rotated", ROLE)], "the second was too soon"


async def test_whoever_changes_its_uid_without_end_does_not_fill_the_memory(world: World) -> None:
    witness = Witness()
    world.publish()
    reads = Reads({ROLE: world.roles[ROLE]}, world.cache, world.clock, witness)
    reader = reads.by_role[ROLE]

    for uid in [*range(1025), 0, 1024]:
        reader.answer(Peer(uid=uid, gid=0, groups=frozenset(), pid=1), None, world.clock.now())

    assert len(witness.told) == 1026, "the first was forgotten, the last was not"
