"""Files: what must hold before the first file is written, and what is left after the last."""

import asyncio
import errno
import os
import threading
from pathlib import Path

import pytest

from agent.config import model
from agent.errors import ConfigError, StartError
from agent.failpoints import Failpoint, armed
from agent.files.files import Files
from agent.leases.cache import LeaseCache
from tests.fakes import FakeClock, settle
from tests.unit.files.builders import OTHER, ROLE, House, Scarce, inline, role, template

BOTH = f"{{{{ secret('{ROLE}').data.password }}}}+{{{{ secret('{OTHER}').data.password }}}}"


# -- start ----------------------------------------------------------------------------------------------------------


async def test_written_waits_for_required_eager_files_only(tmp_path: Path, clock: FakeClock) -> None:
    roles = {ROLE: role(), OTHER: role(required=False)}
    templates = [template(tmp_path), template(tmp_path, "other", contents=BOTH, roles=(ROLE, OTHER))]
    async with House(tmp_path, clock, templates, roles=roles) as house:
        waiting = asyncio.create_task(house.files.written())
        await settle()
        assert not waiting.done()
        assert not house.files.all_written

        await house.publish(ROLE)

        assert waiting.done()
        assert house.files.all_written


async def test_a_lazy_roles_file_does_not_hold_up_the_start(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)], roles={ROLE: role(lazy=True)}) as house:
        await house.files.written()

        assert house.files.all_written


async def test_a_file_that_holds_the_bytes_already_counts_as_written(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "creds").write_text("pw")
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish()

        assert house.files.all_written


async def test_every_mistake_is_told_at_once(tmp_path: Path, clock: FakeClock) -> None:
    templates = [
        template(tmp_path, "a", contents="{{ nope }}"),
        template(tmp_path, "b", contents="{% if %}"),
        template(tmp_path, "c", user="no-such-user", group="no-such-group"),
        template(Path("/proc/self"), "d", allow_disk=False),
    ]
    files = Files(templates, model.TemplateConfig(), {ROLE: role()}, LeaseCache([ROLE]), clock, run_blocking=inline)

    with pytest.raises(ConfigError) as caught:
        await files.prepare()

    mistakes = caught.value.mistakes
    assert f"template \"{tmp_path}/a\": line 1: 'nope' is undefined" in mistakes
    assert sum(line.startswith(f'template "{tmp_path}/b": line 1') for line in mistakes) == 1
    assert f'template "{tmp_path}/c": user = "no-such-user" does not exist here: use its number' in mistakes
    assert f'template "{tmp_path}/c": group = "no-such-group" does not exist here: use its number' in mistakes
    assert any("mount a tmpfs there" in line and "allow_disk = true" in line for line in mistakes)
    assert len(mistakes) == 5


async def test_a_disk_is_refused_by_path_with_both_remedies(clock: FakeClock) -> None:
    templates = [template(Path("/proc/self"), allow_disk=False)]
    files = Files(templates, model.TemplateConfig(), {ROLE: role()}, LeaseCache([ROLE]), clock, run_blocking=inline)

    with pytest.raises(StartError, match=r'template "/proc/self/creds": does not lie on .*tmpfs.*allow_disk = true'):
        await files.prepare()


async def test_the_directory_is_made_for_the_agent_and_its_group(tmp_path: Path, clock: FakeClock) -> None:
    gid = 2345 if os.geteuid() == 0 else os.getegid()
    async with House(tmp_path, clock, [template(tmp_path / "new", group=str(gid))]) as house:
        await house.publish()

        directory = tmp_path / "new"
        assert (directory.stat().st_mode & 0o7777, directory.stat().st_gid) == (0o750, gid)
        assert (directory / "creds").stat().st_gid == gid


async def test_a_directory_that_others_can_write_stops_the_start(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)

    with pytest.raises(StartError, match="can be written by others"):
        await House(tmp_path, clock, [template(tmp_path / "open")]).files.prepare()


async def test_a_directory_in_the_files_place_stops_the_start(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "creds").mkdir()

    with pytest.raises(StartError, match="is a directory: remove it"):
        await House(tmp_path, clock, [template(tmp_path)]).files.prepare()


async def test_a_place_where_nothing_can_be_written_stops_the_start(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)

    with pytest.raises(StartError, match="Operation not permitted: run the agent as that user, or grant it CAP_CHOWN"):
        await House(tmp_path, clock, [template(tmp_path, user="1234")]).files.prepare()


async def test_what_a_killed_run_left_half_written_is_gone_after_the_start(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / ".leasehold-0123456789abcdef.tmp").write_text("half a secret")

    async with House(tmp_path, clock, [template(tmp_path)]):
        assert os.listdir(tmp_path) == []


# -- stop -----------------------------------------------------------------------------------------------------------


async def test_at_the_end_all_files_are_removed_those_of_an_earlier_run_too(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "earlier").write_text("old")
    earlier = template(tmp_path, "earlier", contents=BOTH, roles=(ROLE, OTHER))
    async with House(tmp_path, clock, [template(tmp_path), earlier]) as house:
        await house.publish()
        await house.stop()

        assert await house.files.remove() == []

        assert os.listdir(tmp_path) == []
        assert [state.state for state in house.files.states()] == ["removed", "removed"]


async def test_what_cannot_be_removed_is_named_and_the_rest_is_removed(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path, "stuck"), template(tmp_path)]) as house:
        await house.publish()
        house.path("stuck").unlink()
        house.path("stuck").mkdir()

        (left,) = await house.files.remove()

        assert left.startswith(f"{tmp_path}/stuck cannot be removed")
        assert os.listdir(tmp_path) == ["stuck"]


async def test_a_write_under_way_at_the_stop_leaves_no_file_behind(tmp_path: Path, clock: FakeClock) -> None:
    """A thread outlives its cancelled task: its file must not appear after all files were removed."""
    staged, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        staged.set()
        go_on.wait(10)

    async with House(tmp_path, clock, [template(tmp_path)], run_blocking=asyncio.to_thread) as house:
        with armed(Failpoint.FILE_STAGED, hold):
            await house.publish()
            await asyncio.to_thread(staged.wait, 10)
            await house.stop()
            removing = asyncio.create_task(house.files.remove())
            go_on.set()

            assert await removing == []

        assert os.listdir(tmp_path) == []


async def test_nothing_is_written_after_the_removal(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.files.remove()

        await house.publish()

        assert house.text() is None


async def test_a_stopped_run_ends_for_good(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.stop()

        await house.publish()

        assert house.text() is None


async def test_its_repr_shows_the_states(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        assert repr(house.files) == f"Files(Keeper({tmp_path}/creds, unwritten))"
        assert house.files.states()[0].as_dict() == {
            "path": f"{tmp_path}/creds",
            "state": "unwritten",
            "error": "",
            "generations": {},
        }


async def test_a_stop_without_a_thread_names_the_file_that_is_left(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)], run_blocking=(scarce := Scarce())) as house:
        await house.publish()
        await house.stop()
        scarce.gone = True

        left = await house.files.remove()

    assert left == [f"{tmp_path}/creds cannot be removed: no thread to be had"]
