"""Memory: when Python's collector of cycles looks, and from where the C library takes what it hands out.

Imports make a quarter of a million objects, and nearly all of them stay: to look through them time and again is a
seventh of the CPU until the first credential. So the collector hardly looks while the agent starts, and never again at
what the start made.
"""

import contextlib
import ctypes
import gc

_STARTING = 50_000
"""New objects between two looks while the agent starts, in place of 700 (2,000 in later versions): some MiB at most,
for as long as an upstream that cannot be reached keeps it from having started."""

_usual = gc.get_threshold()


_M_ARENA_MAX = -8  # malloc.h


def spare_start() -> None:
    """Look seldom, until `settle`; to be called before the imports, and before there are threads."""
    gc.set_threshold(_STARTING, *_usual[1:])


def one_heap() -> None:
    """Have all threads share glibc's first heap, where there is glibc: each would get its own, and keep half of it.

    They hold Python's lock while they allocate, so none waits for another. 0.6 MiB of 51 once the agent has started.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def settle() -> None:
    """Look as usual, and no more at what is there: it lives for ever, and no read need wait for a look at it."""
    gc.freeze()
    gc.set_threshold(*_usual)
