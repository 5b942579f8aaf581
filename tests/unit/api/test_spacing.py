"""At most one of a kind in a while."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.api.spacing import Allowance, Spacing


def test_the_first_of_each_kind_is_granted_and_the_next_after_the_interval() -> None:
    spacing = Spacing()

    waits = [spacing.wait("a", now, 10.0) for now in (0.0, 4.0, 9.0, 10.0, 19.5)]

    assert waits == [0.0, 6.0, 1.0, 0.0, 0.5]
    assert spacing.wait("b", 4.0, 10.0) == 0.0


def test_without_an_interval_everything_is_granted() -> None:
    spacing = Spacing()

    assert [spacing.wait("a", 1.0, 0.0) for _ in range(3)] == [0.0] * 3


def test_a_thousand_newer_kinds_push_out_the_oldest_but_not_the_recent_one() -> None:
    spacing = Spacing()
    for kind in range(1025):
        spacing.wait(kind, 0.0, 10.0)

    assert spacing.wait(1024, 1.0, 10.0) == 9.0
    assert spacing.wait(0, 1.0, 10.0) == 0.0


@given(st.lists(st.floats(0.0, 100.0), max_size=50))
def test_two_grants_of_a_kind_are_an_interval_apart(instants: list[float]) -> None:
    spacing = Spacing()

    granted = [now for now in sorted(instants) if spacing.wait("a", now, 7.0) == 0.0]

    assert all(later >= earlier + 7.0 for earlier, later in itertools.pairwise(granted))


def test_an_allowance_grants_a_burst_and_then_a_rate() -> None:
    allowance = Allowance(burst=3, rate=2.0)

    assert [allowance.wait("a", 100.0) for _ in range(5)] == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert allowance.wait("b", 100.0) == 0.0
    assert [allowance.wait("a", 100.5), allowance.wait("a", 100.5)] == [0.0, 0.5]
    assert [allowance.wait("a", 200.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


def test_whoever_invents_kinds_does_not_fill_the_memory_of_an_allowance() -> None:
    allowance = Allowance(burst=1, rate=0.001)
    for n in range(1025):
        assert allowance.wait(n, 0.0) == 0.0

    assert allowance.wait(0, 0.0) == 0.0, "the oldest was forgotten"
    assert allowance.wait(1024, 0.0) > 0.0
