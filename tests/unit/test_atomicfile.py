"""atomicfile: whole files, right from their first instant, in directories that nobody else can tamper with."""

import errno
import os
import secrets
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from agent import atomicfile
from agent.errors import StartError
from agent.failpoints import Failpoint, armed

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def names_in(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


# -- write ----------------------------------------------------------------------------------------------------------


def test_a_new_file_has_the_bytes_and_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    before = os.umask(0o077)

    try:
        assert atomicfile.write(path, b"secret", mode=0o444)
    finally:
        os.umask(before)

    assert path.read_bytes() == b"secret"
    assert mode_of(path) == 0o444
    assert names_in(tmp_path) == ["creds"]


def test_mode_and_owner_are_set_before_the_first_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []
    write = os.write

    def spy(fd: int, data: bytes) -> int:
        found = os.fstat(fd)
        seen.append((stat.S_IMODE(found.st_mode), found.st_gid, found.st_size))
        return write(fd, data)

    monkeypatch.setattr(os, "write", spy)

    gid = 2345 if os.geteuid() == 0 else os.getegid()
    atomicfile.write(tmp_path / "creds", b"secret", mode=0o440, gid=gid)

    assert seen == [(0o440, gid, 0)]


def test_until_then_nobody_else_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    fchmod = os.fchmod

    def spy(fd: int, mode: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(fd).st_mode))
        fchmod(fd, mode)

    monkeypatch.setattr(os, "fchmod", spy)
    before = os.umask(0)

    try:
        atomicfile.write(tmp_path / "creds", b"secret", mode=0o440)
    finally:
        os.umask(before)

    assert seen == [0o600]


def test_a_link_planted_under_the_temps_name_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_hex", lambda size: "0" * 2 * size)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"theirs")
    planted = tmp_path / ".leasehold-0000000000000000.tmp"
    for plant in (planted.symlink_to, planted.hardlink_to):
        plant(elsewhere)

        with pytest.raises(FileExistsError):
            atomicfile.write(tmp_path / "creds", b"secret", mode=0o440)

        planted.unlink()
    assert elsewhere.read_bytes() == b"theirs"


def test_the_staged_file_is_hidden_complete_and_already_right(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_bytes(b"old")
    staged: list[tuple[str, bytes, int]] = []

    def look() -> None:
        (temp,) = set(tmp_path.iterdir()) - {path}
        staged.append((temp.name, temp.read_bytes(), mode_of(temp)))
        assert path.read_bytes() == b"old"

    with armed(Failpoint.FILE_STAGED, look):
        atomicfile.write(path, b"new", mode=0o400)

    ((name, content, mode),) = staged
    assert name.startswith(".")
    assert (content, mode) == (b"new", 0o400)


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    contents = [bytes([65 + n]) * (10_000 + n) for n in range(4)]
    atomicfile.write(path, contents[0], mode=0o600)
    torn: list[bytes] = []
    looks = 0
    done = threading.Event()

    def read() -> None:
        nonlocal looks
        while not done.is_set():
            found = path.read_bytes()
            looks += 1
            if found not in contents:
                torn.append(found[:20])

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(300):
        atomicfile.write(path, contents[n % 4], mode=0o600)
    done.set()
    reader.join()

    assert looks > 0
    assert torn == []


def test_equal_bytes_keep_the_inode_and_the_time(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"same", mode=0o440)
    before = path.stat()

    assert not atomicfile.write(path, b"same", mode=0o440)

    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_drifted_mode_is_repaired_without_a_rewrite(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"same", mode=0o440)
    inode = path.stat().st_ino
    path.chmod(0o666)

    assert not atomicfile.write(path, b"same", mode=0o440)

    assert (mode_of(path), path.stat().st_ino) == (0o440, inode)


@needs_root
def test_a_drifted_owner_is_repaired(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"same", mode=0o440, uid=1234, gid=2345)
    os.chown(path, -1, 0)

    assert not atomicfile.write(path, b"same", mode=0o440, uid=1234, gid=2345)

    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@needs_root
def test_a_strangers_file_with_equal_bytes_is_replaced_since_he_may_hold_it_open(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_bytes(b"same")
    os.chown(path, 1234, 1234)
    inode = path.stat().st_ino

    assert atomicfile.write(path, b"same", mode=0o440)

    assert path.stat().st_ino != inode
    assert path.stat().st_uid == 0


def test_a_file_with_a_second_name_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"same", mode=0o440)
    (tmp_path / "second").hardlink_to(path)

    assert atomicfile.write(path, b"same", mode=0o440)

    assert path.stat().st_nlink == 1


def test_a_symbolic_link_in_its_place_is_replaced_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"same")
    path = tmp_path / "creds"
    path.symlink_to(elsewhere)

    assert atomicfile.write(path, b"same", mode=0o440)

    assert not path.is_symlink()
    assert path.read_bytes() == b"same"
    atomicfile.write(path, b"new", mode=0o440)
    assert elsewhere.read_bytes() == b"same"


def test_a_fifo_in_its_place_is_replaced_without_waiting_for_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    os.mkfifo(path)

    assert atomicfile.write(path, b"", mode=0o440)

    assert path.is_file()


def test_a_directory_in_its_place_is_an_error_and_leaves_no_temp(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.mkdir()

    with pytest.raises(OSError, match="directory") as caught:
        atomicfile.write(path, b"secret", mode=0o440)

    assert caught.value.errno == errno.EISDIR
    assert names_in(tmp_path) == ["creds"]


def test_a_failure_leaves_the_old_file_and_no_temp(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"old", mode=0o440)

    def fail() -> None:
        raise OSError(errno.EIO, "broken")

    with armed(Failpoint.FILE_STAGED, fail), pytest.raises(OSError, match="broken"):
        atomicfile.write(path, b"new", mode=0o440)

    assert path.read_bytes() == b"old"
    assert names_in(tmp_path) == ["creds"]


FULL = """
    import os, resource, sys
    from pathlib import Path
    from agent import atomicfile
    directory = Path(sys.argv[1])
    atomicfile.write(directory / "creds", b"old" * 100, mode=0o440)
    {limit}
    try:
        atomicfile.write(directory / "creds", b"new!" * 100_000, mode=0o440)
    except OSError as error:
        print(error.errno)
    assert (directory / "creds").read_bytes() == b"old" * 100
    print(*(entry.name for entry in directory.iterdir()))
"""


def test_a_file_that_cannot_grow_leaves_the_old_one_and_no_temp(tmp_path: Path) -> None:
    script = textwrap.dedent(FULL.format(limit="resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))"))

    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines() == [str(errno.EFBIG), "creds"]


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root on Linux can mount a small tmpfs")
def test_a_full_memory_volume_leaves_the_old_file_and_no_temp(tmp_path: Path) -> None:
    script = textwrap.dedent(FULL.format(limit=""))
    shell = 'mount -t tmpfs -o size=64k none "$1" && exec "$2" -c "$3" "$1"'

    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", shell, "sh", tmp_path, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
    )

    if done.returncode and "mount" in done.stderr:
        pytest.skip(f"this sandbox lets nobody mount: {done.stderr.strip()}")
    assert (done.stdout.splitlines(), done.stderr) == ([str(errno.ENOSPC), "creds"], "")


# -- after a kill ---------------------------------------------------------------------------------------------------


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from agent import atomicfile
    from agent.failpoints import Failpoint, armed
    with armed(Failpoint.FILE_STAGED, lambda: os.kill(os.getpid(), signal.SIGKILL)):
        atomicfile.write(Path(sys.argv[1]), b"a secret", mode=0o440)
"""


def test_what_a_killed_run_left_half_written_is_cleared_by_the_next(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    atomicfile.write(path, b"old", mode=0o440)

    done = subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), path], check=False)

    assert done.returncode == -signal.SIGKILL
    assert len(names_in(tmp_path)) == 2
    assert atomicfile.clear_stale_temps(tmp_path) == 1
    assert names_in(tmp_path) == ["creds"]
    assert path.read_bytes() == b"old"


def test_a_file_that_is_being_written_is_not_cleared_away(tmp_path: Path) -> None:
    cleared: list[int] = []

    with armed(Failpoint.FILE_STAGED, lambda: cleared.append(atomicfile.clear_stale_temps(tmp_path))):
        atomicfile.write(tmp_path / "creds", b"new", mode=0o440)

    assert cleared == [0]
    assert (tmp_path / "creds").read_bytes() == b"new"


@needs_root
def test_only_our_own_temps_are_cleared(tmp_path: Path) -> None:
    ours, strange, planted = (tmp_path / f".leasehold-{digit * 16}.tmp" for digit in "abc")
    for path in (ours, strange, tmp_path / "notes.tmp", tmp_path / ".leasehold-x.tmp"):
        path.write_bytes(b"")
    os.chown(strange, 1234, 1234)
    planted.symlink_to("notes.tmp")

    assert atomicfile.clear_stale_temps(tmp_path) == 1

    assert names_in(tmp_path) == sorted([strange.name, planted.name, "notes.tmp", ".leasehold-x.tmp"])
    assert atomicfile.clear_stale_temps(tmp_path, uids=[1234]) == 1


def test_clearing_a_directory_that_does_not_exist_is_no_error(tmp_path: Path) -> None:
    assert atomicfile.clear_stale_temps(tmp_path / "missing") == 0


# -- remove, check_writable -----------------------------------------------------------------------------------------


def test_remove_says_whether_there_was_a_file(tmp_path: Path) -> None:
    path = tmp_path / "creds"
    path.write_bytes(b"")

    assert atomicfile.remove(path)
    assert not atomicfile.remove(path)


def test_removing_a_symbolic_link_leaves_its_target(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"")
    (tmp_path / "creds").symlink_to(target)

    assert atomicfile.remove(tmp_path / "creds")

    assert names_in(tmp_path) == ["target"]


def test_a_directory_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "creds").mkdir()

    with pytest.raises(OSError, match="creds"):
        atomicfile.remove(tmp_path / "creds")


def test_a_writable_directory_is_left_as_it_was(tmp_path: Path) -> None:
    atomicfile.check_writable(tmp_path, mode=0o440)

    assert names_in(tmp_path) == []


@needs_root
def test_a_directory_in_which_files_cannot_be_given_away_is_not_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", refuse)

    with pytest.raises(PermissionError):
        atomicfile.check_writable(tmp_path, mode=0o440, uid=1234)

    assert names_in(tmp_path) == []


def test_a_directory_that_does_not_exist_is_not_writable(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        atomicfile.check_writable(tmp_path / "missing", mode=0o440)


# -- own_directory --------------------------------------------------------------------------------------------------


def test_missing_directories_are_made_with_the_mode_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)

    try:
        atomicfile.own_directory(tmp_path / "run" / "leasehold", mode=0o750)
    finally:
        os.umask(before)

    assert mode_of(tmp_path / "run") == 0o750
    assert mode_of(tmp_path / "run" / "leasehold") == 0o750


def test_a_directory_is_never_wider_than_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    mkdir = os.mkdir

    def spy(path: str, mode: int = 0o777) -> None:
        made.append(mode)
        mkdir(path, mode)

    monkeypatch.setattr(os, "mkdir", spy)

    atomicfile.own_directory(tmp_path / "run", mode=0o750)

    assert made == [0o700]


def test_a_setgid_bit_from_above_is_kept(tmp_path: Path) -> None:
    tmp_path.chmod(0o2750)

    atomicfile.own_directory(tmp_path / "run", mode=0o750)

    assert mode_of(tmp_path / "run") == 0o2750


@needs_root
def test_the_group_of_what_is_made_is_as_asked(tmp_path: Path) -> None:
    atomicfile.own_directory(tmp_path / "run", gid=2345)

    assert (tmp_path / "run").stat().st_gid == 2345


def test_an_existing_directory_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(0o755)

    atomicfile.own_directory(tmp_path / "run", mode=0o700)

    assert mode_of(tmp_path / "run") == 0o755


@pytest.mark.parametrize("mode", [0o770, 0o757])
@pytest.mark.parametrize("below", ["", "sub"])
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int, below: str) -> None:
    open_ = tmp_path / "run"
    open_.mkdir()
    (open_ / "sub").mkdir()
    open_.chmod(mode)

    with pytest.raises(StartError, match=f"directory {open_} can be written by others .*chmod go-w {open_}"):
        atomicfile.own_directory(open_ / below)


def test_a_sticky_directory_will_do_on_the_way_and_for_files_but_not_for_a_socket(tmp_path: Path) -> None:
    shared = tmp_path / "emptyDir"
    shared.mkdir()
    shared.chmod(0o3777)

    atomicfile.own_directory(shared / "leasehold")
    atomicfile.own_directory(shared, allow_sticky_leaf=True)
    with pytest.raises(StartError, match=f"of the agent's own in it, such as {shared}/leasehold"):
        atomicfile.own_directory(shared)


@needs_root
@pytest.mark.parametrize("below", ["", "sub"])
def test_a_planted_directory_of_another_uid_is_refused(tmp_path: Path, below: str) -> None:
    planted = tmp_path / "run"
    planted.mkdir()
    os.chown(planted, 1234, 1234)

    with pytest.raises(StartError, match=f"directory {planted} belongs to uid 1234.*chown 0 {planted}"):
        atomicfile.own_directory(planted / below)


@needs_root
def test_a_link_that_only_root_could_make_is_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "run").symlink_to("../run")

    atomicfile.own_directory(tmp_path / "var" / "run" / "leasehold")

    assert (tmp_path / "run" / "leasehold").is_dir()


@needs_root
def test_what_a_trusted_link_points_at_is_judged_as_well(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    (tmp_path / "link").symlink_to(tmp_path / "run")

    with pytest.raises(StartError, match="can be written by others"):
        atomicfile.own_directory(tmp_path / "link")


@needs_root
@pytest.mark.parametrize("whose", ["the link's owner", "the parent's writers"])
def test_a_link_that_others_could_change_is_refused(tmp_path: Path, whose: str) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (tmp_path / "real").mkdir()
    link = shared / "link"
    link.symlink_to(tmp_path / "real")
    if whose == "the link's owner":
        os.lchown(link, 1234, 1234)
    else:
        shared.chmod(0o1777)

    with pytest.raises(StartError, match=f"{link} is a symbolic link that others could change"):
        atomicfile.own_directory(link / "leasehold")


@needs_root
def test_a_ring_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    with pytest.raises(StartError, match="too many symbolic links"):
        atomicfile.own_directory(tmp_path / "a")


def test_a_file_on_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")

    with pytest.raises(StartError, match=f"{tmp_path / 'run'} is not a directory"):
        atomicfile.own_directory(tmp_path / "run" / "leasehold")


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(StartError, match="not an absolute path"):
        atomicfile.own_directory(Path("run"))


def test_a_directory_that_cannot_be_made_names_the_reason_and_is_not_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)

    with pytest.raises(StartError, match=f"directory {tmp_path / 'run'}: Operation not permitted"):
        atomicfile.own_directory(tmp_path / "run", gid=2345)

    assert names_in(tmp_path) == []


# -- on_memory ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this machine has no /dev/shm")  # noqa: S108
def test_shared_memory_is_memory_also_where_the_path_does_not_exist_yet() -> None:
    assert atomicfile.on_memory(Path("/dev/shm"))  # noqa: S108
    assert atomicfile.on_memory(Path("/dev/shm/leasehold-missing/creds"))  # noqa: S108


def test_another_kind_of_file_system_is_not_memory() -> None:
    assert not atomicfile.on_memory(Path("/proc/self"))
