"""Runs targets under atheris and tells what came of it: `python -m tests.fuzz --seconds 600 [target…]`."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

from tests.fuzz.targets import SEEDS, TARGETS, WORDS

_FIGURES = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/")
_TIMEOUT = 10
"""Seconds after which an input counts as a hang."""


def main() -> int:
    """1 where a target failed."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all by default")
    parser.add_argument("--seconds", type=int, default=600, help="for each target (default 600)")
    parser.add_argument("--found", type=Path, default=Path(".fuzz"), help="where failing inputs go (default .fuzz)")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no such target: {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if find_spec("atheris") is None:
        return _say("atheris is not installed: it has wheels for CPython on Linux and macOS; `make fuzz` installs it")
    arguments.found.mkdir(exist_ok=True)
    failed = [name for name in arguments.targets or TARGETS if not _fuzzed(name, arguments.seconds, arguments.found)]
    return 1 if failed else 0


def _say(line: str) -> int:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
    return 1


def _fuzzed(name: str, seconds: int, found: Path) -> bool:
    """Run one target; whether all was well."""
    with tempfile.TemporaryDirectory(prefix="leasehold-fuzz-") as corpus:
        figures = Path(corpus) / "longest"
        new = Path(corpus) / "new"
        new.mkdir()
        options = [
            *(f"-max_total_time={seconds}", f"-timeout={_TIMEOUT}", "-max_len=4096", "-rss_limit_mb=2048"),
            f"-artifact_prefix={found}/{name}-",
        ]
        words = WORDS / name
        options += [f"-dict={words}"] if words.exists() else []
        argv = [sys.executable, "-m", "tests.fuzz.one", name, str(figures), *options, str(new), str(SEEDS / name)]
        log = found / f"{name}.log"
        with log.open("wb") as out:
            code = subprocess.run(argv, stdout=out, stderr=out, env={**os.environ, "PYTHONUNBUFFERED": "1"}).returncode
        longest = figures.read_text() if figures.exists() else "?"
    match = _FIGURES.search(log.read_text(errors="replace"))
    if code or match is None:
        _say(f"{name}: FAILED after {seconds} s at most; {log} says why, the input lies beside it")
        return False
    runs, edges, features, kept = match.groups()
    _say(
        f"{name}: {int(runs):,} executions in {seconds} s, {edges} edges and {features} features covered, "
        f"{kept} inputs kept, longest input {longest} s, no failure"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
