"""A PostgreSQL server whose wall clock a test sets, while it runs: libfaketime (Debian package `libfaketime`) in front.

Only the server is preloaded; its monotonic clock, on which it sleeps, is left alone. Every setting is checked by asking
the server, so that no test passes where the preload did not take.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.dev.cluster import Binaries, Cluster
from tests.fix_postgres import SETTINGS, place, superuser

_REQUIRED = "faketime" in os.environ.get("LEASEHOLD_TEST_REQUIRE", "").split(",")
_PLACES = ("usr/lib/*/faketime/libfaketime.so.1", "usr/lib/faketime/libfaketime.so.1", "usr/lib*/libfaketime.so.1")
_START = """#!/bin/sh
export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={control}
export FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 FAKETIME_DONT_RESET=1
exec "$(dirname "$0")/postgres.real" "$@"
"""


def library() -> Path:
    """libfaketime; without it the test is skipped, or fails where LEASEHOLD_TEST_REQUIRE names faketime."""
    for pattern in _PLACES:
        for found in Path("/").glob(pattern):
            return found
    missing = "no libfaketime found, so no server's clock can be set: apt-get install libfaketime"
    if _REQUIRED:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


class Shifted:
    """A running server and its clock."""

    def __init__(self, cluster: Cluster, control: Path) -> None:
        self.cluster = cluster
        self._control = control

    def set(self, offset: float) -> None:
        """Let the server's clock read `offset` seconds more than this machine's, from now on."""
        _write(self._control, offset)
        off = self.now() - time.time()
        assert abs(off - offset) < 0.5, f"the server's clock is {off:+.1f} s off, not {offset:+.1f}: no preload?"

    def now(self) -> float:
        """Unix time by the server."""
        with superuser(self.cluster) as session:
            row = session.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
        assert row is not None
        return float(row[0])


def _write(control: Path, offset: float) -> None:
    fresh = control.with_suffix(".new")
    fresh.write_text(f"{offset:+.3f}")
    fresh.chmod(0o644)
    fresh.rename(control)


def _wrapped(binaries: Binaries, directory: Path, control: Path) -> Binaries:
    """The same programs, but that `postgres` starts with the library; laid out as an installation is."""
    prefix = binaries.bin_dir.parent
    mine = directory / prefix.parent.name / prefix.name
    (mine / "bin").mkdir(parents=True)
    for path in binaries.bin_dir.iterdir():
        (mine / "bin" / ("postgres.real" if path.name == "postgres" else path.name)).symlink_to(path)
    for name in ("lib", "share"):
        (mine / name).symlink_to(prefix / name)
    (directory / f"{prefix.parent.name}.libs").symlink_to(prefix.parent.with_name(f"{prefix.parent.name}.libs"))
    starter = mine / "bin" / "postgres"
    starter.write_text(_START.format(library=library(), control=control))
    starter.chmod(0o755)
    return Binaries(bin_dir=mine / "bin", major=binaries.major, source="with libfaketime")


@contextmanager
def shifted(binaries: Binaries, offset: float) -> Iterator[Shifted]:
    """A server of its own whose clock is `offset` seconds ahead."""
    memory = place()
    directory = Path(tempfile.mkdtemp(prefix="lh-clock-", dir=memory.parent if memory is not None else None))
    try:
        directory.chmod(0o755)  # the server runs as nobody
        control = directory / "clock"
        _write(control, offset)
        with Cluster(_wrapped(binaries, directory, control), place(), settings=SETTINGS) as cluster:
            one = Shifted(cluster, control)
            one.set(offset)
            yield one
    finally:
        shutil.rmtree(directory)
