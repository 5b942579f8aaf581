"""At most one of a kind in a while."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from agent.api.spacing import Spacing


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
