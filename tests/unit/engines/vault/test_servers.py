"""What sys/health's answers mean for a cluster and its clock."""

from typing import Any

import pytest

from agent.engines.finding import Level
from agent.engines.vault.answers import Answer
from agent.engines.vault.servers import State, judged, state_of

NOW = 1_800_000_000.4


def answer(status: int = 200, **body: Any) -> Answer:
    plain = {"initialized": True, "sealed": False, "standby": False, "version": "2.6.2", "server_time_utc": int(NOW)}
    return Answer(status=status, body={**plain, **body})


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (answer(), ""),
        (answer(sealed=True), "is sealed"),
        (answer(sealed="no"), "is sealed"),
        (answer(initialized=False, sealed=True), "is not initialised"),
        (answer(404), "does not say how it is (404)"),
    ],
)
def test_only_a_server_that_says_so_is_of_use(given: Answer, wrong: str) -> None:
    state = state_of("https://v:8200", given, NOW)

    assert state.wrong.startswith(wrong)
    assert bool(state.wrong) is bool(wrong)


@pytest.mark.parametrize(
    ("ahead", "words"), [(0, ""), (4, ""), (-5, ""), (6, "is 6 s ahead of ours"), (-3600, "is 3600 s behind ours")]
)
def test_a_clock_that_is_wrong_is_worth_a_word(ahead: int, words: str) -> None:
    found = judged([state_of("https://v:8200", answer(server_time_utc=int(NOW) + ahead), NOW)])

    assert [one.level for one in found] == [Level.OK, *([Level.WARNING] if words else [])]
    assert words in found[-1].text


def test_without_a_time_in_the_body_the_header_counts_and_without_either_nothing_is_said() -> None:
    body = {"initialized": True, "sealed": False}

    told = state_of("https://v:8200", Answer(status=200, body=body, server_time=NOW + 60), NOW)
    silent = state_of("https://v:8200", Answer(status=200, body=body), NOW)

    assert round(told.skew) == 60
    assert silent.skew == 0


def test_one_server_that_serves_is_enough() -> None:
    away = State(address="https://a:8200", wrong="is sealed")
    there = State(address="https://b:8200", version="2.6.2", standby=True)

    assert [one.level for one in judged([away, there])] == [Level.WARNING, Level.OK]
    assert [one.level for one in judged([away])] == [Level.MISSING]
    assert "standby" in judged([there])[0].text


def test_nothing_in_a_server_s_words_acts_on_a_terminal() -> None:
    found = judged([state_of("https://v:8200", answer(version="2.6\x1b[31m"), NOW)])

    assert all(one.text.isprintable() for one in found)
