"""Being somebody else: whether an ordinary user can run the program here at all, and with which Python."""

import contextlib
import functools
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")


@functools.cache
def _python_of_others() -> str:
    code = "import sys, agent.cli, aiohttp, psycopg; sys.exit(sys.version_info < (3, 11))"
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            argv = [python, "-c", code]
            if not subprocess.run(argv, user=NOBODY, cwd="/", env=environment(), capture_output=True).returncode:
                return python
    return ""


def python_of_others() -> str:
    """A Python that any user can run, with our libraries; ours may stand in root's home."""
    found = _python_of_others()
    if not found:
        pytest.skip("no Python of this version that an ordinary user can run")
    return found


def environment() -> dict[str, str]:
    """What that Python needs to find the program and its libraries."""
    return {"PYTHONPATH": f"{REPOSITORY}:{sysconfig.get_paths()['purelib']}", "PYTHONDONTWRITEBYTECODE": "1"}
