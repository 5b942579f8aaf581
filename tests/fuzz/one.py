"""One target under atheris, for as long as libFuzzer's options say: `python -m tests.fuzz.one NAME FIGURES [OPTION…]`.

The process ends inside libFuzzer. FIGURES is a file that always holds the longest that an input has taken, in seconds.
"""

import sys
import time
from pathlib import Path

import atheris

from tests.fuzz.targets import target

_INSTRUMENTED = ["agent", "jinja2", "tomllib", "tests.fuzz"]


def main() -> None:
    """Never returns."""
    name, figures, *options = sys.argv[1:]
    with atheris.instrument_imports(include=_INSTRUMENTED, enable_loader_override=False):
        run = target(name)
    longest = 0.0

    def timed(data: bytes) -> None:
        nonlocal longest
        began = time.perf_counter()
        run(data)
        took = time.perf_counter() - began
        if took > longest:
            longest = took
            Path(figures).write_text(f"{longest:.3f}")

    atheris.Setup([sys.argv[0], *options], timed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
