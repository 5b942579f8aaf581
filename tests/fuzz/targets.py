"""The targets by name; imported only when run, so that the fuzzer can instrument what they import."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

TARGETS = {
    "listener": "bytes on the socket, cut anywhere",
    "configuration": "a file's bytes, and a sound file with anything in its places",
    "quoting": "any text through every filter and format, and back by the rules of its reader",
    "template": "any template, rendered",
    "state": "what an earlier run is said to have left",
}
SEEDS = Path(__file__).parent / "seeds"
WORDS = Path(__file__).parent / "words"

Run = Callable[[bytes], None]


def target(name: str) -> Run:
    """The function of that target: raises whatever is wrong with the program."""
    run: Run = import_module(f"tests.fuzz.{name}").run
    return run
