"""What stands in the way is said in one line each, with the remedy, and with an exit code that a script can use."""

import os
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from agent.atomicfile import on_memory
from agent.harden import AMBIENT
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Program, eventually
from tests.acceptance.scenes import ROLE, document, leased
from tests.fix_postgres import Database

MISTAKES = """
[agent]
log_level = "loud"
stop_timeout = "soon"

[listener.unix]
address = "agent.sock"
socket_mode = "0466"

[postgresql]
host = "127.0.0.1"
dbname = "app"
user = "admin"
password = "hunter2hunter2"

[role."database/creds/app"]
upstream = "elsewhere"
default_ttl = "2h"
max_ttl = "1h"
group = "readers"
alow = ["any"]

[[template]]
destination = "/dev/shm/x"
format = "dotenv"
roles = ["database/creds/none"]
"""


def run_to_its_end(place: Path, started: list[Program], *argv: str) -> Program:
    """`python -m agent …`, ended."""
    program = Program(argv, place)
    started.append(program)
    program.wait()
    return program


def test_all_mistakes_are_told_at_once_and_one_line_each(place: Path, started: list[Program]) -> None:
    """Design sections 9 and 10, R002-002: exit code 2, each mistake with its path, and no secret repeated."""
    config = place / "agent.toml"
    config.write_text(MISTAKES)

    for command in ("run", "check"):
        ended = run_to_its_end(place, started, command, "-c", str(config))

        assert ended.code == 2
        assert ended.stdout == ""
        lines = ended.stderr.splitlines()
        assert all(line.startswith("leasehold: ") for line in lines), ended.stderr
        for path in (
            "agent.log_level",
            "agent.stop_timeout",
            "listener.unix.address",
            "listener.unix.socket_mode",
            "postgresql.password",
            f'role."{ROLE}".upstream',
            f'role."{ROLE}".default_ttl',
            f'role."{ROLE}".alow',
            "template[0].roles[0]",
        ):
            assert len([line for line in lines if path in line]) == 1, (path, ended.stderr)
        assert "hunter2" not in ended.stderr


def test_a_missing_configuration_is_named(place: Path, started: list[Program]) -> None:
    """Design section 10: one line with the path, exit code 2."""
    missing = place / "none.toml"

    for command in ("run", "check"):
        ended = run_to_its_end(place, started, command, "-c", str(missing))

        assert ended.code == 2
        assert len(ended.stderr.splitlines()) == 1
        assert str(missing) in ended.stderr


def test_mistakes_that_only_the_statements_show_stop_the_start(place: Path, started: list[Program]) -> None:
    """R001-003: a role whose SQL or template can never work is refused before anything listens."""
    text = (
        MISTAKES.partition("[agent]")[2]
        and f"""
[listener.unix]
address = "{place}/agent.sock"
[postgresql]
host = "127.0.0.1"
port = 1
dbname = "app"
user = "admin"
sslmode = "disable"
[role."{ROLE}"]
upstream = "postgresql"
creation_statements = ["CREATE ROLE app LOGIN"]
[[template]]
destination = "{place}/secrets/x"
contents = "{{{{ secret('{ROLE}').data.username"
roles = ["{ROLE}"]
allow_disk = true
"""
    )
    config = place / "agent.toml"
    config.write_text(text)

    for command in ("run", "check"):
        ended = run_to_its_end(place, started, command, "-c", str(config))

        assert ended.code == 2, ended.stderr
        assert "creation_statements" in ended.stderr
    assert not (place / "agent.sock").exists()


def test_a_second_agent_on_the_socket_is_refused(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 6: exit code 3, one line; the first goes on undisturbed, and no user was made for the second."""
    text = document(place, database)
    first = run_agent(text).wait_ready()
    held = first.read(ROLE)

    second = run_agent(text)

    assert second.wait() == 3
    said = [line for line in second.stderr.splitlines() if line.startswith("leasehold: ")]
    assert len(said) == 1
    assert str(first.socket) in said[0]
    assert "in use" in said[0]
    assert first.read(ROLE) == held or first.read(ROLE).username == held.username
    assert leased(database) == {held.username}
    assert first.file.exists()


def test_a_plain_file_in_the_socket_s_place_stays(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 6: exit code 3, one line, and what lay there is untouched."""
    text = document(place, database)
    in_the_way = place / "agent.sock"
    in_the_way.write_text("precious")

    agent = run_agent(text)

    assert agent.wait() == 3
    assert in_the_way.read_text() == "precious"
    assert len([line for line in agent.stderr.splitlines() if line.startswith("leasehold: ")]) == 1


def test_a_dead_agent_s_socket_is_taken_over(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 6: nobody listens there any more, so nothing has to be cleaned by hand."""
    path = place / "agent.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abandoned:
        abandoned.bind(str(path))
    assert stat.S_ISSOCK(path.lstat().st_mode)

    agent = run_agent(document(place, database)).wait_ready()

    assert agent.read(ROLE)


def test_a_file_on_disk_is_refused_unless_told(
    run_agent: RunAgent, database: Database, place: Path, tmp_path: Path
) -> None:
    """R004-061: secrets belong on a memory file system; the line names the file and both remedies."""
    if on_memory(tmp_path):
        pytest.skip(f"{tmp_path} lies in memory here")
    text = document(place, database)
    text["template"][0] |= {"destination": str(tmp_path / "db-creds"), "allow_disk": False}

    agent = run_agent(text)

    assert agent.wait() == 3, agent.stderr
    said = [line for line in agent.stderr.splitlines() if line.startswith("leasehold: ")]
    assert len(said) == 1
    for words in (str(tmp_path / "db-creds"), "allow_disk", "tmpfs"):
        assert words in said[0]
    assert not agent.socket.exists()
    assert leased(database) == set()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def test_a_server_that_is_not_there_is_named(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 3: nothing listens on that port: 503 at once, the server named, the stop quick."""
    text = document(place, database)
    text["postgresql"]["port"] = free_port()
    agent = run_agent(text).wait_listening()
    assert eventually(lambda: agent.role(ROLE)["phase"] == "failing")

    answer = agent.ask(f"/v1/{ROLE}")

    assert answer.status == 503
    assert answer.took < 0.5
    assert int(answer.headers["retry-after"]) >= 1
    assert "postgresql" in answer.error
    assert agent.probe("livez") == 200
    assert agent.health()["upstreams"] == [{"name": "postgresql", "circuit": "open", "healthy": False}]
    began = time.monotonic()
    agent.stop()
    assert time.monotonic() - began < 10.0


def test_a_port_that_speaks_something_else_is_no_server(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R000-015: somebody answers there, but not PostgreSQL: not ready, live, and it says where it looked."""
    with socket.create_server(("127.0.0.1", 0)) as web:
        text: Any = document(place, database)
        text["postgresql"]["port"] = web.getsockname()[1]
        agent = run_agent(text).wait_listening()
        peer, _ = web.accept()
        with peer:
            peer.recv(4096)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        assert eventually(lambda: agent.role(ROLE)["phase"] == "failing")
        assert agent.probe("readyz") == 503
        assert "postgresql" in agent.ask(f"/v1/{ROLE}").error
        assert agent.probe("livez") == 200


def test_ambient_credentials_are_ignored_and_told(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R004-037, R003-134: no static fallback; the names are logged, the values are not."""
    ambient = {
        "PGPASSWORD": "ambient-secret",
        "PGHOST": "db.invalid",
        "PGSERVICE": "nowhere",
        "PGOPTIONS": "-c role=nobody_of_that_name",
        "DATABASE_URL": "postgres://ambient-secret",
    }
    agent = run_agent(document(place, database), environment=ambient).wait_ready()

    around = set(AMBIENT) & set(os.environ)  # what this machine says of itself is ignored, and told, as well
    assert {line["name"] for line in agent.logged("ambient-ignored")} == set(ambient) | around
    assert "ambient-secret" not in agent.stderr
    assert agent.read(ROLE)
