"""`python -m bench [NAME…]` runs the benchmarks, all of them by default, and prints a table each."""

import argparse
import importlib
import sys
from collections.abc import Sequence

from bench.read import Row

BENCHMARKS = {
    "start": ("exec to first credential, and memory", "aiohttp*"),
    "read": ("cached read on a Unix socket", "aiohttp"),
}
NOTE = "* python -c 'import aiohttp.web', which serves nothing yet"


def show(title: str, beside: str, rows: Sequence[Row]) -> None:
    """Print a table: ours, what it stands beside, and the median of the rounds' ratios."""
    width = max(len(title), *(len(row.name) for row in rows))
    print(f"{title:{width}} {'leasehold':>10} {beside:>10} {'ratio':>6}")
    for row in rows:
        print(f"{row.name:{width}} {row.ours:10.1f} {row.plain:10.1f} {row.ratio:6.2f}")
    if beside.endswith("*"):
        print(NOTE)
    print(flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; only the ratios are claims.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names = parser.parse_args(argv).names or list(BENCHMARKS)
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    for name in names:
        title, beside = BENCHMARKS[name]
        show(title, beside, importlib.import_module(f"bench.{name}").run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
