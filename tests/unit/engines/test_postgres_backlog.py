"""What a sweep takes first."""

from agent.engines.postgres.backlog import Backlog

STUCK, OTHER, FRESH = ("a", "role"), ("b", "role"), ("c", "role")


def test_what_never_failed_comes_before_what_did():
    backlog = Backlog()
    backlog.begin("a", 0.0)

    assert backlog.turn([STUCK, FRESH, OTHER], 1000.0) == [FRESH, OTHER, STUCK]


def test_what_failed_rests_first():
    backlog = Backlog()
    backlog.begin("a", 0.0)

    assert backlog.turn([STUCK], 14.9) == []
    assert backlog.turn([STUCK], 15.0) == [STUCK]


def test_the_rest_doubles_up_to_ten_minutes():
    backlog, now = Backlog(), 0.0
    rests = []

    for _ in range(1500):
        backlog.begin("a", now)
        began = now
        while not backlog.turn([STUCK], now):
            now += 15.0
        rests.append(now - began)

    assert rests[:7] == [15.0, 30.0, 60.0, 120.0, 240.0, 480.0, 600.0]
    assert set(rests[7:]) == {600.0}


def test_of_those_that_failed_the_one_that_waits_longest_comes_first():
    backlog = Backlog()
    backlog.begin("b", 1.0)
    backlog.begin("a", 2.0)

    assert backlog.turn([STUCK, OTHER], 100.0) == [OTHER, STUCK]


def test_the_reasons_stay_while_it_rests_and_go_with_its_end():
    backlog = Backlog()
    backlog.begin("a", 0.0)
    backlog.explain("a", "somebody holds it")
    backlog.turn([STUCK], 1.0)

    assert list(backlog.lines) == ["somebody holds it"]
    backlog.ended("a")
    assert list(backlog.lines) == []
    assert backlog.turn([STUCK], 1.0) == [STUCK]


def test_what_another_agent_has_ended_is_forgotten():
    backlog = Backlog()
    backlog.begin("a", 0.0)

    backlog.turn([], 1.0)

    assert list(backlog.lines) == []
    assert backlog.turn([STUCK], 2.0) == [STUCK]
