"""`make chaos`: kills real agents at every failpoint, again and again; 1 if a promise was broken.

ROUNDS=50 at each place, SEED=0, WORKERS=2 servers, MAJOR=the newest, ONLY=all places or, say, "file.staged at random".
A round that broke a promise comes again with its SEED and ONLY, as far as processes can be made to.
"""

import os
import sys
import time

from tests.chaos.crowd import PLACES, Crowd
from tests.fix_postgres import FOUND


def main() -> int:
    """Run it; 1 if a promise was broken."""
    rounds, seed = int(os.environ.get("ROUNDS") or 50), int(os.environ.get("SEED") or 0)
    workers, major = int(os.environ.get("WORKERS") or 2), int(os.environ.get("MAJOR") or max(FOUND))
    began = time.monotonic()
    places = [each for each in PLACES if each in (os.environ.get("ONLY") or each)]
    print(f"{rounds} rounds at each of {len(places)} places, on {FOUND[major]}, seed {seed}", flush=True)
    failed = Crowd(FOUND[major], rounds, places=places, workers=workers, seed=seed, tell=_say).run()
    took = time.monotonic() - began
    if failed:
        print(f"\nBROKEN after {took:.0f} s: {failed}")
        return 1
    print(f"{rounds * len(places)} rounds in {took:.0f} s: nothing lost, nothing left, nothing of others touched")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
