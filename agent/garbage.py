"""When Python's collector of cycles looks: hardly while the agent starts, and never again at what the start made.

Imports make a quarter of a million objects, and nearly all of them stay: to look through them time and again is a
seventh of the CPU until the first credential.
"""

import gc

_STARTING = 50_000
"""New objects between two looks while the agent starts, in place of 700 (2,000 in later versions): some MiB at most,
for as long as an upstream that cannot be reached keeps it from having started."""

_usual = gc.get_threshold()


def spare_start() -> None:
    """Look seldom, until `settle`; to be called before the imports."""
    gc.set_threshold(_STARTING, *_usual[1:])


def settle() -> None:
    """Look as usual, and no more at what is there: it lives for ever, and no read need wait for a look at it."""
    gc.freeze()
    gc.set_threshold(*_usual)
