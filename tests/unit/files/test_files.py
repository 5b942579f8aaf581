"""Files: from the cache to the disk, through publishing, renewal, replacement, failure and the end."""

import errno
import itertools
import os
from pathlib import Path

from agent.config import model
from agent.failpoints import Failpoint, armed
from agent.leases.cache import Phase, RoleStatus
from tests.fakes import FakeClock, settle
from tests.unit.files.builders import OTHER, ROLE, House, Scarce, template

BOTH = f"{{{{ secret('{ROLE}').data.password }}}}+{{{{ secret('{OTHER}').data.password }}}}"


def broken(directory: Path, name: str, *, after: str = "") -> model.Template:
    """A template that fails with the password "bad"."""
    password = f"secret('{ROLE}').data.password"
    return template(
        directory, name, contents=f"{{% if {password} == 'bad' %}}{{{{ 1 / 0 }}}}{{% endif %}}{{{{ {password} }}}}"
    )


# -- publish, renew, replace ----------------------------------------------------------------------------------------


async def test_a_published_credential_is_written_with_its_mode(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        assert house.text() is None

        await house.publish(password="one")

        assert house.text() == "one"
        assert house.path().stat().st_mode & 0o777 == 0o440
        (state,) = house.files.states()
        assert (state.state, state.error) == ("written", "")
        assert state.generations == {ROLE: house.cache.read(ROLE, clock.now()).generation}  # type: ignore[union-attr]


async def test_a_replacement_is_written(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(password="one")
        await house.publish(password="two")

        assert house.text() == "two"


async def test_a_renewal_touches_only_files_that_show_a_ttl(tmp_path: Path, clock: FakeClock) -> None:
    shows = template(tmp_path, "dotenv", format="dotenv")
    async with House(tmp_path, clock, [shows, template(tmp_path, "url", format="url")]) as house:
        await house.publish()
        await clock.advance(20)
        assert "DB_TTL=60\n" in (house.text("dotenv") or "")
        house.blocking = 0

        await house.renew(ttl=50)

        assert "DB_TTL=50\n" in (house.text("dotenv") or "")
        assert house.blocking == 1


async def test_a_change_of_status_alone_touches_no_file(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path, format="json")]) as house:
        await house.publish()
        house.blocking = 0

        house.cache.report(ROLE, RoleStatus(phase=Phase.STALE, failures=3, error="no answer"))
        await settle()

        assert house.blocking == 0


async def test_equal_bytes_keep_the_inode(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(password="same")
        inode = house.path().stat().st_ino

        await house.publish(password="same")

        assert house.path().stat().st_ino == inode


async def test_at_every_interval_the_mode_is_repaired_and_the_ttl_refreshed(tmp_path: Path, clock: FakeClock) -> None:
    config = model.TemplateConfig(render_interval=model.Duration(300.0))
    async with House(tmp_path, clock, [template(tmp_path, format="dotenv")], config=config) as house:
        await house.publish(ttl=3600)
        house.path().chmod(0o644)

        await clock.advance(299)
        assert house.path().stat().st_mode & 0o777 == 0o644
        await clock.advance(1)

        assert house.path().stat().st_mode & 0o777 == 0o440
        assert "DB_TTL=3300\n" in (house.text() or "")


async def test_both_roles_of_a_file_are_of_one_moment(tmp_path: Path, clock: FakeClock) -> None:
    """A replacement that comes between taking the credentials and rendering them shows in neither or in both."""
    rendered: list[str | None] = []

    async def late(work):
        if house.blocking == 2:  # the file's second rendering has its snapshots and has not begun
            house.put(OTHER, password="late")
        result = work()
        rendered.append(house.text())
        return result

    house = House(tmp_path, clock, [template(tmp_path, contents=BOTH, roles=(ROLE, OTHER))], run_blocking=late)
    async with house:
        rendered.clear()
        await house.publish(ROLE, password="a1")
        await house.publish(OTHER, password="b1")
        await house.publish(ROLE, password="a2")

        assert rendered == ["a1+b1", "a2+b1", "a2+late"]


async def test_a_file_waits_until_all_its_roles_are_there(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path, contents=BOTH, roles=(ROLE, OTHER))]) as house:
        await house.publish(ROLE, password="a")
        assert house.text() is None

        await house.publish(OTHER, password="b")

        assert house.text() == "a+b"


# -- the end of a credential ----------------------------------------------------------------------------------------


async def test_a_file_outlives_the_margin_and_is_gone_at_its_credentials_end(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(ttl=60, margin=10)

        await clock.advance(59)
        assert house.cache.read(ROLE, clock.now()) is None
        assert house.text() == "pw"
        await clock.advance(1)

        assert house.text() is None
        assert house.files.states()[0].state == "removed"


async def test_renewals_move_the_end_of_a_file_that_shows_none(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(ttl=60)
        await clock.advance(40)
        await house.renew(ttl=60)

        await clock.advance(59)
        assert house.text() == "pw"
        await clock.advance(1)

        assert house.text() is None


async def test_a_withdrawn_credential_takes_its_file_with_it_and_the_next_brings_it_back(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(password="one")

        await house.withdraw()
        assert house.text() is None
        await house.publish(password="two")

        assert house.text() == "two"
        assert house.files.states()[0].state == "written"


async def test_an_earlier_runs_file_stays_until_it_is_replaced(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "creds").write_text("of an earlier run")
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await clock.advance(1000)
        assert house.text() == "of an earlier run"
        assert house.files.states()[0].state == "unwritten"

        await house.publish(password="new")

        assert house.text() == "new"


# -- failures -------------------------------------------------------------------------------------------------------


async def test_a_failing_template_keeps_its_last_good_file_and_touches_no_other(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with House(tmp_path, clock, [broken(tmp_path, "bad"), template(tmp_path, "good")]) as house:
        await house.publish(password="one")
        await house.publish(password="bad")

        assert house.text("bad") == "one"
        assert house.text("good") == "bad"
        bad, good = house.files.states()
        assert (bad.state, good.state) == ("failed", "written")
        assert bad.error == "line 1: ZeroDivisionError in an expression"
        assert list(bad.generations) == [ROLE]
        assert bad.generations != good.generations


async def test_a_failed_rendering_is_tried_again_with_growing_delays(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [broken(tmp_path, "creds")]) as house:
        await house.publish(password="bad", ttl=10_000)
        tries = []

        for _ in range(200):
            before = house.blocking
            await clock.advance(1)
            tries += [clock.now()] * (house.blocking - before)

        assert [later - earlier for earlier, later in itertools.pairwise(tries)] == [2, 4, 8, 16, 32, 60, 60]


async def test_another_credential_is_tried_at_once(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [broken(tmp_path, "creds")]) as house:
        await house.publish(password="bad", ttl=10_000)
        await clock.advance(40)

        await house.publish(password="good")

        assert house.text() == "good"
        assert house.files.states()[0].error == ""


async def test_control_characters_fail_the_file_and_the_state_does_not_show_them(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(password="geheim\n")

        (state,) = house.files.states()
        assert state.state == "failed"
        assert 'field "password" holds control characters' in state.error
        assert "geheim" not in repr(house.files.states())


async def test_a_full_volume_keeps_the_old_file_says_so_and_recovers(tmp_path: Path, clock: FakeClock) -> None:
    def full() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish(password="one")
        with armed(Failpoint.FILE_STAGED, full):
            await house.publish(password="two")
            await clock.advance(3)
        assert house.text() == "one"
        assert os.listdir(tmp_path) == ["creds"]
        assert house.files.states()[0].error == "cannot be written: No space left on device: enlarge the volume"

        await clock.advance(4)

        assert house.text() == "two"


async def test_a_credential_that_ends_while_its_successor_cannot_be_written_is_removed(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with House(tmp_path, clock, [broken(tmp_path, "creds")]) as house:
        await house.publish(password="one", ttl=20)
        await clock.advance(10)
        await house.publish(password="bad", ttl=1000)

        await clock.advance(9)
        assert house.text() == "one"
        await clock.advance(1)

        assert house.text() is None


async def test_a_file_that_cannot_be_removed_is_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)]) as house:
        await house.publish()
        house.path().unlink()
        house.path().mkdir()

        await house.withdraw()
        assert house.files.states()[0].state == "failed"
        assert "cannot be removed" in house.files.states()[0].error
        house.path().rmdir()
        house.path().write_text("again")
        await clock.advance(1)

        assert house.text() is None


async def test_without_a_thread_the_last_good_file_stays_and_is_tried_again(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)], run_blocking=(scarce := Scarce())) as house:
        await house.publish(password="one")
        scarce.gone = True
        await house.publish(password="two")
        (failed,) = house.files.states()
        kept = house.text()
        scarce.gone = False
        await clock.advance(1.1)

        assert (failed.state, failed.error, kept) == ("failed", "cannot be written: no thread to be had", "one")
        assert house.text() == "two"


async def test_without_a_thread_an_ended_credentials_file_is_removed_later(tmp_path: Path, clock: FakeClock) -> None:
    async with House(tmp_path, clock, [template(tmp_path)], run_blocking=(scarce := Scarce())) as house:
        await house.publish(ttl=10.0)
        scarce.gone = True
        await clock.advance(10.5)
        kept = house.text()
        scarce.gone = False
        await clock.advance(2.5)

        assert (kept, house.text()) == ("pw", None)
