"""What others plant where the agent puts its socket, its state and its files, before it starts and while it runs
(promises 8 and 9): nothing of theirs is followed, written to or removed, and one line names it.

The rules of one directory or file have their unit tests; here it is the program with all its places.
"""

import os
import socket
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.atomicfile import on_memory
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, as_uid, credential, eventually, from_file, log_in
from tests.acceptance.neighbour import LOOKS, STRANGER, unharmed
from tests.acceptance.others import NOBODY, environment, python_of_others
from tests.acceptance.scenes import ROLE, document, file_of, leased, place_of
from tests.fix_postgres import Database

pytestmark = LOOKS


def with_places(place: Path, database: Database, **role: object) -> Any:
    """Socket, state and file in directories of their own; the file is looked after every second."""
    text = document(place, database, **role)
    text["agent"] |= {"state_dir": str(place / "state"), "state_allow_disk": not on_memory(place)}
    text["listener"]["unix"]["address"] = str(place / "run" / "agent.sock")
    text["template_config"] = {"render_interval": "1s"}
    return text


def rotated(agent: Agent) -> None:
    """Ask for a replacement, and wait until the socket serves it."""
    before = agent.read(ROLE).username
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}/rotate", method="POST").status == 202)
    assert eventually(lambda: agent.read(ROLE).username != before)


# -- before the start -------------------------------------------------------------------------------------------------


def a_directory(path: Path) -> None:
    path.mkdir()


def a_file(path: Path) -> None:
    path.write_text("precious")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_link(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def a_listener(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
        _listening.append(sock.dup())


_listening: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _nobody_listens() -> Iterator[None]:
    yield
    while _listening:
        _listening.pop().close()


@pytest.mark.parametrize(
    ("name", "plant"),
    [
        ("run/agent.sock", a_pipe),
        ("run/agent.sock", a_listener),
        ("run/agent.sock.lock", a_link),
        ("secrets/db-creds", a_directory),
        ("state/lock", a_link),
        ("state/holder.json", a_directory),
        ("run", a_file),
    ],
)
def test_what_stands_in_the_way_of_the_start_is_named_and_left_alone(
    run_agent: RunAgent, database: Database, place: Path, name: str, plant: Callable[[Path], None]
) -> None:
    planted = place / name
    planted.parent.mkdir(mode=0o700, exist_ok=True)
    plant(planted)
    before = planted.lstat()

    agent = run_agent(with_places(place, database))

    assert agent.wait() == 3, agent.stderr
    (line,) = [line for line in agent.stderr.splitlines() if line.startswith("leasehold: ")]
    assert str(planted) in line
    after = planted.lstat()
    assert (after.st_ino, after.st_mode, after.st_size) == (before.st_ino, before.st_mode, before.st_size)
    assert "Traceback" not in agent.stderr
    assert leased(database) == set()


def test_what_can_be_replaced_is_replaced_and_never_followed_nor_waited_for(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """A link where the file goes, pipes where state is read: the victims keep their bytes, the start does not wait."""
    victim = place / "victim"
    victim.write_text("precious")
    for name in ("secrets", "state"):
        (place / name).mkdir(0o750 if name == "secrets" else 0o700)
    (place / "secrets" / "db-creds").symlink_to(victim)
    os.mkfifo(place / "state" / "holder.json", 0o600)

    agent = run_agent(with_places(place, database)).wait_ready()

    assert victim.read_text() == "precious"
    assert stat.S_ISREG(agent.file.lstat().st_mode)
    assert from_file(agent.file).username == agent.read(ROLE).username
    assert stat.S_ISREG((place / "state" / "holder.json").lstat().st_mode)


def test_in_a_directory_that_everybody_may_write_others_cannot_take_the_files_name(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """A sticky volume, as an emptyDir in memory is, and an agent that is not root: what another user planted first is
    named with its owner; once it is gone the file is ours, and no other user can remove, replace or read it."""
    python = python_of_others()
    shared = place / "secrets"
    shared.mkdir()
    shared.chmod(0o1777)
    home = place / "nobody"
    home.mkdir()
    password = home / "password"
    password.write_text(database.admin_password.reveal())
    for path in (home, password):
        os.chown(path, NOBODY, NOBODY)
    text = document(home, database)
    text["postgresql"]["password_file"] = str(password)
    text["template"] = [file_of(place)]
    how: Any = {"python": python, "environment": environment(), "uid": NOBODY}
    planted = shared / "db-creds"
    with as_uid(STRANGER):
        planted.write_text("planted")

    refused = run_agent(text, **how)
    assert refused.wait() == 3, refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("leasehold: ")]
    assert f"belongs to uid {STRANGER}" in line
    planted.unlink()
    agent = run_agent(text, **how).wait_ready()

    with as_uid(STRANGER):
        (shared / "mine").symlink_to("/etc/passwd")
        for attack in (planted.unlink, planted.read_text, planted.touch, lambda: (shared / "mine").rename(planted)):
            with pytest.raises(PermissionError):
                attack()
    with as_uid(NOBODY):
        served = agent.ask(f"/v1/{ROLE}")
    assert from_file(planted).username == credential(served).username
    assert agent.stop() == 0
    assert not planted.exists()


# -- while it runs ----------------------------------------------------------------------------------------------------


def test_what_is_planted_in_a_files_place_is_gone_at_the_next_look(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """A link to a victim, a pipe, a second name of the file, forged content, held open by the app all the while."""
    victim = place / "victim"
    victim.write_text("precious")
    agent = run_agent(with_places(place, database)).wait_ready()

    def ours() -> bool:
        found = agent.file.lstat()
        return stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_mode & 0o777 == 0o440

    with unharmed(agent), agent.file.open() as app:
        first = app.read()
        other = place / "secrets" / "another-name"
        os.link(agent.file, other)
        assert eventually(ours, within=4.0)
        assert other.read_text() == first
        for plant in (lambda: agent.file.symlink_to(victim), lambda: os.mkfifo(agent.file), lambda: a_file(agent.file)):
            agent.file.unlink()
            plant()
            assert eventually(ours, within=4.0)
            assert from_file(agent.file).username == agent.read(ROLE).username
        rotated(agent)
        assert eventually(lambda: from_file(agent.file).username == agent.read(ROLE).username)
        app.seek(0)
        assert app.read() == first, "who holds the file open reads what it held"

    assert victim.read_text() == "precious"
    assert not agent.logged("file-failed")


def test_a_directory_that_is_opened_or_swapped_gets_no_secret_until_it_is_right_again(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """One file's place goes bad: it is named, nothing is written there, and the other file goes on."""
    text = with_places(place, database)
    text["template"].append({**text["template"][0], "destination": str(place / "beside" / "db-creds")})
    agent = run_agent(text).wait_ready()
    beside, elsewhere = place / "beside" / "db-creds", place / "elsewhere"
    elsewhere.mkdir()

    def failed() -> str:
        return str(agent.health()["files"][0]["error"])

    with unharmed(agent):
        agent.file.parent.chmod(0o777)
        old = agent.file.read_bytes()
        rotated(agent)
        assert eventually(lambda: "can be written by others" in failed())
        assert agent.file.read_bytes() == old
        assert eventually(lambda: from_file(beside).username == agent.read(ROLE).username)

        agent.file.parent.chmod(0o750)
        agent.file.parent.rename(place / "away")
        agent.file.parent.symlink_to(elsewhere)
        os.lchown(agent.file.parent, STRANGER, STRANGER)  # root's own, in root's own directory, is nobody's attack
        assert eventually(lambda: "symbolic link" in failed())
        assert list(elsewhere.iterdir()) == []

        agent.file.parent.unlink()
        assert eventually(lambda: agent.file.exists() and failed() == "", within=15.0)
        assert from_file(agent.file).username == agent.read(ROLE).username

    assert len(agent.logged("file-failed")) < 12
    assert not agent.logged("file-failed", path=str(beside))


def fill(path: Path) -> None:
    """Until nothing more goes in."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(descriptor, b"x" * 4096)
    except OSError:
        return
    finally:
        os.close(descriptor)


@pytest.fixture
def small_volume(place: Path) -> Iterator[Path]:
    """A memory volume of 64 KiB."""
    volume = place / "secrets"
    volume.mkdir(0o750)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=750", "tmpfs", str(volume)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount here")
    yield volume
    while subprocess.run(["umount", str(volume)], capture_output=True, check=False).returncode == 0:
        pass


def test_a_volume_that_is_full_or_gone_is_named_and_no_secret_falls_on_the_disk_below(
    run_agent: RunAgent, database: Database, place: Path, small_volume: Path
) -> None:
    """The last good file stays while there is no room, and the new one comes as soon as there is."""
    text = with_places(place, database)
    text["template"][0]["allow_disk"] = False
    agent = run_agent(text).wait_ready()

    def failed() -> str:
        return str(agent.health()["files"][0]["error"])

    with unharmed(agent):
        before = from_file(agent.file)
        filler = small_volume / "filler"
        fill(filler)
        rotated(agent)
        assert eventually(lambda: "enlarge the volume" in failed())
        assert from_file(agent.file) == before
        with log_in(place_of(database), before) as app:
            app.execute("SELECT 1")
        filler.unlink()
        assert eventually(lambda: from_file(agent.file).username == agent.read(ROLE).username, within=15.0)

    if not on_memory(place):
        subprocess.run(["umount", str(small_volume)], check=True)
        assert eventually(lambda: "memory file system is gone" in failed())
        assert list(small_volume.iterdir()) == []
