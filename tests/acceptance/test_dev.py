"""`leasehold dev`: one command shows it all, and nothing is left when it goes, however it goes."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from agent.dev.binaries import newest
from agent.dev.watchdog import descendants
from agent.errors import StartError
from tests.acceptance.harness import Client, Program, credential, eventually, from_file, log_in, runs
from tests.acceptance.others import NOBODY, as_root, environment, python_of_others
from tests.acceptance.test_files import sourced

OPTIONS = ("dev", "--ttl", "10s", "--max-ttl", "20s")


@pytest.fixture(autouse=True)
def _postgres() -> None:
    """These tests start a server of their own, as a user does."""
    try:
        newest()
    except StartError as missing:
        pytest.skip(str(missing))


def announced(program: Program) -> dict[str, Any]:
    """The line of --json, once it is there."""
    assert eventually(lambda: "\n" in program.stdout or program.code is not None, within=40.0)
    assert program.stdout, program.stderr
    found: dict[str, Any] = json.loads(program.stdout)
    return found


def servers_of(program: Program) -> dict[int, Path]:
    """Its PostgreSQL: process id and data directory."""
    found = {}
    for pid in descendants(program.pid):
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if "-D" in words:
            found[pid] = Path(words[words.index("-D") + 1])
    return found


def gone(pids: list[int], directories: list[Path]) -> bool:
    return not any(map(runs, pids)) and not any(path.exists() for path in directories)


def test_json_is_one_line_and_the_end_is_clean(place: Path, started: list[Program]) -> None:
    """Exactly one line with socket, file, role and conninfo; both doors work; SIGINT leaves nothing."""
    dev = Program([*OPTIONS, "--json"], place)
    started.append(dev)

    line = announced(dev)

    assert set(line) == {"socket", "file", "role", "conninfo"}
    words: dict[str, Any] = dict(conninfo_to_dict(line["conninfo"]))
    assert set(words) == {"host", "port", "dbname", "sslmode"}
    with Client(Path(line["socket"])) as client:
        served = credential(client.ask(f"/v1/{line['role']}"))
    for held in (served, from_file(Path(line["file"])), sourced(Path(line["file"]))):
        with log_in(words, held) as app:
            assert app.execute("SELECT count(*) FROM reports").fetchall() == [(1,)]
    servers = servers_of(dev)
    assert len(servers) == 1
    pids = descendants(dev.pid)
    places = [Path(line["socket"]).parent, *(data.parent for data in servers.values())]

    code = dev.stop(signal.SIGINT)

    assert code == 0
    assert len(dev.stdout.splitlines()) == 1
    assert eventually(lambda: gone(pids, places), within=5.0), (pids, places)


def test_kill_9_takes_the_server_along(place: Path, started: list[Program]) -> None:
    """The watchdog ends the server and removes its directory when nobody else can."""
    directory = place / "dev"
    dev = Program([*OPTIONS, "--json", "--dir", str(directory)], place)
    started.append(dev)
    line = announced(dev)
    assert Path(line["socket"]).parent == directory
    servers = servers_of(dev)
    pids = descendants(dev.pid)
    assert servers

    dev.end()

    assert eventually(lambda: gone(pids, [data.parent for data in servers.values()]), within=30.0)


def test_kill_9_takes_its_directory_in_memory_along(place: Path, started: list[Program]) -> None:
    dev = Program([*OPTIONS, "--json"], place)
    started.append(dev)
    made = Path(announced(dev)["socket"]).parent

    dev.end()

    assert eventually(lambda: not made.exists(), within=30.0)


def test_a_closed_terminal_ends_it(place: Path, started: list[Program]) -> None:
    """SIGHUP: nobody could press Ctrl-C any more."""
    dev = Program([*OPTIONS, "--json"], place)
    started.append(dev)
    made = Path(announced(dev)["socket"]).parent

    os.kill(dev.pid, signal.SIGHUP)

    assert eventually(lambda: not made.exists(), within=30.0)


def test_what_it_prints_can_be_copied(place: Path, started: list[Program]) -> None:
    """The lines for another terminal work as they stand: curl, cat, psql and rotate; then the feed tells of it."""
    dev = Program(OPTIONS, place)
    started.append(dev)
    assert eventually(lambda: "Ctrl-C revokes" in dev.stdout or dev.code is not None, within=40.0), dev.stderr
    lines = [line.strip() for line in dev.stdout.splitlines() if line.startswith("  ")]
    curl, cat, psql, rotate = lines[:4]

    def typed(line: str) -> str:
        ended = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=20, cwd=place, check=False)
        assert ended.returncode == 0, (line, ended.stderr)
        return ended.stdout

    user = from_file(Path(cat.split()[-1])).username
    assert typed(cat).startswith("DB_USER=")
    if shutil.which("curl"):
        assert json.loads(typed(curl))["data"]["username"] == user
    if Path(psql.partition("exec ")[2].split()[0]).exists():
        assert "hello from a leased user" in typed(psql)
    # Started with `python -m agent`, the program's own name is a file that is not executable.
    assert rotate.split()[1:3] == ["rotate", "app-readonly"]
    socket = Path(rotate.split()[-1])
    with Client(socket) as client:
        assert client.ask("/v1/database/creds/app-readonly/rotate", method="POST").status == 202
    assert eventually(lambda: from_file(Path(cat.split()[-1])).username != user)

    assert dev.stop(signal.SIGINT) == 0
    assert "0 leased users left" in dev.stdout
    assert dev.stderr == ""


@as_root
def test_it_works_as_an_ordinary_user(place: Path, started: list[Program]) -> None:
    """No root needed: everything belongs to the user who started it, and goes with them."""
    python = python_of_others()
    directory = place / "nobody"
    directory.mkdir()
    directory.chmod(0o777)
    dev = Program([*OPTIONS, "--json"], directory, python=python, environment=environment(), uid=NOBODY)
    started.append(dev)

    line = announced(dev)

    assert Path(line["socket"]).stat().st_uid == NOBODY
    held = from_file(Path(line["file"]))
    with log_in(dict(conninfo_to_dict(line["conninfo"])), held) as app:
        app.execute("SELECT * FROM reports")
    pids = descendants(dev.pid)
    assert dev.stop() == 0
    assert eventually(lambda: gone(pids, [Path(line["socket"]).parent]), within=5.0)


@as_root
def test_a_uid_without_a_name_is_told_what_to_do(place: Path, started: list[Program]) -> None:
    """One line with the remedy and exit code 3; nothing is left."""
    python = python_of_others()
    directory = place / "nameless"
    directory.mkdir()
    directory.chmod(0o777)
    before = set(Path("/dev/shm").glob("leasehold-*"))  # noqa: S108
    dev = Program([*OPTIONS, "--json"], directory, python=python, environment=environment(), uid=45678)
    started.append(dev)

    code = dev.wait()

    assert code == 3
    assert dev.stdout == ""
    assert len(dev.stderr.splitlines()) == 1
    assert "/etc/passwd" in dev.stderr
    assert set(Path("/dev/shm").glob("leasehold-*")) == before  # noqa: S108


def test_wishes_that_make_no_sense_are_told(place: Path, started: list[Program]) -> None:
    """Exit code 2 and a line each, before a server is started in vain."""
    for options in (("--ttl", "never"), ("--ttl", "1s"), ("--ttl", "1h", "--max-ttl", "10s")):
        dev = Program(["dev", *options], place)
        started.append(dev)

        assert dev.wait() == 2, options
        assert dev.stderr.startswith("leasehold: ")
        assert "Traceback" not in dev.stderr
