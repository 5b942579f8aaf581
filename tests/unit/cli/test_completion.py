"""The scripts that shells load, and the names that they ask for."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.cli import COMMANDS
from tests.unit.cli.canned import canned
from tests.unit.cli.conftest import Run

ROLES: dict[str, object] = {
    name: {} for name in ("database/creds/app", "database/creds/report", "other/creds/app", "$(touch owned)", "a b")
}
HEALTH = {"GET /v1/sys/health": (200, {"roles": ROLES})}


def test_roles_are_named_whole_and_by_their_last_part_where_that_is_unique(run: Run, path: Path) -> None:
    """bash expands the words it chooses from: what it could take for a command is left out."""
    with canned(path, HEALTH):
        ended = run("completion", "roles")

    assert ended.code == 0
    assert ended.out.split() == ["database/creds/app", "database/creds/report", "other/creds/app", "report"]


def test_without_an_agent_there_are_no_names(run: Run) -> None:
    ended = run("completion", "roles")

    assert (ended.code, ended.out) == (4, "")


@pytest.fixture
def bash(tmp_path: Path, run: Run) -> Path:
    """A file that bash can load, with a `leasehold` that is this one."""
    program = tmp_path / "leasehold"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent "$@" -s {tmp_path}/agent.sock\n')
    program.chmod(0o755)
    script = tmp_path / "script"
    script.write_text(f"PATH={tmp_path}:$PATH\n{run('completion', 'bash').out}")
    return script


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("leasehold pr", ["probe"]),
        ("leasehold ''", sorted(COMMANDS)),
        ("leasehold probe ''", ["live", "ready", "started"]),
        ("leasehold wait --re", ["--ready"]),
        ("leasehold get re", ["report"]),
        ("leasehold get database/", ["database/creds/app", "database/creds/report"]),
        ("leasehold wait --role other/", ["other/creds/app"]),
    ],
)
def test_bash_completes_commands_options_and_roles(bash: Path, path: Path, words: str, expected: list[str]) -> None:
    code = (
        f"source {bash}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '_shtab_leasehold; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    with canned(path, HEALTH):
        ended = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)

    found = sorted(word for word in ended.stdout.split() if not word.startswith("-") or words.endswith("--re"))
    assert found == expected
    assert not list(bash.parent.glob("owned"))


def test_zsh_gets_a_script_with_every_command(run: Run) -> None:
    ended = run("completion", "zsh")

    assert ended.code == 0
    assert ended.out.startswith("#compdef leasehold")
    for command in COMMANDS:
        assert f"    {command}:'" in ended.out


@pytest.mark.parametrize("argv", [["--help"], ["completion", "bash"], ["completion", "roles", "-s", "agent.sock"]])
def test_a_reader_of_our_output_that_has_gone_is_no_error(path: Path, argv: list[str]) -> None:
    """`leasehold … | true`: what is still buffered at the end must not become a traceback."""
    reader, writer = os.pipe()
    os.close(reader)
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-m", "agent", *argv]
    with canned(path, HEALTH):
        ended = subprocess.run(command, env=buffered, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)

    assert (ended.returncode, ended.stderr) == (0, b"")
