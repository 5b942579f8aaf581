"""Connections, deadlines, threads, and callers who go: what is sent once stays sent once."""

import asyncio
import threading
import time

import pytest

from agent import dial
from agent.config.upstreams import Vault
from agent.engines.vault.adapter import ClusterAdapter
from agent.engines.vault.addresses import parse_address
from agent.engines.vault.answers import Answer, Request
from agent.engines.vault.sockets import Bounds
from agent.engines.vault.tls import Contexts
from agent.engines.vault.transport import GivenUp, Route
from agent.errors import BadResponse, Unavailable
from agent.leases.lease import Secret
from tests.fakes import FakeClock
from tests.unit.engines.vault.hostile import Hostile, Opened, Seen, Stopwatch, always, answer, hang, wire_to

TOKEN = Secret("t")
ISSUED = answer(200, {"lease_id": "database/creds/app/x1"})


async def until(condition, within: float = 10.0) -> None:
    """Wait for what a thread or a server does."""
    end = time.monotonic() + within
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.005)


def threads(name: str = "vault") -> int:
    return sum(1 for thread in threading.enumerate() if thread.name == name)


async def test_one_connection_serves_calls_one_after_another_and_one_thread():
    async with Hostile(always(answer(200, {}), answer(403, {}), answer(500, {}))) as server, wire_to(server) as wire:
        await wire.call("GET", "sys/health")
        await wire.call("GET", "sys/health", token=TOKEN)
        for _ in range(3):
            with pytest.raises(Unavailable):
                await wire.call("GET", "sys/health")
        used = threads()

    assert (server.connections, used) == (1, 1)


async def test_a_connection_closed_while_idle_is_replaced_before_anything_is_sent():
    async with Hostile(always(ISSUED)) as server, wire_to(server) as wire:
        await wire.call("GET", "database/creds/app", token=TOKEN)
        await server.hang_up()
        await wire.call("GET", "database/creds/app", token=TOKEN)

        assert [seen.connection for seen in server.seen] == [1, 2]


async def test_a_request_that_may_have_been_seen_is_not_sent_again():
    """The server closes the kept connection having read the request: reading database/creds makes a user each time."""

    async def play(seen: Seen) -> bytes | None:
        return ISSUED if len(server.seen) == 1 else None

    async with Hostile(play) as server, wire_to(server) as wire:
        await wire.call("GET", "database/creds/app", token=TOKEN)
        with pytest.raises(Unavailable) as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN)

        assert len(server.seen) == 2
    assert caught.value.unreachable
    assert caught.value.outcome_unknown
    assert "the connection was cut" in str(caught.value)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_reset_leaves_the_outcome_unknown(method):
    async def play(seen: Seen) -> None:
        seen.reset()

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(Unavailable, match="the connection was cut") as caught:
            await wire.call(method, "database/creds/app", token=TOKEN, body={} if method == "POST" else None)

        assert len(server.seen) == 1
    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, True)


async def test_a_refused_connection_leaves_nothing_behind():
    server = Hostile(hang)
    async with server:
        pass
    async with wire_to(server) as wire:
        with pytest.raises(Unavailable, match="refused") as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN)

    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)
    assert server.authority in str(caught.value)


async def test_a_name_that_nobody_knows_is_said():
    async with wire_to("http://nobody.invalid:8200") as wire:
        with pytest.raises(Unavailable, match="its name cannot be looked up") as caught:
            await wire.call("GET", "sys/health")

    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)


async def trickle_headers(seen: Seen) -> None:
    await seen.send(b"HTTP/1.1 200 OK\r\n")
    while True:
        await seen.send(b"X")
        await asyncio.sleep(0.02)


async def trickle_body(seen: Seen) -> None:
    await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n")
    while True:
        await seen.send(b" ")
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("play", [hang, trickle_headers, trickle_body])
async def test_the_deadline_is_for_everything(play):
    async with Hostile(play) as server, wire_to(server) as wire:
        with Stopwatch() as watch, pytest.raises(Unavailable, match=r"no answer within 0\.3 s") as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=0.3)

        assert 0.25 < watch.took < 5
        assert caught.value.unreachable
        assert caught.value.outcome_unknown
        await until(lambda: not wire_busy(wire))  # the thread has gone home, too


def wire_busy(wire: Opened) -> bool:
    return "0 busy" not in repr(wire)


async def test_the_threads_own_deadline_holds_without_the_callers():
    """Nothing depends on the loop's timers, which may be late."""
    async with Hostile(trickle_body) as server:
        wire = Opened("vault", Vault(address=server.address), FakeClock())  # its timeouts never come
        with Stopwatch() as watch, pytest.raises(Unavailable, match=r"no answer within 0\.3 s"):
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=0.3)
        await wire.close()

    assert watch.took < 5


async def test_a_caller_who_is_cancelled_goes_at_once_and_the_next_one_need_not_wait():
    async with Hostile(hang) as server, wire_to(server) as wire:
        for _ in range(12):  # three times the threads
            server.arrived.clear()
            call = asyncio.create_task(wire.call("POST", "sys/leases/renew", token=TOKEN, deadline=60))
            await asyncio.wait_for(server.arrived.wait(), 10)
            with Stopwatch() as watch:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
            assert watch.took < 0.2

        assert threads() <= 4
        await until(lambda: not wire_busy(wire))  # nobody waits for the server's sake


async def test_a_good_answer_that_comes_too_late_is_seen_to_once():
    """Cancelled after the request was sent: the user that it made is ended (upstreams.md: reading creds makes one)."""
    release = asyncio.Event()
    heard: list[Answer] = []

    async def play(seen):
        if seen.target.endswith("creds/app"):
            await release.wait()
            return ISSUED
        return answer(204)

    def late(got: Answer) -> Request:
        heard.append(got)
        assert threading.current_thread().name == "vault"
        lease = {"lease_id": got.body["lease_id"], "sync": True}
        return Request(method="POST", path="sys/leases/revoke", token=TOKEN, body=lease)

    async with Hostile(play) as server, wire_to(server) as wire:
        call = asyncio.create_task(
            wire.call("GET", "database/creds/app", token=TOKEN, namespace="ns", late=late, deadline=30)
        )
        await server.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        await until(lambda: len(server.seen) == 2)

        assert len(heard) == 1
        assert server.seen[1].target == "/v1/sys/leases/revoke"
        assert server.seen[1].body == b'{"lease_id":"database/creds/app/x1","sync":true}'
        assert server.seen[1].headers["x-vault-namespace"] == "ns"


async def test_an_answer_after_the_deadline_is_still_seen_to():
    release = asyncio.Event()
    heard: list[Answer] = []

    async def play(_: Seen) -> bytes:
        await release.wait()
        return ISSUED

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(Unavailable) as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=0.2, late=heard.append)
        assert caught.value.outcome_unknown
        release.set()

        await until(lambda: heard)


async def test_an_answer_that_is_there_when_its_caller_is_cancelled_is_not_lost():
    """The thread has delivered, and the caller is cancelled before its task runs again."""
    heard: list[Answer] = []
    sent = asyncio.Event()

    async def play(seen: Seen) -> None:
        await seen.send(ISSUED)
        sent.set()

    async with Hostile(play) as server, wire_to(server) as wire:
        call = asyncio.create_task(wire.call("GET", "database/creds/app", token=TOKEN, late=heard.append))
        await sent.wait()
        end = time.monotonic() + 10
        while wire_busy(wire) and time.monotonic() < end:
            time.sleep(0.005)  # noqa: ASYNC251 - the loop must not turn while the thread delivers
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        await until(lambda: heard)
        assert len(heard) == 1


@pytest.mark.parametrize("raw", [answer(403, {}), answer(500, {}), answer(200, b"<html>")])
async def test_a_late_answer_that_issued_nothing_is_left_alone(raw):
    release = asyncio.Event()
    heard: list[Answer] = []

    async def play(_):
        await release.wait()
        return raw

    async with Hostile(play) as server, wire_to(server) as wire:
        call = asyncio.create_task(wire.call("GET", "database/creds/app", token=TOKEN, late=heard.append))
        await server.arrived.wait()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        release.set()
        await until(lambda: not wire_busy(wire))

    assert heard == []


async def test_what_waits_for_a_thread_and_is_cancelled_is_never_sent():
    async with Hostile(hang) as server, wire_to(server) as wire:
        busy = [asyncio.create_task(wire.call("GET", f"busy/{n}", deadline=60)) for n in range(4)]
        await until(lambda: len(server.seen) == 4)
        waiting = asyncio.create_task(wire.call("GET", "database/creds/app", token=TOKEN))
        await until(lambda: "1 waiting" in repr(wire))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        server.play = always(answer(200, {}))
        await wire.call("GET", "sys/health", deadline=10)

        assert not any("creds" in seen.target for seen in server.seen)
        assert threads() <= 4


async def test_what_waits_for_a_thread_beyond_its_deadline_was_not_sent_and_says_so():
    async with Hostile(hang) as server, wire_to(server) as wire:
        busy = [asyncio.create_task(wire.call("GET", f"busy/{n}", deadline=60)) for n in range(4)]
        await until(lambda: len(server.seen) == 4)
        with pytest.raises(Unavailable, match="it was not sent") as caught:
            await wire.call("GET", "database/creds/app", token=TOKEN, deadline=0.2)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)

    assert (caught.value.unreachable, caught.value.outcome_unknown) == (True, False)
    assert not any("creds" in seen.target for seen in server.seen)


async def test_answers_nobody_waits_for_make_room_for_calls_that_somebody_waits_for():
    """A hanging server must not hold all threads for the sake of answers that may never come."""
    async with Hostile(hang) as server, wire_to(server) as wire:
        calls = [asyncio.create_task(wire.call("GET", f"busy/{n}", deadline=60, late=print)) for n in range(4)]
        await until(lambda: len(server.seen) == 4)
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        server.play = always(answer(200, {}))
        with Stopwatch() as watch:
            await wire.call("GET", "sys/health", deadline=20)

    assert watch.took < 5


async def test_without_a_thread_to_be_had_the_call_fails_and_the_next_one_is_fine(monkeypatch):
    real = threading.Thread.start

    def none_left(thread: threading.Thread) -> None:
        if thread.name == "vault":
            raise RuntimeError("can't start new thread")
        real(thread)

    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        monkeypatch.setattr(threading.Thread, "start", none_left)
        with pytest.raises(Unavailable, match="no thread to be had") as caught:
            await wire.call("GET", "sys/health")
        monkeypatch.undo()
        await wire.call("GET", "sys/health")

    assert not caught.value.outcome_unknown
    assert not caught.value.unreachable


async def test_the_threads_are_daemons_and_end_with_the_wire():
    async with Hostile(hang) as server:
        wire = wire_to(server)
        call = asyncio.create_task(wire.call("GET", "sys/health", deadline=60))
        await server.arrived.wait()
        assert all(thread.daemon for thread in threading.enumerate() if thread.name == "vault")
        with Stopwatch() as watch:
            await wire.close()
        with pytest.raises(Unavailable):
            await call
        with pytest.raises(Unavailable, match="stopping"):
            await wire.call("GET", "sys/health")

    assert watch.took < 3
    await until(lambda: threads() == 0)


async def test_a_call_is_refused_without_a_word_of_what_it_would_have_sent(monkeypatch):
    """Whatever a library raises: only its type and place are told."""

    def broken(*_: object, **__: object) -> None:
        raise KeyError("canary")

    monkeypatch.setattr("http.client.HTTPConnection.request", broken)
    async with Hostile(hang) as server, wire_to(server) as wire:
        with pytest.raises(Unavailable, match="KeyError at") as caught:
            await wire.call("GET", "sys/health", token=Secret("canary"))

    assert "canary" not in str(caught.value)
    assert caught.value.outcome_unknown


async def test_a_hundred_calls_at_once_use_four_connections():
    async with Hostile(always(answer(200, {}))) as server, wire_to(server) as wire:
        await asyncio.gather(*(wire.call("GET", "sys/health") for _ in range(100)))

        assert server.connections <= 4
        assert len(server.seen) == 100


async def proxy(_: Seen) -> bytes:
    """A forward proxy that lets nothing through."""
    return answer(403, {})


async def test_a_configured_proxy_is_told_its_own_password():
    async with Hostile(proxy) as server:
        through = server.address.replace("//", "//me:s%40cret@")
        async with wire_to("https://vault.internal:8200", proxy=through) as wire:
            with pytest.raises(Unavailable):
                await wire.call("GET", "sys/health", token=TOKEN)

        assert server.seen[0].headers["host"] == "vault.internal:8200"
        assert server.seen[0].headers["proxy-authorization"] == "Basic bWU6c0BjcmV0"


async def test_what_goes_in_clear_goes_through_no_proxy():
    """An http address is a loopback one; a proxy elsewhere takes it for its own, with the token."""
    async with Hostile(proxy) as between, Hostile(always(answer(200, {}))) as server:
        async with wire_to(server, proxy=between.address) as wire:
            assert (await wire.call("GET", "sys/health", token=TOKEN)).ok

        assert (between.connections, len(server.seen)) == (0, 1)


async def test_a_proxy_that_refuses_is_named_and_hears_no_token():
    async with Hostile(proxy) as server, wire_to("https://vault.internal:8200", proxy=server.address) as wire:
        with pytest.raises(Unavailable, match=r"the proxy refuses the way to it \(403\)") as caught:
            await wire.call("GET", "sys/health", token=TOKEN)

        assert server.seen[0].target == "vault.internal:8200"
        assert "x-vault-token" not in server.seen[0].headers
    assert not caught.value.outcome_unknown


async def test_a_proxy_that_hangs_costs_no_more_than_the_time_to_connect():
    async with (
        Hostile(hang) as server,
        wire_to("https://vault.internal:8200", proxy=server.address, connect_timeout=0.3) as wire,
    ):
        with Stopwatch() as watch, pytest.raises(Unavailable, match="no connection in time"):
            await wire.call("GET", "sys/health", token=TOKEN, deadline=60)

    assert watch.took < 5


async def test_half_an_answer_is_told_apart_from_none():
    async def play(seen: Seen) -> None:
        await seen.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")

    async with Hostile(play) as server, wire_to(server) as wire:
        with pytest.raises(BadResponse, match="cut off"):
            await wire.call("GET", "database/creds/app", token=TOKEN)


async def test_a_caller_who_goes_while_the_connection_is_made_has_nothing_sent():
    """The last look is right before the first byte: whoever left by then was told that nothing had been sent."""
    async with Hostile(always(ISSUED)) as server:
        bounds = Bounds(dial.now() + 10)
        found = parse_address(server.address)
        route = Route(address=found, certificate=None, connect_until=dial.now() + 5, bounds=bounds, begin=lambda: False)

        def ask() -> None:
            adapter = ClusterAdapter(Contexts(Vault(address=server.address)), None, None)
            try:
                adapter.ask("GET", "a/b", route, token="t", namespace=None, query={}, body=None, wrap_ttl=0)
            finally:
                adapter.close()

        with pytest.raises(GivenUp):
            await asyncio.to_thread(ask)
        await until(lambda: server.connections == 1)

    assert server.seen == []
