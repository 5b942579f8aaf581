"""What `leasehold check` says of a file without asking a server."""

import argparse
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from agent import codes
from agent.checking import check, surroundings
from tests.unit.config.documents import at_vault, read, with_method, with_sink

SOCKET = '[listener.unix]\naddress = "/agent.sock"\n'


def asked(file: Path) -> argparse.Namespace:
    """`leasehold check FILE`."""
    return argparse.Namespace(file=str(file), config="", live=False, engine=False, users=False, json=False)


def no_loop(_: Coroutine[Any, Any, int]) -> int:
    """Nothing is asked, so no loop is run."""
    raise AssertionError("a server was asked")


def test_a_file_with_a_vault_is_told_of_without_asking_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "agent.toml"
    file.write_text(at_vault(rest=SOCKET))

    assert check(asked(file), run_loop=no_loop) == codes.OK

    lines = capsys.readouterr().out.splitlines()
    assert "vault: at https://vault:8200, logs in by kubernetes at auth/kubernetes as app" in lines
    assert lines[-1] == f"{file}: the file has no mistakes"


def test_a_login_whose_files_are_missing_here_is_told(tmp_path: Path) -> None:
    there, missing = tmp_path / "role-id", tmp_path / "secret-id"
    there.write_text("x")

    config = read(with_method("approle", f'role_id_file_path = "{there}"\nsecret_id_file_path = "{missing}"'))

    assert list(surroundings(config)) == [
        f"vault: secret_id_file_path {missing} is missing or cannot be read by this uid"
    ]


def test_a_ca_that_is_missing_here_is_told(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    method = f'[auto_auth.method]\ntype = "token_file"\nconfig = {{ token_file_path = "{token}" }}'

    config = read(at_vault(more_vault=f'ca_cert = "{tmp_path}/ca.pem"', method=method))

    assert list(surroundings(config)) == [f"vault: ca_cert {tmp_path}/ca.pem is missing or cannot be read by this uid"]


@pytest.mark.parametrize(("allow_disk", "told"), [("false", 1), ("true", 0)])
def test_a_login_that_would_be_written_to_a_disk_is_told(allow_disk: str, told: int) -> None:
    config = read(with_sink(f'path = "/proc/self/token"\nallow_disk = {allow_disk}'))

    lines = [line for line in surroundings(config) if "memory file system" in line]

    assert lines == ["/proc/self/token does not lie on a memory file system: `run` would refuse it"] * told
