"""`leasehold wait` and `leasehold probe`: for entry points, scripts and exec probes."""

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Program
from tests.acceptance.scenes import ROLE, document, minted
from tests.fix_postgres import Database

Start = Callable[..., Program]


@pytest.fixture
def start(place: Path, started: list[Program]) -> Start:
    """`start("wait", "-s", path)` runs one command."""

    def run(*argv: str, **how: object) -> Program:
        program = Program(argv, place, **how)  # type: ignore[arg-type]
        started.append(program)
        return program

    return run


def test_wait_returns_when_an_agent_has_started_that_was_not_there_yet(
    run_agent: RunAgent, start: Start, database: Database, place: Path
) -> None:
    """Design section 10: an entry point may run before the sidecar."""
    text = document(place, database)
    waiting = start("wait", "-s", text["listener"]["unix"]["address"], "--timeout", "30s")
    role = start("wait", "--ready", "--role", "app", "-s", text["listener"]["unix"]["address"])
    time.sleep(0.3)
    assert waiting.code is None
    assert role.code is None

    run_agent(text)

    assert waiting.wait() == 0, waiting.stderr
    assert role.wait() == 0, role.stderr
    assert waiting.stdout == waiting.stderr == ""


def test_wait_gives_up_in_time_and_says_what_is_missing(
    run_agent: RunAgent, start: Start, database: Database, place: Path
) -> None:
    agent = run_agent(document(place, database, group="no_such_group")).wait_listening()
    cases = (
        (start("wait", "--timeout", "500ms", "-s", str(place / "none.sock")), "no agent listens there"),
        (start("wait", "--timeout", "500ms", "-s", str(agent.socket)), "not started"),
        (start("wait", "--ready", "--timeout", "500ms", "-s", str(agent.socket)), "not ready"),
        (start("wait", "--role", "app", "--timeout", "500ms", "-s", str(agent.socket)), f"{ROLE}: no credential yet"),
    )

    for ended, words in cases:
        assert ended.wait() == 1
        assert ended.stdout == ""
        (line,) = ended.stderr.splitlines()
        assert words in line
        assert line.endswith("gave up after 500ms")


def test_wait_for_a_role_that_cannot_come_does_not_wait(
    run_agent: RunAgent, start: Start, database: Database, place: Path
) -> None:
    """A name that is not configured, or not allowed, will not get better: exit code 5 at once."""
    agent = run_agent(document(place, database, allow=["uid:4711"])).wait_ready()
    cases = [
        (start("wait", "--role", ROLE, "-s", str(agent.socket)), "may not read"),
        (start("wait", "--role", "none", "-s", str(agent.socket)), "no such role"),
        (start("wait", "--role", "database/creds/none", "-s", str(agent.socket)), "database/creds/none: no such path"),
        (start("wait", "--role", "data base/x", "-s", str(agent.socket)), "no such role"),
    ]

    for ended, words in cases:
        assert ended.wait() == 5, ended.stderr
        assert words in ended.stderr


def test_wait_for_a_lazy_role_wakes_it(run_agent: RunAgent, start: Start, database: Database, place: Path) -> None:
    text = document(place, database, lazy=True, required=False)
    text["template"] = []
    agent = run_agent(text).wait_ready()
    assert agent.role(ROLE)["phase"] == "idle"

    ended = start("wait", "--role", "app", "-s", str(agent.socket))

    assert ended.wait() == 0, ended.stderr
    assert minted(database) == 1


def test_probe_answers_each_question_with_one_line_and_a_code(
    run_agent: RunAgent, start: Start, database: Database, place: Path
) -> None:
    """Promise 10: three questions; live holds although nothing can be obtained."""
    broken = run_agent(document(place, database, group="no_such_group")).wait_listening()
    questions = ("started", "ready", "live")

    before = [start("probe", question, "-s", str(broken.socket)) for question in questions]
    assert [(one.wait(), one.stdout) for one in before] == [(1, "not started\n"), (1, "not ready\n"), (0, "live\n")]
    broken.stop()
    after = run_agent(document(place, database)).wait_ready()
    good = [start("probe", question, "-s", str(after.socket)) for question in questions]
    assert [(one.wait(), one.stdout) for one in good] == [(0, f"{question}\n") for question in questions]
    after.stop()

    nobody = start("probe", "live", "-s", str(after.socket))
    assert nobody.wait() == 4
    assert "no agent listens there" in nobody.stderr


def test_probe_does_not_outwait_its_timeout(start: Start, place: Path) -> None:
    """An agent that hangs must fail the probe, not hold it."""
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(place / "deaf.sock"))
        deaf.listen()

        ended = start("probe", "live", "-s", str(place / "deaf.sock"), "--timeout", "300ms")

        assert ended.wait(5.0) == 4
        assert "did not answer within 0.3 s" in ended.stderr


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 two OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
    ],
)
def test_what_is_no_answer_of_ours_is_told_as_such(start: Start, place: Path, answer: bytes) -> None:
    """Another program's socket, or an answer cut short: one line, exit code 4, no traceback."""
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(place / "other.sock"))
        other.listen()

        def serve() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        server = threading.Thread(target=serve)
        server.start()
        ended = start("probe", "live", "-s", str(place / "other.sock"))
        code = ended.wait()
        server.join()

    assert code == 4
    (line,) = ended.stderr.splitlines()
    assert "no answer of a Leasehold agent" in line


def test_what_a_terminal_would_obey_never_reaches_it(start: Start, place: Path) -> None:
    """Names and reasons come from elsewhere: an escape sequence in one is shown, not sent."""
    ended = start("get", "database/creds/\x1b]0;owned\x07\u202eapp", "-s", str(place / "none.sock"))

    assert ended.wait() == 5
    assert "\x1b" not in ended.stderr
    assert "\u202e" not in ended.stderr
    assert "\\x1b]0;owned\\x07\\u202eapp" in ended.stderr


HEAVY = ("asyncio", "ssl", "http.client", "email", "aiohttp", "psycopg", "jinja2", "structlog", "attr", "dataclasses")


@pytest.mark.parametrize("argv", [["probe", "live"], ["wait", "--timeout", "1ms"], ["get", "app"], ["status"]])
def test_what_runs_every_second_imports_nothing_heavy(argv: list[str], place: Path) -> None:
    """A startup probe is a process a second: importing asyncio or http.client would double its cost."""
    code = (
        "import sys; from agent.cli import main; main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-S", "-c", code, *argv, "-s", str(place / "none.sock")],
        env={"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ended.stdout.splitlines()[-1] == "[]"
    assert "no agent listens there" in ended.stderr
