"""Every seed through its target, as ordinary tests: what fuzzing has found once is not to come back.

To add what a run has found: `cp .fuzz/<target>-crash-… tests/fuzz/seeds/<target>/<what-it-shows>`.
"""

from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.fuzz.inputs import Input
from tests.fuzz.targets import SEEDS, TARGETS, target


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    """What a target keeps open between inputs ends with its test."""
    yield
    for name in TARGETS:
        close = getattr(import_module(f"tests.fuzz.{name}"), "close", None)
        if close is not None:
            close()


@pytest.mark.parametrize("name", TARGETS)
def test_no_seed_fails(name: str) -> None:
    run, seeds = target(name), sorted((SEEDS / name).iterdir())
    assert len(seeds) > 5

    for seed in seeds:
        try:
            run(seed.read_bytes())
        except Exception as error:
            error.add_note(f"with {seed}")
            raise


@pytest.mark.parametrize("name", TARGETS)
def test_no_beginning_of_a_seed_fails(name: str) -> None:
    """The poor man's fuzzing: every seed cut off in a few places, for Pythons that the fuzzer does not support."""
    run = target(name)

    for seed in sorted((SEEDS / name).iterdir()):
        data = seed.read_bytes()
        for end in {len(data) // 4, len(data) // 2, len(data) - 1}:
            try:
                run(data[: max(0, end)])
            except Exception as error:
                error.add_note(f"with {seed}[:{end}]")
                raise


def test_an_input_has_a_value_for_whatever_is_asked() -> None:
    given = Input(b"\x05ab\0\xff\0rest")

    assert (given.number(), given.text(), given.text(), given.choice("xyz"), given.rest()) == (
        5,
        "ab",
        "\udcff",
        "x",  # "r" is 114, which is 0 of 3
        b"est",
    )
    assert given.empty
    assert (given.number(), given.text(), given.rest()) == (0, "", b"")
