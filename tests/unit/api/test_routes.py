"""What aiohttp answers: rotation, probes, health, and everything that is not there."""

import asyncio
import json
from typing import Any

import pytest

from agent.api.access import AllowList
from agent.errors import StartError
from agent.leases.cache import Phase
from tests.unit.api.world import ANYONE, LAZY, NOBODY, OTHER, PASSWORD, READ, ROLE, World, get, request

ROTATE = f"/v1/{ROLE}/rotate"


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_rotation_is_passed_on(world: World, lines: list[dict[str, Any]], method: str) -> None:
    snapshot = world.publish()

    async with world.talking() as client:
        answer = await client.ask(request(method, ROTATE, b'{"revoke_after": "1m30s"}'))

    assert answer.status == 202
    assert answer.json == {"data": {"role": ROLE, "generation": snapshot.generation}}
    assert world.rotated == [(ROLE, 90.0)]
    assert [line["role"] for line in lines if line["event"] == "rotate-asked"] == [ROLE]


@pytest.mark.parametrize("body", [b"", b" \r\n", b"{}", b'{"revoke_after": null}'])
async def test_rotation_needs_no_body(world: World, body: bytes) -> None:
    async with world.talking() as client:
        answer = await client.ask(request("POST", ROTATE, body))

    assert answer.json == {"data": {"role": ROLE, "generation": 0}}
    assert world.rotated == [(ROLE, None)]


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"\xff",
        b"[]",
        b'"30s"',
        b'{"revoke_after": 30}',
        b'{"revoke_after": "soon-canary"}',
        b'{"revoke_after": "-1s"}',
        b'{"revoke_after": "1s", "canary": 1}',
        b"[" * 60000,
    ],
)
async def test_a_body_that_says_something_else_is_refused_and_costs_nothing(world: World, body: bytes) -> None:
    async with world.talking() as client:
        refused = await client.ask(request("POST", ROTATE, body))
        granted = await client.ask(request("POST", ROTATE))

    assert refused.status == 400
    assert refused.errors
    assert b"canary" not in refused.body
    assert granted.status == 202


async def test_rotation_has_its_own_list(world: World) -> None:
    world.allow(ROLE, rotate=NOBODY)
    world.publish()

    async with world.talking() as client:
        assert (await client.ask(request("POST", ROTATE))).status == 403
        assert (await client.ask(READ)).status == 200

    assert world.rotated == []


async def test_rotation_is_granted_once_in_its_interval_and_per_role(world: World) -> None:
    async with world.talking() as client:
        first = await client.ask(request("POST", ROTATE))
        await world.clock.advance(7.5)
        second = await client.ask(request("POST", ROTATE))
        other = await client.ask(request("POST", f"/v1/{LAZY}/rotate"))
        await world.clock.advance(2.5)
        third = await client.ask(request("POST", ROTATE))

    assert [answer.status for answer in (first, second, other, third)] == [202, 429, 202, 202]
    assert second.headers["retry-after"] == "3"
    assert "try again in 3 s" in second.errors


async def test_a_rotation_that_cannot_be_asked_for_is_an_error_of_ours(world: World) -> None:
    def refuse(role: str, after: float | None) -> None:
        raise StartError("the agent is stopping")

    world.rotate = refuse

    async with world.talking() as client:
        answer = await client.ask(request("POST", ROTATE))

    assert (answer.status, answer.errors) == (503, "the agent is stopping")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", f"/v1/{ROLE}", "GET, HEAD"),
        ("PUT", f"/v1/{ROLE}", "GET, HEAD"),
        ("DELETE", f"/v1/{ROLE}", "GET, HEAD"),
        ("PROPFIND", f"/v1/{ROLE}", "GET, HEAD"),
        ("GET", ROTATE, "POST, PUT"),
        ("POST", "/readyz", "GET, HEAD"),
        ("DELETE", "/v1/sys/health", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_told_the_right_ones(world: World, method: str, path: str, allow: str) -> None:
    async with world.talking() as client:
        answer = await client.ask(request(method, path))

    assert (answer.status, answer.headers["allow"]) == (405, allow)
    assert answer.errors
    assert world.rotated == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v1",
        "/v1/",
        "/v1/database/creds/nobody-canary",
        f"/v1/{ROLE}/",
        f"/v1//{ROLE}",
        f"/v1/x/../{ROLE}",
        f"/v1/x/%2e%2e/{ROLE}",
        f"/v1/{ROLE}/rotate/rotate",
        f"/v1/{ROLE}%00",
        f"/v1/{ROLE}%0a",
        "/%0d%0acanary",
        "/v1/auth/token/lookup-self",
        "/v1/sys/config/state",
        "/config",
        "/metrics-canary",
        "/%7bpath%7d",
        "//etc/passwd",
        "http://localhost",
    ],
)
async def test_everything_else_is_not_there(world: World, path: str) -> None:
    world.publish()

    async with world.talking() as client:
        for method in ("GET", "POST", "OPTIONS"):
            answer = await client.ask(request(method, path))
            assert answer.status == 404
            assert answer.errors
            assert b"canary" not in answer.body


async def test_answers_name_no_software(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        answers = [await client.ask(asked) for asked in (READ, get("/livez"), READ, request("POST", "/x"))]

    for answer in answers:
        assert answer.headers["content-type"] == "application/json"
        assert not {"server", "date", "age"} & answer.headers.keys()


async def test_a_known_read_still_works_after_the_connection_was_handed_over(world: World) -> None:
    snapshot = world.publish()
    tag = f'W/"{snapshot.generation}"'

    async with world.talking() as client:
        before = await client.ask(READ)
        assert (await client.ask(get("/livez"))).status == 200
        after = await client.ask(READ)
        unchanged = await client.ask(get(f"/v1/{ROLE}", If_None_Match=tag))
        head = await client.ask(request("HEAD", f"/v1/{ROLE}"))
        refused = await client.ask(get(f"/v1/{OTHER}"))
        await world.clock.advance(57.0)
        none = await client.ask(READ)

    assert after.body == before.body
    assert after.headers["etag"] == before.headers["etag"]
    assert after.headers["cache-control"] == before.headers["cache-control"]
    assert (unchanged.status, unchanged.body, unchanged.headers["etag"]) == (304, b"", tag)
    assert (head.status, head.headers["content-length"]) == (200, str(len(before.body)))
    assert refused.status == 403
    assert none.status == 503


async def test_a_reader_waits_after_the_handover_too(world: World) -> None:
    async with world.talking() as client:
        await client.ask(get("/livez"))
        client.send(READ)
        await asyncio.sleep(0.02)
        world.publish()

        assert (await client.answer()).status == 200


@pytest.mark.parametrize(("path", "key"), [("/startupz", "started"), ("/readyz", "ready"), ("/livez", "live")])
async def test_the_probes_answer_with_one_word(world: World, path: str, key: str) -> None:
    async with world.talking() as client:
        answer = await client.ask(get(path))
        head = await client.ask(request("HEAD", path))

    assert (answer.status, answer.json) == (200, {key: True})
    assert (head.status, head.body) == (200, b"")


async def test_readiness_says_no_with_503(world: World) -> None:
    world.ready = False

    async with world.talking() as client:
        answer = await client.ask(get("/readyz"))

    assert (answer.status, answer.json) == (503, {"ready": False})


async def test_health_tells_an_operator_everything_but_secrets(world: World) -> None:
    world.admin = ANYONE
    snapshot = world.publish(ttl=60.0)
    world.report(
        Phase.STALE,
        failures=2,
        error="the server is away",
        retry_at=world.clock.now() + 4,
        next_step="renew",
        next_at=world.clock.now() + 4.25,
        draining=1,
    )

    async with world.talking() as client:
        answer = await client.ask(get("/v1/sys/health"))

    health = answer.json
    assert answer.status == 200
    assert answer.headers["cache-control"] == "no-store"
    assert {**health, "roles": sorted(health["roles"])} == {
        "started": True,
        "ready": True,
        "live": True,
        "degraded": False,
        "version": "1.2.3",
        "scope": "operator",
        "roles": sorted([ROLE, OTHER, LAZY]),
        "files": [{"path": "/etc/secrets/db-creds", "written": True}],
        "upstreams": [{"name": "postgresql", "open": True}],
    }
    assert health["roles"][ROLE] == {
        "phase": "stale",
        "state": "stale",
        "remaining": 60,
        "ends_with_login": False,
        "expires_at": "2027-01-15T08:01:00Z",
        "generation": snapshot.generation,
        "verified": True,
        "required": True,
        "lazy": False,
        "failures": 2,
        "retry_in": 4.0,
        "next_step": "renew",
        "next_in": 4.25,
        "draining": 1,
        "error": "the server is away",
    }
    assert health["roles"][OTHER]["state"] == "none"
    for secret in (PASSWORD, "app-1", snapshot.lease.id, snapshot.request_id):
        assert secret.encode() not in answer.body


async def test_health_tells_a_reader_of_its_own_roles_only(world: World) -> None:
    world.allow(ROLE, read=AllowList.parse([], own_uid=2**31))

    async with world.talking() as client:
        health = (await client.ask(get("/v1/sys/health"))).json

    assert (health["scope"], list(health["roles"])) == ("reader", [LAZY])
    assert (health["files"], health["upstreams"], health["ready"]) == ([], [], True)


async def test_a_bug_in_a_handler_is_told_to_the_log_without_its_words(
    world: World, lines: list[dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> list[dict[str, Any]]:
        raise ZeroDivisionError("canary")

    world.admin = ANYONE
    world.files = fail

    async with world.talking() as client:
        answer = await client.ask(get("/v1/sys/health"))

    assert answer.status == 500
    assert "server" not in answer.headers
    (line,) = [line for line in lines if line["event"] == "handler-failed"]
    assert line["error"] == "ZeroDivisionError"
    assert line["reason"].split(" > ")[-1].startswith("test_routes.py:")
    assert "canary" not in json.dumps(lines, default=str) + caplog.text + answer.body.decode()
