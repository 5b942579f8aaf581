"""The socket's path: taken safely, given back only if still ours."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import pytest

from agent.api.binding import bind
from agent.errors import StartError
from tests.unit.api.world import READ, World, listening


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_whoever_sees_the_path_can_connect_and_sees_its_mode(directory: Path) -> None:
    """A thread looks at the path all the time, while it is taken and given back again and again."""
    path = directory / "s"
    seen: list[int] = []
    refused: list[OSError] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                seen.append(mode_of(path))
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(str(path))
            except FileNotFoundError:
                continue
            except ConnectionRefusedError as error:
                refused.append(error)

    # The listening sockets stay open a while longer: what the watcher meets is the state of the path alone.
    earlier: deque[socket.socket] = deque()
    watcher = threading.Thread(target=watch)
    previous = os.umask(0)  # the most permissive there is
    try:
        watcher.start()
        for n in range(20_000):
            binding = bind(path, mode=0o640)
            earlier.append(binding.sock.dup())
            binding.release()
            if len(earlier) > 50:
                earlier.popleft().close()
            if n >= 200 and len(seen) >= 50:
                break
    finally:
        done.set()
        watcher.join()
        os.umask(previous)
        for sock in earlier:
            sock.close()

    assert set(seen) == {0o640}
    assert refused == []


def test_the_socket_has_the_owner_it_was_given(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a socket away")
    binding = bind(directory / "s", mode=0o660, user="1234", group="2000")

    found = (directory / "s").lstat()
    binding.release()

    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2000, 0o660)


def test_a_name_the_system_does_not_know_is_refused(directory: Path) -> None:
    with pytest.raises(StartError, match=r"socket_group: this system has no 'no-such-group'; use a number"):
        bind(directory / "s", mode=0o660, group="no-such-group")


def test_a_missing_directory_is_made_for_the_group(directory: Path) -> None:
    path = directory / "run" / "s"

    bind(path, mode=0o660).release()

    assert mode_of(path.parent) == 0o750


def test_a_directory_that_others_can_write_is_refused(directory: Path) -> None:
    directory.chmod(0o777)

    with pytest.raises(StartError, match="can be written by others"):
        bind(directory / "s", mode=0o660)

    assert list(directory.iterdir()) == []


def test_a_socket_that_somebody_listens_on_is_left_alone(directory: Path) -> None:
    path = directory / "s"
    with listening(path) as theirs:
        theirs.setblocking(False)
        with pytest.raises(StartError, match=r"is in use: stop who listens there"):
            bind(path, mode=0o660)
        theirs.accept()[0].close()  # our probe

        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))

    assert {entry.name for entry in directory.iterdir()} == {"s"}


def test_a_socket_whose_backlog_is_full_counts_as_in_use(directory: Path) -> None:
    path = directory / "s"
    with listening(path) as theirs:
        theirs.listen(0)
        with socket.socket(socket.AF_UNIX) as waiting:
            waiting.connect(str(path))
            with pytest.raises(StartError, match="is in use"):
                bind(path, mode=0o660)


@pytest.mark.parametrize("kind", ["file", "directory", "symlink", "fifo"])
def test_what_is_no_socket_is_left_alone(directory: Path, kind: str) -> None:
    path = directory / "s"
    (directory / "target").write_text("precious")
    match kind:
        case "file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "symlink":
            path.symlink_to(directory / "target")
        case _:
            os.mkfifo(path)
    before = path.lstat()

    with pytest.raises(StartError, match="exists and is not a socket") as caught:
        bind(path, mode=0o660)

    assert path.lstat() == before
    assert "\n" not in str(caught.value)


def test_an_abandoned_socket_is_replaced(directory: Path) -> None:
    path = directory / "s"
    listening(path).close()

    binding = bind(path, mode=0o640)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))

    assert mode_of(path) == 0o640
    binding.release()
    assert list(directory.iterdir()) == []


def test_what_a_killed_agent_left_is_replaced(directory: Path) -> None:
    """Socket, lock and the private name of one that died between binding and renaming."""
    path = directory / "s"
    listening(directory / ".s~").close()
    code = "import sys,time;from pathlib import Path;from agent.api.binding import bind;"
    code += "b=bind(Path(sys.argv[1]),mode=0o660);print('up',flush=True);time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        with pytest.raises(StartError, match="another agent holds"):
            bind(path, mode=0o660)
        process.send_signal(signal.SIGKILL)

    binding = bind(path, mode=0o660)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    binding.release()

    assert list(directory.iterdir()) == []


def test_a_file_at_the_private_name_is_left_alone(directory: Path) -> None:
    (directory / ".s~").write_text("precious")

    with pytest.raises(StartError, match="is not a socket"):
        bind(directory / "s", mode=0o660)

    assert {entry.name for entry in directory.iterdir()} == {".s~"}


def test_a_path_that_is_another_s_by_now_is_not_removed(directory: Path) -> None:
    path = directory / "s"
    binding = bind(path, mode=0o660)
    path.unlink()
    with listening(path):
        binding.release()

        assert path.is_socket()


def test_a_path_too_long_for_a_socket_is_refused_in_one_line(directory: Path) -> None:
    path = directory / ("x" * 100)

    with pytest.raises(StartError, match=r"at most 105 will do: choose a shorter") as caught:
        bind(path, mode=0o660)

    assert "\n" not in str(caught.value)


def test_the_longest_path_that_is_promised_works(directory: Path) -> None:
    path = directory / ("x" * (105 - len(str(directory)) - 1))

    bind(path, mode=0o660).release()


def test_a_lock_that_is_a_link_is_not_followed(directory: Path) -> None:
    (directory / "s.lock").symlink_to(directory / "elsewhere")

    with pytest.raises(StartError, match=r"lock .*s\.lock"):
        bind(directory / "s", mode=0o660)

    assert not (directory / "elsewhere").exists()


async def test_a_second_server_is_refused_while_the_first_lives(world: World) -> None:
    world.publish()

    async with world.serving():
        with pytest.raises(StartError, match="is in use"):
            await world.server().start()
        assert (await world.ask(READ)).status == 200

    async with world.serving():
        assert (await world.ask(READ)).status == 200


async def test_a_server_that_could_not_start_stops_without_harm(world: World) -> None:
    world.publish()

    async with world.serving():
        second = world.server()
        with pytest.raises(StartError):
            await second.start()
        await second.stop(1.0)
        assert (await world.ask(READ)).status == 200
