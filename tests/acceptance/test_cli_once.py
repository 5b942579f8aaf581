"""`leasehold once`: an init container obtains and writes; the sidecar goes on."""

import socket
import time
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Program, eventually, from_file, log_in, toml
from tests.acceptance.scenes import ROLE, document, file_of, leased, minted, place_of, role_of
from tests.fix_postgres import Database

OPTIONAL = "database/creds/optional"


def once(place: Path, started: list[Program], text: Any, *options: str) -> Program:
    """`leasehold once` on a configuration, running."""
    config = place / "once.toml"
    config.write_text(toml(text))
    program = Program(["once", "-c", str(config), *options], place)
    started.append(program)
    return program


def remembering(place: Path, database: Database, **role: Any) -> Any:
    text = document(place, database, **role)
    disk = not str(place).startswith("/dev/shm")  # noqa: S108 - where the tests keep their files if they can
    text["agent"] = {**text["agent"], "state_dir": str(place / "state"), "holder": "web-0", "state_allow_disk": disk}
    return text


def test_the_sidecar_goes_on_with_what_once_obtained(
    run_agent: RunAgent, database: Database, place: Path, started: list[Program]
) -> None:
    """Design sections 8 and 10: no second user, and the app's file is never without a working credential."""
    text = remembering(place, database)
    text["agent"]["stop_grace"] = "30s"

    init = once(place, started, text)

    assert init.wait() == 0, init.stderr
    file = Path(text["template"][0]["destination"])
    held = from_file(file)
    log_in(place_of(database), held).close()
    assert not Path(text["listener"]["unix"]["address"]).exists()
    text["agent"]["stop_grace"] = "0s"
    sidecar = run_agent(text).wait_ready()
    assert sidecar.read(ROLE).username == held.username
    assert minted(database) == 1
    assert sidecar.stop() == 0
    assert leased(database) == set()


def test_without_a_memory_it_warns_and_leaves_a_working_credential(
    database: Database, place: Path, started: list[Program]
) -> None:
    """The lease lives to its end, unrenewed: said in one line, for whoever reads the log."""
    text = document(place, database)
    with socket.socket(socket.AF_UNIX) as other:
        # It opens no socket: that another agent still has its own there is nothing to it.
        other.bind(text["listener"]["unix"]["address"])
        other.listen()

        init = once(place, started, text)

        assert init.wait() == 0, init.stderr
    held = from_file(Path(text["template"][0]["destination"]))
    log_in(place_of(database), held).close()
    assert leased(database) == {held.username}
    (said,) = [line["warning"] for line in init.logged("config-warning") if "state_dir" in line["warning"]]
    assert "unrenewed" in said or "nobody renews" in said


def test_what_nobody_waits_for_is_left_to_the_sidecar(database: Database, place: Path, started: list[Program]) -> None:
    """Optional and lazy roles, and files that need one, neither hold it up nor leave users behind."""
    text = remembering(place, database)
    text["role"][OPTIONAL] = role_of(database, required=False)
    text["role"]["database/creds/lazy"] = role_of(database, lazy=True, required=False)
    text["template"].append(file_of(place, "optional", OPTIONAL))

    init = once(place, started, text)

    assert init.wait() == 0, init.stderr
    assert minted(database) == 1
    assert not Path(text["template"][1]["destination"]).exists()


def test_a_role_that_does_not_come_is_named_and_everything_is_revoked(
    database: Database, place: Path, started: list[Program]
) -> None:
    """Exit code 1 after --timeout, a line per missing role with the reason, no user and no file left."""
    text = remembering(place, database)
    text["agent"]["on_stop"] = "handover"
    broken = "database/creds/broken"
    text["role"][broken] = role_of(database, group="no_such_group")

    began = time.monotonic()
    init = once(place, started, text, "--timeout", "3s")

    assert init.wait() == 1
    assert time.monotonic() - began < 15
    lines = [line for line in init.stderr.splitlines() if line.startswith("leasehold: ")]
    assert len(lines) == 1, init.stderr
    assert lines[0].startswith(f"leasehold: {broken}: postgresql")
    assert "gave up after 3 s" in lines[0]
    assert [line["error"] for line in init.logged("start-failed")] == [lines[0].removeprefix("leasehold: ")]
    assert minted(database) == 1, "the other role was there"
    assert leased(database) == set()
    assert not Path(text["template"][0]["destination"]).exists()


def test_a_signal_ends_it_as_not_done(database: Database, place: Path, started: list[Program]) -> None:
    text = document(place, database, group="no_such_group")

    init = once(place, started, text)
    assert eventually(lambda: bool(init.logged("issue-failed")))

    assert init.stop() == 1
    assert f"leasehold: {ROLE}: " in init.stderr
    assert "stopped" in init.stderr.splitlines()[-1]


def test_a_file_that_cannot_be_written_is_named(database: Database, place: Path, started: list[Program]) -> None:
    """Exit code 0 means that every file is written, not only that every role is there."""
    text = remembering(place, database)
    text["template"][0] = {
        "destination": str(place / "secrets" / "x"),
        "contents": f"{{{{ secret('{ROLE}').data.no_such_field }}}}",
        "roles": [ROLE],
        "allow_disk": True,
    }

    init = once(place, started, text, "--timeout", "2s")

    assert init.wait() == 1
    assert f"leasehold: {place}/secrets/x: " in init.stderr
    assert "no_such_field" in init.stderr
    assert leased(database) == set()


def test_a_file_without_required_roles_is_a_mistake(database: Database, place: Path, started: list[Program]) -> None:
    text = document(place, database, required=False)
    text["template"] = []

    init = once(place, started, text)

    assert init.wait() == 2
    assert "required roles only" in init.stderr


def test_a_start_that_fails_is_in_the_log_too(database: Database, place: Path, started: list[Program]) -> None:
    """Whoever collects JSON lines must find the reason there, and a person on the last line."""
    text = document(place, database)
    config = place / "agent.toml"
    config.write_text(toml(text))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(text["listener"]["unix"]["address"])
        other.listen()
        agent = Program(["run", "-c", str(config)], place)
        started.append(agent)

        assert agent.wait() == 3
    (event,) = agent.logged("start-failed")
    assert event["error"] in agent.stderr.splitlines()[-1]
    assert "agent.sock" in event["error"]
