import asyncio
import json
import math
import os
import threading
from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from agent.errors import StartError
from agent.failpoints import Failpoint, armed
from agent.leases.lease import Lease, Secret
from agent.leases.record import RoleRecord
from agent.leases.schedule import Retired
from agent.log import Event
from agent.state import StateDir, boot_id
from tests.unit.leases.builders import lease

ROLE = "database/creds/app"


@pytest.fixture
def lines() -> Iterator[Sequence[MutableMapping[str, Any]]]:
    """Every line that is logged."""
    with structlog.testing.capture_logs() as captured:
        yield captured


def opened(
    path: Path, *, holder: str = "web-0", boot: str = "b1", least: int = 5, upstream: str = "postgresql"
) -> tuple[StateDir, int]:
    state = StateDir(path, holder=holder, boot=boot, allow_disk=True, upstreams={ROLE: upstream})
    return state, state.open(least)


def save(state: StateDir, record: RoleRecord) -> None:
    asyncio.run(state.save(ROLE, record))


def record(held: Lease | None = None) -> RoleRecord:
    retired = Retired(lease_id="old", revoke_at=1.0, ends_at=2.0, published=True, tried=True)
    return RoleRecord(current=held or lease(max_ttl=600), generation=7, verified=True, retired=(retired,), proposed="p")


@pytest.mark.parametrize("max_ttl", [600.0, math.inf])
def test_what_was_saved_is_loaded_by_the_next_incarnation(tmp_path: Path, max_ttl: float) -> None:
    state, first = opened(tmp_path / "state")
    kept = record(lease(max_ttl=max_ttl))
    save(state, kept)
    state.close()

    again, second = opened(tmp_path / "state")

    assert again.load(ROLE) == kept
    assert again.load("database/creds/other") == RoleRecord()
    assert second == first + 1
    again.close()


def test_a_login_and_what_hangs_on_it_are_remembered_with_what_revoking_takes(tmp_path: Path) -> None:
    """Without the token nobody could end an old login after a restart (D-01)."""
    state, _ = opened(tmp_path / "state")
    first = replace(lease().first, parent="login-1", key=Secret("s.token"))
    kept = record(replace(lease(), first=first))
    old = replace(kept.retired[0], parent="login-0", key=Secret("s.older"))
    save(state, replace(kept, retired=(old,)))
    state.close()

    again, _ = opened(tmp_path / "state")
    found = again.load(ROLE)

    assert found.current is not None
    assert (found.current.parent, found.current.first.key) == ("login-1", Secret("s.token"))
    assert (found.retired[0].parent, found.retired[0].key) == ("login-0", Secret("s.older"))
    assert "s.token" not in repr(found)
    again.close()


def test_secrets_are_for_the_agent_alone(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())

    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert set(modes.values()) == {0o600}
    state.close()


def test_an_empty_record_leaves_no_file(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())
    save(state, RoleRecord())

    assert not list((tmp_path / "state").glob("role-*"))
    state.close()


def test_a_record_of_another_boot_is_revoked_and_not_served(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())
    state.close()

    again, _ = opened(tmp_path / "state", boot="b2")
    left = again.load(ROLE)

    assert left.current is None
    assert {each.lease_id for each in left.retired} == {"old", "lease-1"}
    assert left.proposed == "p"
    again.close()


def test_a_record_of_another_holder_is_not_ours(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())
    state.close()

    again, incarnation = opened(tmp_path / "state", holder="web-1", least=3)

    assert again.load(ROLE) == RoleRecord()
    assert incarnation == 3
    again.close()


def test_a_record_of_another_upstream_is_neither_served_nor_revoked_there(
    tmp_path: Path, lines: Sequence[MutableMapping[str, Any]]
) -> None:
    """Its id would be buried at a server that never had it, while the user at the old one lives on unnamed."""
    state, _ = opened(tmp_path / "state")
    save(state, record())
    state.close()

    again, _ = opened(tmp_path / "state", upstream="postgresql.other")

    assert again.load(ROLE) == RoleRecord()
    assert [line["event"] for line in lines] == [Event.STATE_FAILED]
    assert "another upstream" in lines[0]["error"]
    again.close()


def test_the_record_of_a_role_that_is_gone_is_removed_with_its_password(
    tmp_path: Path, lines: Sequence[MutableMapping[str, Any]]
) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())

    state.forget_others({ROLE})
    assert state.load(ROLE) == record()
    state.forget_others({"database/creds/new"})

    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["holder.json", "lock"]
    assert [line["event"] for line in lines] == [Event.STATE_FAILED]
    state.close()


def test_two_agents_do_not_share_a_state_directory(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")

    with pytest.raises(StartError, match="in use by another agent"):
        opened(tmp_path / "state")
    state.close()


def test_a_directory_that_others_may_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state").chmod(0o755)

    with pytest.raises(StartError, match="chmod 0700"):
        opened(tmp_path / "state")


def test_a_disk_is_refused_unless_told(tmp_path: Path) -> None:
    disk = Path(__file__).parent / "no-such-state"

    with pytest.raises(StartError, match="state_allow_disk"):
        StateDir(disk, holder="h", boot="b").open(1)


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 1}', b'{"version": 9}', b"[]", b"\xff" * 100])
def test_what_cannot_be_read_is_ignored(tmp_path: Path, content: bytes) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())
    (path,) = (tmp_path / "state").glob("role-*")
    path.write_bytes(content)

    assert state.load(ROLE) == RoleRecord()
    state.close()


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    save(state, record())
    (path,) = (tmp_path / "state").glob("role-*")
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")

    assert state.load(ROLE) == RoleRecord()
    state.close()


def test_a_full_volume_does_not_stop_the_agent(tmp_path: Path) -> None:
    state, _ = opened(tmp_path / "state")
    os.rename(tmp_path / "state", tmp_path / "gone")

    save(state, record())

    state.close()


def test_a_cancelled_save_never_comes_after_a_later_one(tmp_path: Path) -> None:
    """Its thread cannot be stopped; what it would leave is a record of leases that are gone."""
    state, _ = opened(tmp_path / "state")
    began, go_on = threading.Event(), threading.Event()

    def hold_up() -> None:
        began.set()
        go_on.wait(10.0)

    async def cancelled_then_empty() -> None:
        early = asyncio.create_task(state.save(ROLE, record()))
        assert await asyncio.to_thread(began.wait, 10.0)
        early.cancel()
        later = asyncio.create_task(state.save(ROLE, RoleRecord()))
        await asyncio.wait([later], timeout=0.2)
        go_on.set()
        await later

    with armed(Failpoint.FILE_STAGED, hold_up):
        asyncio.run(cancelled_then_empty())
    for thread in threading.enumerate():
        if thread.name == "file work":
            thread.join()

    assert not list((tmp_path / "state").glob("role-*"))
    state.close()


def test_a_boot_has_a_name() -> None:
    assert boot_id() == boot_id()
    assert boot_id()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("generation", 1e400),
        ("generation", 2**64),
        ("generation", -1),
        ("proposed", None),
        ("proposed", "\ud800"),
        ("verified", "no"),
        ("retired", [{"id": "x", "revoke_at": math.nan, "ends_at": 1.0, "published": True, "tried": False}]),
        ("current.issued_at", math.nan),
        ("current.jitter", 2.0),
        ("current.first.ttl", math.inf),
        ("current.first.ttl", -1.0),
        ("current.first.renewable", 1),
        ("current.first.id", ""),
        ("current.first.data", {}),
        ("current.first.data", {"password": 1}),
    ],
)
def test_a_record_that_is_wrong_anywhere_is_ignored_as_a_whole(
    tmp_path: Path, lines: Sequence[MutableMapping[str, Any]], key: str, value: object
) -> None:
    """Half a lease, or one that never ends, is worse than none: the sweep reaps what is not taken over."""
    state, _ = opened(tmp_path)
    save(state, record())
    (path,) = tmp_path.glob("role-*.json")
    document = json.loads(path.read_text())
    *way, last = key.split(".")
    node = document
    for part in way:
        node = node[part]
    node[last] = value
    path.write_text(json.dumps(document))

    assert state.load(ROLE) == RoleRecord()

    assert [line["event"] for line in lines] == [Event.STATE_FAILED]
    state.close()


def test_nesting_beyond_all_bounds_is_no_record(tmp_path: Path) -> None:
    state, _ = opened(tmp_path)
    save(state, record())
    (path,) = tmp_path.glob("role-*.json")
    path.write_text("[" * 100_000)

    assert state.load(ROLE) == RoleRecord()
    state.close()


@pytest.mark.parametrize("name", ["lock", "holder.json"])
def test_what_stands_in_a_files_place_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "state").mkdir(0o700)
    (tmp_path / "state" / name).mkdir()

    with pytest.raises(StartError, match=name):
        opened(tmp_path / "state")


@pytest.mark.timeout(10)
def test_a_pipe_in_a_files_place_holds_nothing_up(tmp_path: Path) -> None:
    """Whoever plants it waits for us to wait for it."""
    (tmp_path / "state").mkdir(0o700)
    os.mkfifo(tmp_path / "state" / "holder.json", 0o600)

    state, incarnation = opened(tmp_path / "state")
    save(state, record())
    (path,) = (tmp_path / "state").glob("role-*.json")
    path.unlink()
    os.mkfifo(path, 0o600)

    assert incarnation == 5
    assert state.load(ROLE) == RoleRecord()
    state.close()
