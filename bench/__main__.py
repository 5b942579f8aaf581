"""`python -m bench [NAME…]` runs the benchmarks, all but `vault` by default, and prints a table each.

`python -m bench soak [MINUTES]` is a run of its own: half an hour by default.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from bench.read import Row

BENCHMARKS = {
    "start": ("exec to first credential, and memory", "aiohttp*"),
    "read": ("cached read on a Unix socket", "aiohttp"),
}
VAULT = "vault"
ALONE = {"growth": "what 10, 100 and 1,000 roles cost", VAULT: "beside bao agent; only where asked for"}
"""Benchmarks with a table of their own."""

SOAK = "soak"
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
    known = (*BENCHMARKS, *ALONE)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; all but {VAULT} by default")
    names = parser.parse_args(argv).names or [name for name in known if name != VAULT]
    if names[0] == SOAK:
        return int(importlib.import_module("bench.soak").main(names[1:]))
    unknown = [name for name in names if name not in known]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join((*known, SOAK))}")
    for name in names:
        module = importlib.import_module(f"bench.{name}")
        if name in BENCHMARKS:
            show(*BENCHMARKS[name], module.run())
        else:
            module.show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
