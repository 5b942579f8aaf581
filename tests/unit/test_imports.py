"""Parts of packages, imported without the rest: in processes of their own, since an import is for good."""

import subprocess
import sys

import pytest

from agent.imports import import_below


def run(*lines: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


LOGIN = ("from agent.engines.login import load", "load()")
ADAPTER = (
    "import asyncio, sys",
    "from agent.clock import SystemClock",
    "from agent.config.upstreams import Vault",
    "from agent.engines.vault.wire import HttpWire",
    "wire = HttpWire('vault', Vault(address='http://127.0.0.1:1'), SystemClock())",
    "try: asyncio.run(wire.call('GET', 'sys/health'))",
    "except Exception as refused: assert 'refused' in str(refused), refused",
)


@pytest.mark.parametrize(
    ("lines", "there", "spared"),
    [
        (LOGIN, ("psycopg.pq", "psycopg.conninfo"), ("psycopg", "psycopg.types", "psycopg.connection_async")),
        (ADAPTER, ("hvac.adapters",), ("hvac", "hvac.v1", "hvac.api")),
    ],
    ids=["psycopg", "hvac"],
)
def test_the_part_is_there_and_the_rest_is_not(
    lines: tuple[str, ...], there: tuple[str, ...], spared: tuple[str, ...]
) -> None:
    loaded = run(*lines, "import sys", "print(*sys.modules)").split()

    assert set(there) <= set(loaded)
    assert not set(spared) & set(loaded)


@pytest.mark.parametrize(
    ("lines", "package", "part", "name"),
    [(LOGIN, "psycopg", "pq", "AsyncConnection"), (ADAPTER, "hvac", "adapters", "Client")],
    ids=["psycopg", "hvac"],
)
def test_the_package_can_still_be_had_whole_with_the_same_part(
    lines: tuple[str, ...], package: str, part: str, name: str
) -> None:
    before = f"part = sys.modules['{package}.{part}']"
    said = run(*lines, "import sys", before, f"from {package} import {part}, {name}", f"print({part} is part, {name})")

    assert said.startswith("True <class")


def test_a_package_that_is_there_is_left_alone() -> None:
    said = run(
        "import psycopg",
        "from agent.imports import import_below",
        "import_below('psycopg', 'psycopg.pq')",
        "import sys",
        "print(sys.modules['psycopg'] is psycopg)",
    )

    assert said == "True"


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        import_below("no_such_package", "no_such_package.part")
