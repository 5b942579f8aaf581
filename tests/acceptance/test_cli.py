"""The commands beside a running agent, as a person and a script use them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.cli import COMMANDS
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Program, eventually, log_in, toml
from tests.acceptance.scenes import ROLE, document, leased, place_of, server_of
from tests.fix_postgres import Database

RunCommand = Callable[..., Program]


@pytest.fixture
def command(place: Path, started: list[Program]) -> RunCommand:
    """`command("get", "app", agent)` runs one to its end."""

    def run(name: str, *argv: str, agent: Agent | None = None) -> Program:
        program = Program([name, *argv, *(["-s", str(agent.socket)] if agent else [])], place)
        started.append(program)
        program.wait()
        return program

    return run


@pytest.fixture
def agent(run_agent: RunAgent, database: Database, place: Path) -> Agent:
    return run_agent(document(place, database, rotate_min_interval="2s")).wait_ready()


def test_get_prints_a_credential_that_logs_in(agent: Agent, command: RunCommand, database: Database) -> None:
    """R000-001, R004-066: a person gets a working credential with no password anywhere; --field feeds a script."""
    held = agent.read(ROLE)

    shown = command("get", ROLE, agent=agent)
    short = command("get", "app", "--field", "password", agent=agent)
    whole = command("get", "app", "--json", agent=agent)

    assert shown.code == short.code == whole.code == 0
    lines = dict(line.split(": ", 1) for line in shown.stdout.splitlines())
    assert lines["username"] == held.username
    assert lines["dbname"] == database.dbname
    assert 0 < int(lines["lease_duration"]) <= 3600
    assert short.stdout == f"{held.password}\n"
    assert json.loads(whole.stdout)["lease_id"] == held.lease_id
    assert shown.stderr == short.stderr == whole.stderr == ""
    with log_in(place_of(database), held) as app:
        app.execute("SELECT * FROM reports")


def test_get_says_what_is_wrong_in_one_line(agent: Agent, command: RunCommand, place: Path) -> None:
    """Design section 10: each kind of trouble has its exit code."""
    cases = (
        (command("get", "database/creds/none", agent=agent), 5, "database/creds/none"),
        (command("get", "none", agent=agent), 5, ROLE),
        (command("get", "app", "--field", "pasword", agent=agent), 2, "username, password"),
        (command("get", ROLE, "-s", str(place / "no.sock")), 4, "no agent listens there"),
        (command("status", "-s", str(place / "no.sock")), 4, "no agent listens there"),
        (command("rotate", "app", "--timeout", "soon", agent=agent), 2, "--timeout"),
    )

    for ended, code, words in cases:
        assert ended.code == code, ended.stderr
        assert ended.stdout == ""
        assert len(ended.stderr.splitlines()) == 1
        assert ended.stderr.startswith("leasehold: ")
        assert words in ended.stderr


def test_status_tells_people_and_scripts(agent: Agent, command: RunCommand) -> None:
    """Promise 10, R003-115: remaining time and next step by role; no user name, no lease id."""
    held = agent.read(ROLE)

    table = command("status", agent=agent)
    report = command("status", "--json", agent=agent)

    assert table.code == report.code == 0
    assert "started, ready, live" in table.stdout
    (row,) = [line for line in table.stdout.splitlines() if line.startswith(ROLE)]
    assert "fresh" in row
    assert "renew" in row
    assert f"{agent.file}: written" in table.stdout
    assert json.loads(report.stdout)["roles"][ROLE]["verified"] is True
    for text in (table.stdout, report.stdout):
        for secret in (held.username, held.password, held.lease_id):
            assert secret not in text


def test_status_of_an_agent_that_is_not_ready_fails(
    run_agent: RunAgent, command: RunCommand, database: Database, place: Path
) -> None:
    """Exit code 1, and the reason in words."""
    agent = run_agent(document(place, database, group="no_such_group")).wait_listening()
    assert eventually(lambda: agent.role(ROLE)["phase"] == "failing")

    table = command("status", agent=agent)

    assert table.code == 1
    assert "not started, not ready" in table.stdout
    assert f"{ROLE}: postgresql" in table.stdout
    assert "failed in a row" in table.stdout


def test_status_watch_goes_on_until_ctrl_c(agent: Agent, place: Path, started: list[Program]) -> None:
    """Design section 10: a report a second; Ctrl-C ends it without a traceback."""
    watch = Program(["status", "--watch", "--json", "-s", str(agent.socket)], place)
    started.append(watch)
    assert eventually(lambda: len(watch.stdout.splitlines()) >= 2)

    code = watch.stop(signal.SIGINT)

    assert code == 0
    assert watch.stderr == ""
    remaining = [json.loads(line)["roles"][ROLE]["remaining"] for line in watch.stdout.splitlines()]
    assert remaining[0] > remaining[-1]


def test_a_reader_of_our_output_that_leaves_is_no_error(agent: Agent, place: Path) -> None:
    """`leasehold status --watch | head -1` ends by itself, without a traceback."""
    line = f"{sys.executable} -m agent status --watch --json -s {agent.socket} | head -1"
    ended = subprocess.run(["sh", "-c", line], cwd=place, capture_output=True, text=True, timeout=20, check=False)

    assert json.loads(ended.stdout)["ready"] is True
    assert ended.stderr == ""


def test_rotate_replaces_with_overlap_and_is_rate_limited(
    agent: Agent, command: RunCommand, database: Database
) -> None:
    """Promises 4 and 11: a new generation when it returns, the old user drains; at once again is refused with 5."""
    old = agent.read(ROLE)
    session = log_in(place_of(database), old)

    done = command("rotate", "app", agent=agent)
    again = command("rotate", "app", agent=agent)

    new = agent.read(ROLE)
    assert done.code == 0, done.stderr
    assert "replaced in" in done.stdout
    assert "1 draining" in done.stdout
    assert new.username != old.username
    assert new.generation > old.generation
    assert leased(database) == {old.username, new.username}
    session.execute("SELECT * FROM reports")
    session.close()
    assert again.code == 5
    assert "try again in" in again.stderr

    time.sleep(2.0)
    shortly = command("rotate", ROLE, "--revoke-after", "1s", agent=agent)

    assert shortly.code == 0, shortly.stderr
    assert eventually(lambda: new.username not in leased(database), within=10.0)
    assert old.username in leased(database), "--revoke-after is for the credential that it replaces"
    assert agent.read(ROLE).username not in (old.username, new.username)


def test_check_prints_advice_and_warnings(command: RunCommand, database: Database, place: Path) -> None:
    """Design section 3, R003-029: the rule for pools with this role's numbers; what may surprise is a warning."""
    config = place / "agent.toml"
    config.write_text(toml(document(place, database, default_ttl="30s", max_ttl="90s")))

    ended = command("check", "-c", str(config))

    assert ended.code == 0
    assert ended.stderr == ""
    assert f"{config}: the file has no mistakes" in ended.stdout
    assert "pools: longest connection life + longest transaction" in ended.stdout
    assert any(line.startswith("warning: ") and "default_ttl" in line for line in ended.stdout.splitlines())
    assert leased(database) == set()


def test_check_live_tries_every_role(command: RunCommand, database: Database, place: Path) -> None:
    """R004-066: mint, log in, revoke, once per role, as CREATEROLE admin and as superuser; nothing is left."""
    config = place / "agent.toml"
    logins = {
        "CREATEROLE admin": server_of(database),
        "superuser": server_of(
            database,
            user=database.cluster.superuser,
            password_file=str(database.cluster.password_file),
            schema="by_superuser",
            marker_group="by_superuser",
        ),
    }
    for who, server in logins.items():
        text = document(place, database)
        text["postgresql"] = server
        config.write_text(toml(text))

        ended = command("check", "-c", str(config), "--live")

        assert ended.code == 0, (who, ended.stdout, ended.stderr)
        assert f"{ROLE}: minted a user, logged in with it, renewed it, revoked it, in " in ended.stdout, who
        assert leased(database) == set(), who


def test_check_live_names_the_step_that_fails(command: RunCommand, database: Database, place: Path) -> None:
    """R003-105, R003-106: a probe that the role's rights do not allow fails at the login, with exit code 1."""
    database.execute(f"REVOKE SELECT ON reports FROM {database.group}")
    config = place / "agent.toml"
    probe = {**place_of(database), "probe": "SELECT 1 FROM public.reports LIMIT 0"}
    config.write_text(toml(document(place, database, verify=[probe])))

    ended = command("check", "-c", str(config), "--live")

    assert ended.code == 1
    (line,) = [line for line in ended.stdout.splitlines() if line.startswith(f"{ROLE}: could not")]
    assert "could not log in with it" in line
    assert "privilege" in line
    assert leased(database) == set()


def test_help_teaches(command: RunCommand) -> None:
    """Design section 10: every command is named, and help says what the exit codes mean."""
    top, one = command("--help"), command("revoke", "--help")

    assert (top.code, one.code) == (0, 0)
    for name in COMMANDS:
        assert re.search(rf"(?m)^    {name}( |$)", top.stdout), name
    for shown in (top, one):
        assert shown.stderr == ""
        assert "exit codes:" in shown.stdout
    assert "usage: leasehold revoke" in one.stdout
    assert command("--version").stdout.startswith("leasehold ")
    assert command("florp").code == 2


def test_the_socket_can_come_from_the_environment(agent: Agent, place: Path, started: list[Program]) -> None:
    """LEASEHOLD_SOCKET stands in for --socket."""
    program = Program(["get", "app", "--field", "username"], place, environment={"LEASEHOLD_SOCKET": str(agent.socket)})
    started.append(program)

    assert program.wait() == 0
    assert program.stdout.strip() == agent.read(ROLE).username
    assert os.fspath(agent.socket) not in program.stdout
