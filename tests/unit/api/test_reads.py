"""What a read of a role answers, and when it answers nothing."""

import asyncio
import json
import math
from collections.abc import Callable

import pytest

from agent.api.fastpath import Reads, answer_body
from agent.api.listener import Listener
from agent.leases.cache import Phase
from tests.fakes import FakeClock, settle
from tests.unit.api.world import LAZY, MARGIN, PASSWORD, READ, ROLE, World, get, request


async def test_the_answer_has_vaults_shape_and_ours(world: World) -> None:
    snapshot = world.publish(ttl=60.9)

    async with world.talking() as client:
        answer = await client.ask()

    assert answer.status == 200
    assert answer.json == {
        "request_id": snapshot.request_id,
        "lease_id": f"{ROLE}/abc",
        "renewable": True,
        "lease_duration": 60,
        "data": {"username": "app-1", "password": PASSWORD, "host": "db.example", "port": 5432},
        "wrap_info": None,
        "warnings": None,
        "auth": None,
        "expires_at": "2027-01-15T08:01:00Z",
        "generation": snapshot.generation,
        "state": "fresh",
        "verified": True,
        "rotation_warning": 45,
    }
    assert answer.headers == {
        "content-type": "application/json",
        "content-length": str(len(answer.body)),
        "etag": f'W/"{snapshot.generation}"',
        "cache-control": f"private, max-age={60 - int(MARGIN)}",
    }


async def test_fields_of_the_lease_win_over_those_of_the_connection(world: World) -> None:
    world.publish(username="u", password="p", host="from-the-lease")

    async with world.talking() as client:
        data = (await client.ask()).json["data"]

    assert data == {"username": "u", "password": "p", "host": "from-the-lease", "port": 5432}


async def test_what_is_left_counts_down_and_the_caching_advice_with_it(world: World) -> None:
    world.publish(ttl=60.5)

    async with world.talking() as client:
        told = []
        for _ in range(10):
            answer = await client.ask()
            told.append((answer.json["lease_duration"], answer.headers["cache-control"]))
            await world.clock.advance(0.5)

    assert told == [(s, f"private, max-age={s - 3}") for s in (60, 60, 59, 59, 58, 58, 57, 57, 56, 56)]


async def test_a_renewal_is_seen_at_once_under_the_same_generation(world: World) -> None:
    first = world.publish(ttl=60.0)

    async with world.talking() as client:
        before = await client.ask()
        await world.clock.advance(20.0)
        renewed = first.lease.renewed(
            first.lease.last, granted_at=world.clock.now(), answered_at=world.clock.now(), jitter=0.1
        )
        until = renewed.expires_at - MARGIN
        world.cache.renewed(ROLE, renewed, until=until, now=world.clock.now(), wall=world.clock.wall())
        after = await client.ask()

    assert after.json["lease_duration"] == 60
    assert after.json["generation"] == before.json["generation"]
    assert after.json["request_id"] != before.json["request_id"]
    assert after.json["expires_at"] == "2027-01-15T08:01:20Z"


async def test_a_failing_renewal_is_told_as_stale(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        await client.ask()
        world.report(Phase.STALE, error="the server is away", failures=1)
        stale = await client.ask()
        world.report(Phase.FRESH)
        fresh = await client.ask()

    assert (stale.status, stale.json["state"]) == (200, "stale")
    assert fresh.json["state"] == "fresh"


async def test_nothing_is_served_once_the_margin_has_begun(world: World) -> None:
    world.publish(ttl=60.0)

    async with world.talking() as client:
        await world.clock.advance(56.75)
        last = await client.ask()
        world.report(Phase.FAILING, error="the server is away", retry_at=world.clock.now() + 7.2)
        await world.clock.advance(0.25)
        none = await client.ask()

    assert (last.status, last.json["lease_duration"]) == (200, 3)
    assert last.headers["cache-control"] == "private, max-age=0"
    assert none.status == 503
    assert none.headers["retry-after"] == "7"
    assert none.errors == f"{ROLE} has no usable credential: the server is away"
    assert PASSWORD.encode() not in none.body


async def test_a_remaining_time_of_zero_seconds_is_never_told(world: World) -> None:
    world.publish(ttl=60.0, margin=0.25)

    async with world.talking() as client:
        await world.clock.advance(59.0)
        one = await client.ask()
        await world.clock.advance(0.5)
        none = await client.ask()

    assert one.json["lease_duration"] == 1
    assert none.status == 503


async def test_a_reader_between_a_suspend_and_the_roles_first_look_is_told_to_come_again(world: World) -> None:
    """Nothing has failed, so the role knows of no next attempt; the reader's connection used to end unanswered."""
    world.publish(ttl=60.0)
    world.report(Phase.FRESH, retry_at=-math.inf)

    async with world.talking() as client:
        world.clock.suspend(3600.0)
        answer = await client.ask()

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_retry_after_is_at_least_one_second(world: World) -> None:
    world.report(Phase.FAILING, error="no", retry_at=world.clock.now() - 5)

    async with world.talking() as client:
        answer = await client.ask()

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_a_withdrawn_credential_is_not_served_from_prepared_bytes(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        assert (await client.ask()).status == 200
        world.report(Phase.FAILING, error="gone")
        world.cache.withdraw(ROLE)
        assert (await client.ask()).status == 503


@pytest.mark.parametrize(
    ("tags", "status"),
    [
        ('W/"{}"', 304),
        ('"{}"', 304),
        ('W/"1", W/"{}"', 304),
        ("*", 304),
        ('W/"1"', 200),
        ("{}", 200),
        ("", 200),
    ],
)
async def test_a_known_generation_is_not_sent_again(world: World, tags: str, status: int) -> None:
    snapshot = world.publish()

    async with world.talking() as client:
        answer = await client.ask(get(f"/v1/{ROLE}", If_None_Match=tags.format(snapshot.generation)))
        again = await client.ask()

    assert answer.status == status
    assert answer.headers["etag"] == f'W/"{snapshot.generation}"'
    assert answer.headers["cache-control"] == "private, max-age=57"
    assert bool(answer.body) is (status == 200)
    assert again.status == 200


async def test_a_replaced_credential_has_another_tag(world: World) -> None:
    first = world.publish()

    async with world.talking() as client:
        world.publish(username="app-2", password="another")
        answer = await client.ask(get(f"/v1/{ROLE}", If_None_Match=f'W/"{first.generation}"'))

    assert answer.status == 200
    assert answer.json["data"]["username"] == "app-2"


async def test_head_tells_what_get_would_without_the_body(world: World) -> None:
    world.publish()

    async with world.talking() as client:
        head = await client.ask(request("HEAD", f"/v1/{ROLE}"))
        whole = await client.ask()

    assert head.body == b""
    assert {**head.headers, "connection": ""} == {**whole.headers, "connection": ""}


@pytest.mark.parametrize(
    "target",
    [
        f"/v1/{ROLE}?",
        f"http://localhost/v1/{ROLE}",
        f"HTTP://[::1]:80/v1/{ROLE}",
        f"/v1/{ROLE.replace('a', '%61')}",
        f"/v1/{ROLE.replace('/', '%2f')}",
        f"/v1/{ROLE}?version=2",
    ],
)
async def test_other_spellings_of_a_role_read_the_same(world: World, target: str) -> None:
    world.publish()

    async with world.talking() as client:
        answer = await client.ask(get(target))

    assert answer.json["data"]["username"] == "app-1"


async def test_a_client_of_vault_is_answered_and_its_token_is_nobodys_business(
    world: World, lines: list[dict[str, object]], caplog: pytest.LogCaptureFixture
) -> None:
    world.publish()
    headers = {
        "X_Vault_Token": "hvs.canary-token",
        "X_Vault_Request": "true",
        "X_Vault_Namespace": "team",
        "User_Agent": "python-hvac/2.4",
        "Accept": "*/*",
        "Accept_Encoding": "gzip, deflate",
        "Content_Type": "application/json",
    }

    async with world.talking() as client:
        fast = await client.ask(get(f"/v1/{ROLE}", **headers))
        slow = await client.ask(get(f"/v1/{ROLE}?x=1", **headers))
        missing = await client.ask(get("/v1/auth/token/lookup-self", **headers))

    assert fast.json == slow.json
    assert missing.status == 404
    assert "canary" not in json.dumps(lines, default=str) + caplog.text
    assert b"canary" not in fast.body + slow.body + missing.body


async def test_a_thousand_reads_that_differ_in_their_headers_never_leave_our_own_protocol(world: World) -> None:
    async def no_inner() -> Callable[[], asyncio.Protocol]:
        raise NotImplementedError

    snapshot = world.publish()
    desk = Reads(world.roles, world.cache, world.clock)
    listener = Listener(world.config, desk=desk, clock=world.clock, make_inner=no_inner)
    server = await asyncio.get_running_loop().create_unix_server(listener, str(world.path))

    async with world.client() as client:
        answers = [await client.ask(get(f"/v1/{ROLE}", traceparent=f"00-{n:032x}-{n:016x}-01")) for n in range(1000)]
        control = await client.ask(get("/livez"))
    server.close()
    await listener.wind_down(0.0)

    assert {answer.body for answer in answers} == {answer_body(snapshot, world.roles[ROLE].connection, 1000.0)}
    assert control.status == 500


async def test_a_reader_waits_for_the_first_attempt_of_its_role(world: World) -> None:
    async with world.talking() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        await world.clock.advance(2.0)
        world.publish()
        answer = await client.answer()

    assert answer.json["lease_duration"] == 60


async def test_a_reader_is_told_when_the_first_attempt_has_failed(world: World) -> None:
    async with world.talking() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        world.report(Phase.FAILING, error="the server is away", retry_at=world.clock.now() + 2)
        answer = await client.answer()

    assert (answer.status, answer.headers["retry-after"]) == (503, "2")
    assert "the server is away" in answer.errors


async def test_a_reader_waits_less_than_five_seconds(world: World) -> None:
    async with world.talking() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        await world.clock.advance(4.4)
        assert not client.reader.at_eof()
        pending = asyncio.ensure_future(client.answer())
        await settle()
        assert not pending.done()
        await world.clock.advance(0.2)
        answer = await pending

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")


async def test_nobody_waits_after_the_first_attempt(world: World) -> None:
    world.report(Phase.FAILING, error="no")

    async with world.talking() as client:
        assert (await client.ask()).status == 503  # with the clock standing still


async def test_a_hundred_first_readers_get_one_answer_each_and_leaving_disturbs_nobody(world: World) -> None:
    async with world.serving():
        readers = [await asyncio.open_unix_connection(str(world.path)) for _ in range(100)]
        for _, writer in readers:
            writer.write(READ)
        await asyncio.sleep(0.05)
        for _, writer in readers[::2]:
            writer.transport.abort()
        await asyncio.sleep(0.05)
        world.publish()
        bodies = []
        for reader, writer in readers[1::2]:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            bodies.append(await reader.readuntil(b"}"))
            writer.close()
            await writer.wait_closed()

    assert len(bodies) == 50
    assert len(set(bodies)) == 1


async def test_the_waiting_of_a_reader_who_is_known_to_have_left_ends(world: World) -> None:
    """A client that closes with an answer unread resets the connection, so that its leaving is seen at once."""
    world.publish(LAZY)

    async with world.serving():
        _, writer = await asyncio.open_unix_connection(str(world.path))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(get(f"/v1/{LAZY}") + READ)
        await asyncio.sleep(0.05)
        before = [task for task in asyncio.all_tasks() if task.get_name() == "listener"]
        writer.transport.abort()
        await asyncio.sleep(0.05)

        assert len(before) == 1
        assert before[0].cancelled()


async def test_a_lazy_role_is_obtained_because_somebody_asks(world: World) -> None:
    asked: list[float] = []
    world.report(Phase.IDLE, role=LAZY)
    world.cache.on_demand(LAZY, lambda: asked.append(world.clock.now()))

    async with world.talking() as client:
        client.send(get(f"/v1/{LAZY}"))
        await asyncio.sleep(0.02)
        assert asked == [1000.0]
        world.publish(LAZY)
        assert (await client.answer()).status == 200
        await world.clock.advance(5.0)
        await client.ask(get(f"/v1/{LAZY}"))

    assert world.cache.read_at(LAZY) == 1005.0


async def test_a_lazy_role_is_kept_for_whoever_had_to_wait_from_the_answer_on(world: World) -> None:
    """Promise 1: it is let go one TTL after the newest demand, and its first reader was told the whole TTL later."""
    world.report(Phase.IDLE, role=LAZY)

    async with world.talking() as client:
        client.send(get(f"/v1/{LAZY}"))
        await asyncio.sleep(0.02)
        await world.clock.advance(4.0)
        world.publish(LAZY)
        assert (await client.answer()).status == 200

    assert world.cache.read_at(LAZY) == 1004.0


def test_the_body_is_a_function_of_the_snapshot_and_the_second(clock: FakeClock, world: World) -> None:
    snapshot = world.publish(ttl=60.0)

    bodies = {answer_body(snapshot, None, clock.now() + n / 10) for n in range(1, 11)}

    assert len(bodies) == 1
    assert json.loads(bodies.pop())["lease_duration"] == 59


@pytest.mark.parametrize(("ttl", "warning"), [(3600.0, 2700), (10.0, 7)])
async def test_the_rotation_warning_is_three_quarters_rounded_down(world: World, ttl: float, warning: int) -> None:
    world.publish(ttl=ttl)

    async with world.talking() as client:
        assert (await client.ask()).json["rotation_warning"] == warning
