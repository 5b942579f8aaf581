"""Several addresses of one cluster, and redirects between them: nobody's token goes where it should not."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from agent.errors import BadResponse, Sealed, Unavailable, UpstreamError
from agent.leases.lease import Secret
from agent.log import Event
from tests.unit.engines.vault.hostile import Hostile, Seen, Stopwatch, always, answer, hang, wire_to

TOKEN = Secret("hvs.canary")
FINE = always(answer(200, {"data": {}}))


@pytest.fixture
def said() -> Iterator[list[Any]]:
    """Every event logged."""
    with structlog.testing.capture_logs() as events:
        yield events


def switches(said: list[Any]) -> list[tuple[str, str]]:
    return [(line["host"], line["reason"]) for line in said if line["event"] is Event.FAILOVER]


async def closed_server() -> Hostile:
    """An address where connections are refused."""
    async with Hostile(hang) as server:
        return server


async def test_an_address_that_refuses_is_passed_over_within_the_same_call(said):
    dead = await closed_server()
    async with Hostile(FINE) as live, wire_to(dead, live) as wire:
        await wire.call("GET", "sys/health", deadline=5)
        await wire.call("GET", "sys/health", deadline=5)

        assert len(live.seen) == 2
        assert switches(said) == [(live.address, "the connection is refused")]


async def test_the_one_that_answered_last_is_asked_first(said):
    first = await closed_server()
    async with Hostile(FINE) as second, wire_to(first, second) as wire:
        await wire.call("GET", "sys/health")
        async with first:  # it is back
            await wire.call("GET", "sys/health")

            assert (len(first.seen), len(second.seen)) == (0, 2)
    assert len(switches(said)) == 1


@pytest.mark.parametrize("status", [503, 501, 473, 504])
async def test_after_a_sealed_one_the_next_call_begins_with_another(status, said):
    async with Hostile(always(answer(status, {}))) as sealed, Hostile(FINE) as fine, wire_to(sealed, fine) as wire:
        with pytest.raises(UpstreamError):
            await wire.call("GET", "database/creds/app", token=TOKEN)
        assert len(fine.seen) == 0
        for _ in range(3):
            await wire.call("GET", "database/creds/app", token=TOKEN)

        assert (len(sealed.seen), len(fine.seen)) == (1, 3)
        assert [host for host, _ in switches(said)] == [fine.address]


async def _reset(seen: Seen) -> None:
    seen.reset()


async def _half(seen: Seen) -> None:
    await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")


@pytest.mark.parametrize("play", [hang, _reset, _half, always(answer(200, b"<html>"))])
async def test_after_one_that_gave_no_answer_of_use_the_next_call_begins_with_another(play):
    async with Hostile(play) as bad, Hostile(FINE) as fine, wire_to(bad, fine) as wire:
        with pytest.raises(Unavailable):
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=0.5)
        assert len(fine.seen) == 0  # what may have issued a user is not sent again
        await wire.call("GET", "database/creds/app", token=TOKEN)

        assert (len(bad.seen), len(fine.seen)) == (1, 1)


async def test_a_caller_who_gives_up_on_a_server_finds_another_one_next_time():
    """Though an answer that may have issued something is still listened for where it was asked."""
    async with Hostile(hang) as bad, Hostile(FINE) as fine, wire_to(bad, fine) as wire:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.2):
                await wire.call("GET", "database/creds/app", token=TOKEN, late=lambda _: None)
        await wire.call("GET", "database/creds/app", token=TOKEN)

        assert (len(bad.seen), len(fine.seen)) == (1, 1)


async def test_a_caller_who_leaves_at_once_says_nothing_of_the_server():
    async with Hostile(hang) as first, Hostile(FINE) as second, wire_to(first, second) as wire:
        call = asyncio.create_task(wire.call("GET", "database/creds/app", token=TOKEN, late=lambda _: None))
        await first.arrived.wait()
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        first.play = FINE
        await wire.call("GET", "database/creds/app", token=TOKEN)

        assert (len(first.seen), len(second.seen)) == (2, 0)


async def test_a_dead_and_a_sealed_one_do_not_hide_the_third():
    dead = await closed_server()
    async with Hostile(always(answer(503, {}))) as sealed, Hostile(FINE) as fine, wire_to(dead, sealed, fine) as wire:
        with pytest.raises(Sealed):
            await wire.call("GET", "database/creds/app", token=TOKEN)

        assert (await wire.call("GET", "database/creds/app", token=TOKEN)).ok


@pytest.mark.parametrize("status", [400, 403, 404, 412, 429, 500])
async def test_an_answer_that_every_server_would_give_moves_nobody(status):
    async with Hostile(always(answer(status, {}))) as first, Hostile(FINE) as second, wire_to(first, second) as wire:
        for _ in range(2):
            try:
                await wire.call("GET", "database/creds/app", token=TOKEN)
            except UpstreamError:
                continue

        assert (len(first.seen), len(second.seen)) == (2, 0)


async def test_while_all_are_sealed_each_is_asked_in_turn_and_no_switch_is_told(said):
    sealed = always(answer(503, {}))
    async with Hostile(sealed) as one, Hostile(sealed) as two, wire_to(one, two) as wire:
        for _ in range(6):
            with pytest.raises(Sealed):
                await wire.call("GET", "sys/health")
        assert (len(one.seen), len(two.seen), switches(said)) == (3, 3, [])

        one.play = FINE
        await wire.call("GET", "sys/health")
        await wire.call("GET", "sys/health")

    assert switches(said) == []  # the one that served before serves again


async def test_when_all_refuse_each_is_named_with_its_reason(said):
    dead = [await closed_server() for _ in range(3)]
    async with wire_to(*dead) as wire:
        with pytest.raises(Unavailable) as caught:
            await wire.call("GET", "sys/health", deadline=5)

    assert all(f"{server.address}: the connection is refused" in str(caught.value) for server in dead)
    assert not caught.value.outcome_unknown
    assert switches(said) == []


async def test_an_address_that_does_not_shake_hands_leaves_time_for_the_others():
    """A TLS handshake that hangs is a connection that could not be made: 10.0.0.0/8 routed nowhere looks alike."""

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read(-1)
        finally:
            writer.close()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        Hostile(FINE) as fine,
        wire_to(f"https://127.0.0.1:{port}", f"https://localhost:{port}", fine) as wire,
    ):
        with Stopwatch() as watch:
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=3)

    server.close()
    assert watch.took < 3


async def test_a_redirect_within_the_cluster_is_followed_with_the_token(said):
    async with Hostile(FINE) as leader:
        there = f"{leader.address}/v1/database/creds/app?a=b"
        async with Hostile(always(answer(307, b"", location=there))) as standby, wire_to(standby, leader) as wire:
            got = await wire.call("GET", "database/creds/app", token=TOKEN, query={"a": "b"})
            again = await wire.call("GET", "sys/health")

            assert got.ok
            assert again.ok
            assert leader.seen[0].target == "/v1/database/creds/app?a=b"
            assert leader.seen[0].headers["x-vault-token"] == "hvs.canary"
            assert len(standby.seen) == 1  # the leader is asked first from now on
    assert switches(said) == [(leader.address, "it leads the cluster")]


@pytest.mark.parametrize("status", [307, 308])
async def test_a_redirected_body_arrives_whole(status):
    async with Hostile(FINE) as leader:
        there = f"{leader.address}/v1/auth/jwt/login"
        async with (
            Hostile(always(answer(status, b"", location=there))) as standby,
            wire_to(standby, redirect_hosts=(leader.authority,)) as wire,
        ):
            await wire.call("POST", "auth/jwt/login", body={"jwt": Secret("j")})
            await wire.call("POST", "auth/jwt/login", body={"jwt": Secret("j")})

            assert [seen.body for seen in leader.seen] == [b'{"jwt":"j"}'] * 2
            assert len(standby.seen) == 2  # it is not one of the addresses to begin with


@pytest.mark.parametrize(
    ("method", "status", "followed"),
    [("GET", 301, True), ("GET", 302, True), ("GET", 303, False), ("POST", 301, False), ("POST", 302, False)],
)
async def test_older_redirects_are_followed_only_where_they_keep_the_method(method, status, followed):
    async with Hostile(FINE) as leader:
        there = f"{leader.address}/v1/sys/health"
        async with Hostile(always(answer(status, b"", location=there))) as standby, wire_to(standby, leader) as wire:
            if followed:
                await wire.call(method, "sys/health", token=TOKEN)
            else:
                with pytest.raises(BadResponse):
                    await wire.call(method, "sys/health", token=TOKEN)

        assert len(leader.seen) == followed


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_another_host_hears_nothing(status):
    """requests sends X-Vault-Token on to it (upstreams.md, 3.6, trap 9; D-03)."""
    async with Hostile(FINE) as evil:
        there = f"{evil.address}/v1/database/creds/app"
        async with Hostile(always(answer(status, b"", location=there))) as server, wire_to(server) as wire:
            with pytest.raises(BadResponse, match="redirect_hosts") as caught:
                await wire.call("GET", "database/creds/app", token=TOKEN)

        assert evil.authority in str(caught.value)
        assert evil.connections == 0
        assert not caught.value.outcome_unknown


@pytest.mark.parametrize(
    "location",
    [
        "",
        "//",
        "http://",
        "ftp://127.0.0.1/v1/sys/health",
        "http://[::1",
        "http://evil\x85host/v1/sys/health",
        "http://a:99999/v1/sys/health",
        "http://user:canary@evil/v1/sys/health",
        "javascript:alert(1)",
        "http://" + "a" * 60_000,
        "/v1/sys/health",
        "{here}/login?canary",
        "{here}/v1/sys/health",
        "{here}/v1/sys/seal",
    ],
)
async def test_a_redirect_that_makes_no_sense_is_refused_in_words_of_ours(location):
    async def play(_: Seen) -> bytes:
        return answer(307, b"", location=location.format(here=server.address) if "{here}" in location else location)

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(BadResponse, match="redirects") as caught:
            await wire.call("GET", "sys/health", token=TOKEN)

    assert "canary" not in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value).isprintable()
    assert len(server.seen) <= 3


@pytest.mark.parametrize("host", ["vault.example:8200", "192.0.2.7:8200", "[2001:db8::1]:8200", "127.0.0.1.example:80"])
async def test_an_allowed_redirect_leads_to_http_on_this_machine_only(host):
    there = f"http://{host}/v1/sys/health"
    async with (
        Hostile(always(answer(307, b"", location=there))) as standby,
        wire_to(standby, redirect_hosts=(host,)) as wire,
    ):
        with pytest.raises(BadResponse, match="no token is sent there in clear"):
            await wire.call("GET", "sys/health", token=TOKEN)


@pytest.mark.parametrize("path", ["/v1/sys/seal", "/login", "/v1/sys/health/", "/V1/sys/health"])
async def test_a_redirect_to_another_path_is_refused_even_within_the_cluster(path):
    async with Hostile(FINE) as leader:
        there = f"{leader.address}{path}"
        async with Hostile(always(answer(307, b"", location=there))) as standby, wire_to(standby, leader) as wire:
            with pytest.raises(BadResponse, match="another path"):
                await wire.call("GET", "sys/health", token=TOKEN)

        assert leader.connections == 0


async def test_servers_that_point_at_each_other_are_left():
    places: list[Hostile] = []
    turn = itertools.cycle([1, 0])

    async def play(_: Seen) -> bytes:
        return answer(307, b"", location=f"{places[next(turn)].address}/v1/sys/health")

    async with Hostile(play) as one, Hostile(play) as two, wire_to(one, two) as wire:
        places += [one, two]
        with pytest.raises(BadResponse, match="in a circle"):
            await wire.call("GET", "sys/health", token=TOKEN)

        assert len(one.seen) + len(two.seen) == 3


async def test_a_leader_that_cannot_be_reached_is_no_unknown_outcome():
    gone = await closed_server()
    there = f"{gone.address}/v1/sys/health"
    async with (
        Hostile(always(answer(307, b"", location=there))) as standby,
        wire_to(standby, redirect_hosts=(gone.authority,)) as wire,
    ):
        with pytest.raises(Unavailable, match="leads to") as caught:
            await wire.call("GET", "sys/health", token=TOKEN)

    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)
