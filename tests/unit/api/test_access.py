"""Who may read and rotate, as the kernel names them."""

import os
import socket
from collections.abc import Sequence
from typing import Any

import pytest
from attrs import evolve

from agent.api.access import AllowList, Peer, peer_of
from agent.config.model import Mode
from agent.errors import ConfigError
from tests.unit.api.world import OTHER, READ, ROLE, World, ask_as, get, request

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


def peer(uid: int = 1, gid: int = 1, groups: Sequence[int] = ()) -> Peer:
    return Peer(uid=uid, gid=gid, groups=frozenset(groups), pid=0)


@pytest.mark.parametrize(
    ("entries", "who", "admitted"),
    [
        ((), peer(uid=77), True),
        ((), peer(uid=1), False),
        ((), peer(uid=0), False),
        (("uid:1000",), peer(uid=1000), True),
        (("uid:1000",), peer(uid=77), False),
        (("uid:1000",), peer(uid=1, gid=1000, groups=[1000]), False),
        (("gid:2000",), peer(gid=2000), True),
        (("gid:2000",), peer(groups=[5, 2000]), True),
        (("gid:2000",), peer(uid=2000), False),
        (("uid:1", "gid:2000"), peer(uid=3, gid=4, groups=[2000]), True),
        (("any",), peer(uid=4_000_000_000), True),
    ],
)
def test_the_list_admits_whom_it_names(entries: tuple[str, ...], who: Peer, admitted: bool) -> None:
    assert AllowList.parse(entries, own_uid=77).admits(who) is admitted


@pytest.mark.parametrize(
    "entry", ["", "uid:", "uid:app", "uid:-1", "1000", "uid: 1", "user:1", "uid:4294967295", "uid:१", "ANY"]
)
def test_an_entry_that_means_nobody_is_a_mistake(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        AllowList.parse(["uid:1", entry], own_uid=1)

    assert len(caught.value.mistakes) == 1


def test_nobody_is_on_the_list_that_was_never_written() -> None:
    assert not AllowList().admits(peer(uid=0))


def test_the_kernel_names_the_peer() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX)
    with ours, theirs:
        found = peer_of(ours)

    assert found == Peer(
        uid=os.getuid(), gid=os.getgid(), groups=frozenset(os.getgroups()) | found.groups, pid=os.getpid()
    )


@pytest.mark.parametrize("number", [92, 1, 34])  # ENOPROTOOPT, EPERM, ERANGE
def test_a_kernel_that_tells_no_groups_leaves_the_primary_one(number: int) -> None:
    class Odd:
        def getsockopt(self, level: int, name: int, size: int, /) -> bytes:
            if name == socket.SO_PEERCRED:
                return b"\x00\x00\x00\x00\xff\xff\xff\xf0\x05\x00\x00\x00"
            raise OSError(number, os.strerror(number))

    assert peer_of(Odd()) == Peer(uid=0xF0FFFFFF, gid=5, groups=frozenset(), pid=0)


@as_root
@pytest.mark.parametrize(
    ("entry", "caller", "status"),
    [
        ("uid:1234", {"uid": 1234, "gid": 1}, 200),
        ("uid:1234", {"uid": 1235, "gid": 1234}, 403),
        ("gid:2000", {"uid": 1234, "gid": 2000}, 200),
        ("gid:2000", {"uid": 1234, "gid": 1, "groups": [9, 2000]}, 200),
        ("gid:2000", {"uid": 2000, "gid": 1, "groups": [9]}, 403),
    ],
)
async def test_another_user_reads_only_what_allows_it(
    world: World, entry: str, caller: dict[str, Any], status: int
) -> None:
    world.config = evolve(world.config, socket_mode=Mode(0o666))
    world.allow(ROLE, read=AllowList.parse([entry], own_uid=0))
    world.publish()

    async with world.serving():
        answer = await ask_as(world.path, **caller)

    assert answer is not None
    assert answer.status == status


@as_root
async def test_the_sockets_mode_and_group_keep_others_out(world: World) -> None:
    world.config = evolve(world.config, socket_group="2000")
    world.publish()

    async with world.serving():
        member = await ask_as(world.path, 1234, 1, [2000])
        stranger = await ask_as(world.path, 1234, 1, [2001])

    assert member is not None
    assert member.status == 200
    assert stranger is None


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        (get(f"/v1/{OTHER}"), "allow"),
        (get(f"/v1/{OTHER}?x"), "allow"),
        (request("POST", f"/v1/{OTHER}/rotate"), "allow_rotate"),
    ],
)
async def test_a_refusal_names_the_caller_and_the_line_to_add(
    world: World, lines: list[dict[str, Any]], asked: bytes, line: str
) -> None:
    world.publish(OTHER)

    async with world.talking() as client:
        answer = await client.ask(asked)

    me = os.getuid()
    assert answer.status == 403
    assert answer.errors.endswith(f'add "uid:{me}" to {line} = [...] under [role."{OTHER}"]')
    assert f"uid {me} may not" in answer.errors
    (denied,) = [line for line in lines if line["event"] == "denied"]
    assert (denied["uid"], denied["gid"], denied["role"]) == (me, os.getgid(), OTHER)


async def test_denials_are_logged_at_a_bounded_rate(world: World, lines: list[dict[str, Any]]) -> None:
    async with world.talking() as client:
        for _ in range(100):
            assert (await client.ask(get(f"/v1/{OTHER}"))).status == 403
        await world.clock.advance(59.0)
        await client.ask(get(f"/v1/{OTHER}"))
        before = [line for line in lines if line["event"] == "denied"]
        await world.clock.advance(2.0)
        await client.ask(get(f"/v1/{OTHER}"))

    assert len(before) == 1
    assert len([line for line in lines if line["event"] == "denied"]) == 2


async def test_a_role_that_is_not_allowed_is_not_waited_for_nor_woken(world: World) -> None:
    woken: list[int] = []
    world.cache.on_demand(OTHER, lambda: woken.append(1))

    async with world.talking() as client:
        answer = await client.ask(get(f"/v1/{OTHER}"))  # its first attempt is running

    assert answer.status == 403
    assert woken == []


async def test_access_is_checked_at_every_request_of_a_connection(world: World) -> None:
    world.publish()
    world.publish(OTHER)

    async with world.talking() as client:
        statuses = [(await client.ask(asked)).status for asked in (READ, get(f"/v1/{OTHER}"), READ)]

    assert statuses == [200, 403, 200]
