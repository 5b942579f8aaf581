"""A process in the pod that goes for the agent's own: its memory, its signals, its log's reader, its templates."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Credential, eventually, from_file, log_in
from tests.acceptance.neighbour import LOOKS, unharmed
from tests.acceptance.others import NOBODY, environment, python_of_others
from tests.acceptance.scenes import ROLE, document, file_of, leased, place_of
from tests.fix_postgres import Database

pytestmark = LOOKS

_INTRUDER = """
import ctypes, os, sys
pid = int(sys.argv[1])
libc = ctypes.CDLL(None, use_errno=True)
class Piece(ctypes.Structure):
    _fields_ = [("at", ctypes.c_void_p), ("size", ctypes.c_size_t)]
def fails(result):
    return result < 0
def opened(name):
    try:
        os.close(os.open(f"/proc/{pid}/{name}", os.O_RDONLY))
    except OSError:
        return False
    return True
def listed(name):
    try:
        return bool(os.listdir(f"/proc/{pid}/{name}"))
    except OSError:
        return False
def memory():
    mine = ctypes.create_string_buffer(8)
    local, remote = Piece(ctypes.addressof(mine), 8), Piece(int(sys.argv[2], 16), 8)
    return libc.process_vm_readv(pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0) == 8
def descriptor():
    try:
        watched = os.pidfd_open(pid)
    except OSError:
        return False
    return libc.syscall(438, watched, 1, 0) >= 0
def attached():
    if libc.ptrace(16, pid, 0, 0):
        return False
    os.waitpid(pid, 0)
    libc.ptrace(17, pid, 0, 0)
    return True
ways = {name: opened(name) for name in ("mem", "environ", "maps", "auxv")}
ways |= {name: listed(name) for name in ("fd", "map_files")}
ways |= {"process_vm_readv": memory(), "pidfd_getfd": descriptor(), "ptrace": attached()}
print(" ".join(sorted(name for name, open_ in ways.items() if open_)))
"""


def ways_into(pid: int, python: str) -> set[str]:
    """How a process of the user `nobody` could look into another of the same user."""
    address = Path(f"/proc/{pid}/maps").read_text().partition("-")[0]
    argv = [python, "-c", _INTRUDER, str(pid), address]
    done = subprocess.run(
        argv, user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True, timeout=20, check=True
    )
    return set(done.stdout.split())


def test_a_process_of_its_own_user_has_no_way_into_it(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 9: not by ptrace, /proc, process_vm_readv or pidfd_getfd; an ordinary process has all of these open."""
    python = python_of_others()
    home = place / "nobody"
    home.mkdir()
    password = home / "password"
    password.write_text(database.admin_password.reveal())
    for path in (home, password):
        os.chown(path, NOBODY, NOBODY)
    text = document(home, database)
    text["postgresql"]["password_file"] = str(password)
    agent = run_agent(text, python=python, environment=environment(), uid=NOBODY).wait_ready()
    ordinary = subprocess.Popen(["sleep", "60"], user=NOBODY, group=NOBODY, extra_groups=[])
    try:
        open_in_ordinary = ways_into(ordinary.pid, python)
    finally:
        ordinary.kill()
        ordinary.wait()

    assert open_in_ordinary >= {"environ", "maps", "auxv", "fd"}, "this test cannot see anything here"
    assert ways_into(agent.pid, python) == set()
    assert agent.probe("readyz") == 200


def test_signals_that_mean_nothing_end_nothing_and_a_lost_socket_is_said(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """SIGTERM alone ends it, in order: also while somebody else has taken the socket's path."""
    agent = run_agent(document(place, database)).wait_ready()

    with unharmed(agent):
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGPIPE, signal.SIGCHLD, signal.SIGWINCH):
            agent.send(number)
    agent.socket.unlink()
    with socket.socket(socket.AF_UNIX) as theirs:
        theirs.bind(str(agent.socket))
        theirs.listen()
        assert eventually(lambda: bool(agent.logged("socket-lost")), within=8.0)
        assert agent.stop() == 0
        assert agent.socket.exists()

    assert len(agent.logged("socket-lost")) == 1
    assert leased(database) == set()


def test_a_process_that_was_stopped_for_longer_than_a_lease_serves_nothing_dead_when_it_goes_on(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Promise 3: SIGSTOP for 6 s at leases of 5: the first answers are the truth, and soon all is well again."""
    agent = run_agent(document(place, database, default_ttl="5s", max_ttl="1h")).wait_ready()

    with unharmed(agent):
        agent.send(signal.SIGSTOP)
        time.sleep(6.0)
        agent.send(signal.SIGCONT)
        answers = [agent.ask(f"/v1/{ROLE}") for _ in range(20)]
        assert eventually(lambda: agent.probe("readyz") == 200)
        held = agent.read(ROLE)
        assert works(database, held)
        assert eventually(lambda: agent.file.exists() and from_file(agent.file).username == held.username)

    for answer in answers:
        assert answer.status in (200, 503)
        assert answer.status == 503 or answer.body["lease_duration"] >= 1
        assert answer.took < 6.0


def works(database: Database, held: Credential) -> bool:
    """Whether it logs in."""
    with log_in(place_of(database), held) as app:
        return app.execute("SELECT 1").fetchall() == [(1,)]


# -- the log ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def reader(place: Path) -> Iterator[tuple[Path, int]]:
    """A pipe for the log, and the end of its reader, who may leave."""
    path = place / "log"
    os.mkfifo(path)
    end = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    yield path, end
    try:
        os.close(end)
    except OSError:
        return


@pytest.mark.parametrize("leaves", [False, True])
def test_nobody_waits_for_the_reader_of_the_log(
    run_agent: RunAgent, database: Database, place: Path, reader: tuple[Path, int], leaves: bool
) -> None:
    """A collector that is stuck, or that died: the agent serves, rotates and stops in order all the same."""
    path, end = reader
    text = document(place, database, default_ttl="5s", max_ttl="6s")
    agent: Agent = run_agent(
        text, "--log-level", "debug", before=["sh", "-c", 'exec "$@" 2>"$0"', str(path)]
    ).wait_ready()
    first = agent.read(ROLE).username
    if leaves:
        os.close(end)
    else:
        full = os.open(path, os.O_WRONLY | os.O_NONBLOCK)  # what a reader who is stuck leaves lying
        try:
            while True:
                os.write(full, b"x" * 512)
        except BlockingIOError:
            os.close(full)

    assert eventually(lambda: agent.read(ROLE).username != first, within=8.0)
    assert eventually(lambda: from_file(agent.file).username != first)  # the file follows the socket
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 6.0
    assert leased(database) == set()
    assert not agent.file.exists()


# -- templates --------------------------------------------------------------------------------------------------------

_BOMBS = {
    "turns": "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}",
    "texts": "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "calls": "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "lists": "{% set n=namespace(l=[]) %}{% for i in range(60) %}{% set n.l = [n.l, n.l] %}{% endfor %}{{ n.l|json }}",
    "class": "{{ secret('database/creds/app').__class__.__mro__ }}",
    "format": "{{ '{0.__init__.__globals__}'.format(secret) }}",
}


def test_templates_that_explode_harm_neither_the_others_nor_the_loop_nor_the_stop(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Each fails in a line of its own, within a bound, and is tried again ever more rarely; the good one is written."""
    text: Any = document(place, database)
    for name, contents in _BOMBS.items():
        bomb = {**file_of(place, name), "contents": contents}
        del bomb["format"]
        text["template"].append(bomb)
    agent = run_agent(text).wait_listening()
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200)

    with unharmed(agent):
        assert eventually(lambda: {line["path"] for line in agent.logged("file-failed")} == failing(text))
        took = [agent.ask(f"/v1/{ROLE}").took for _ in range(200)]
        assert from_file(agent.file).username == agent.read(ROLE).username

    assert max(took) < 0.5
    assert agent.probe("readyz") == 503, "files of required roles are missing"
    for line in agent.logged("file-failed"):
        assert len(line["error"]) < 300
        assert agent.read(ROLE).password not in line["error"]
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 3.0


def failing(text: Any) -> set[str]:
    """The destinations of the bombs."""
    return {template["destination"] for template in text["template"] if "contents" in template}
