"""Runs commands in this process."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from agent.cli import main

Run = Callable[..., "Ended"]


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """A socket's path that is short enough wherever the tests keep their files."""
    here = Path.cwd()
    os.chdir(tmp_path)
    yield Path("agent.sock")
    os.chdir(here)


@pytest.fixture
def run(path: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run("get", "app")`, with the socket `path`."""

    def command(*argv: str) -> Ended:
        code = main([*argv, "-s", str(path)])
        out, err = capfd.readouterr()
        return Ended(code, out, err)

    return command
