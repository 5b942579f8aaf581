"""docs/runbook.md speaks of lines and alerts that exist, and has an entry for every alert's description to lead to."""

import re
from pathlib import Path

from agent.log import Event
from tests.unit.test_alerts import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text()
HEADINGS = "\n".join(re.findall(r"(?m)^### .*$", PAGE))


def test_every_line_of_the_log_that_has_an_entry_exists() -> None:
    named = set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`", HEADINGS))

    assert named
    assert named <= {event.value for event in Event}


def test_every_alert_that_has_an_entry_exists() -> None:
    named = set(re.findall(r"\bLeasehold[A-Z]\w+", PAGE))

    assert named
    assert named <= set(RULES)


def test_every_failure_of_a_login_has_an_entry() -> None:
    for event in (Event.LOGIN_LOST, Event.WRAPPING_TOKEN_REUSED, Event.FAILOVER, Event.GRANTED_LESS):
        assert f"`{event.value}`" in HEADINGS
    assert {"LeaseholdLoginFailing", "LeaseholdLoginEnding"} <= set(re.findall(r"\bLeasehold[A-Z]\w+", PAGE))
