"""Credentials as files, as an app and its shell see them."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Credential, eventually, from_file, log_in
from tests.acceptance.others import as_root
from tests.acceptance.scenes import ROLE, document, file_of, place_of
from tests.fix_postgres import Database


def sourced(path: Path) -> Credential:
    """What a POSIX shell makes of the file."""
    ended = subprocess.run(
        ["sh", "-euc", '. "$1"; printf "%s\\n" "$DB_USER" "$DB_PASS" "$DB_LEASE_ID" "$DB_TTL"', "sh", str(path)],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
    )
    username, password, lease_id, left = ended.stdout.splitlines()
    return Credential(username=username, password=password, lease_id=lease_id, lease_duration=int(left))


def test_the_dotenv_file_logs_in_from_a_shell(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R004-028, R004-056: DB_USER, DB_PASS, DB_LEASE_ID and DB_TTL, the same credential as the socket's."""
    agent = run_agent(document(place, database)).wait_ready()

    held = sourced(agent.file)

    served = agent.read(ROLE)
    assert (held.username, held.password, held.lease_id) == (served.username, served.password, served.lease_id)
    assert 3500 < held.lease_duration <= 3600
    with log_in(place_of(database), held) as app:
        assert app.execute("SELECT note FROM reports").fetchall() == [("first",)]


def test_mode_and_directory_are_narrow(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 7: 0440 in a directory of 0750, ours; R004-033: nothing else lies beside it."""
    agent = run_agent(document(place, database)).wait_ready()

    found = agent.file.stat()
    assert (found.st_mode & 0o777, found.st_uid) == (0o440, os.geteuid())
    assert agent.file.parent.stat().st_mode & 0o777 == 0o750
    assert list(agent.file.parent.iterdir()) == [agent.file]


@as_root
def test_a_file_may_belong_to_the_app(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 9: owner and mode as configured, through rotations."""
    text = document(place, database, rotate_min_interval="1s")
    text["template"][0] |= {"user": "12345", "group": "23456", "perms": "0400"}
    agent = run_agent(text).wait_ready()
    before = from_file(agent.file).username

    assert agent.ask(f"/v1/{ROLE}/rotate", method="POST").status == 202
    assert eventually(lambda: from_file(agent.file).username != before)

    found = agent.file.stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 23456, 0o400)
    assert agent.stop() == 0
    assert not agent.file.exists()


def test_what_others_do_to_a_file_is_undone(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 7, R004-059: mode, content and presence are looked after every `render_interval`."""
    text = document(place, database)
    text["template_config"] = {"render_interval": "1s"}
    text["template"][0] |= {"format": "pgpass", "perms": "0400"}
    agent = run_agent(text).wait_ready()
    right = agent.file.read_text()

    agent.file.chmod(0o644)
    assert eventually(lambda: agent.file.stat().st_mode & 0o777 == 0o400, within=5.0)
    agent.file.unlink()
    assert eventually(agent.file.exists, within=5.0)

    assert agent.file.read_text() == right


def test_a_template_of_ones_own(run_agent: RunAgent, database: Database, place: Path) -> None:
    """R004-028: Jinja from a file; a second template that fails says so and harms neither the first nor the start."""
    source = place / "app.yaml.j2"
    source.write_text(
        '{% set creds = secret("database/creds/app") -%}\n'
        "user: {{ creds.data.username }}\npassword: {{ creds.data.password }}\nhost: {{ creds.data.host }}\n"
    )
    text = document(place, database)
    text["template"] = [{**file_of(place, "app.yaml"), "source": str(source)}]
    del text["template"][0]["format"]
    agent = run_agent(text).wait_ready()

    pairs = dict(line.split(": ") for line in agent.file.read_text().splitlines())

    served = agent.read(ROLE)
    assert pairs == {"user": served.username, "password": served.password, "host": database.host}
    (state,) = agent.health()["files"]
    assert state["state"] == "written"


def test_a_template_that_cannot_be_compiled_stops_the_start(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Design section 9: a mistake in a template is a mistake in the configuration."""
    text = document(place, database)
    text["template"][0] = {**file_of(place), "contents": "{{ secret('database/creds/app').data.username"}
    del text["template"][0]["format"]
    agent = run_agent(text)

    assert agent.wait() == 2
    said = [line for line in agent.stderr.splitlines() if line.startswith("leasehold: ")]
    assert len(said) == 1
    assert "db-creds" in said[0]
    assert not agent.socket.exists()


def test_several_files_of_one_role_agree(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 4: no user name ever stands with another lease's password, in no file, through rotations."""
    text = document(place, database, default_ttl="5s", max_ttl="6s")
    text["template"] = [file_of(place, name) for name in ("one", "two")]
    agent = run_agent(text).wait_ready()
    paths = [Path(template["destination"]) for template in text["template"]]
    pairs: dict[str, str] = {}

    def look() -> bool:
        for held in [*(from_file(path) for path in paths), agent.read(ROLE)]:
            assert pairs.setdefault(held.username, held.password) == held.password
        return len(pairs) >= 3

    assert eventually(look, within=15.0, every=0.005)


@pytest.mark.parametrize("perms", ["0444"])
def test_a_file_for_everybody_is_warned_of(run_agent: RunAgent, database: Database, place: Path, perms: str) -> None:
    """Promise 9: allowed, but said."""
    text = document(place, database)
    text["template"][0]["perms"] = perms

    agent = run_agent(text).wait_ready()

    assert any("lets everybody read" in line["warning"] for line in agent.logged("config-warning"))
