from typing import Any

from agent import table

ROLE: dict[str, Any] = {
    "phase": "fresh",
    "state": "fresh",
    "remaining": 3599,
    "expires_at": "2026-01-01T00:00:00Z",
    "generation": 17,
    "verified": True,
    "required": True,
    "lazy": False,
    "failures": 0,
    "retry_in": None,
    "next_step": "renew",
    "next_in": 2400.2,
    "draining": 1,
    "error": None,
}


def report(**role: Any) -> dict[str, Any]:
    return {
        "version": "1",
        "started": True,
        "ready": True,
        "live": True,
        "roles": {"database/creds/app": {**ROLE, **role}},
        "files": [{"path": "/f", "state": "failed", "error": "no space"}, {"path": "/g", "state": "written"}],
        "upstreams": [{"name": "postgresql", "circuit": "open"}],
    }


def test_lengths_of_time_read_well() -> None:
    shown = [table.seconds(each) for each in (None, 0.9, 119, 120, 7199, 7200, 90061)]

    assert shown == ["-", "0 s", "119 s", "2 min 00 s", "119 min 59 s", "2 h 00 min", "25 h 01 min"]


def test_a_healthy_role_is_one_line() -> None:
    lines = table.health(report())

    assert lines[0] == "leasehold 1: started, ready, live"
    assert lines[3].split() == [
        *("database/creds/app", "fresh", "59", "min", "59", "s"),
        *("renew", "40", "min", "00", "s", "1", "yes", "17"),
    ]
    assert "/f: failed (no space)" in lines
    assert "/g: written" in lines
    assert "postgresql: does not answer" in lines


def test_a_failing_role_says_why_and_when_it_is_tried_again() -> None:
    failing = report(state="none", phase="failing", remaining=None, error="refused", failures=3, retry_in=4.0)

    lines = table.health({**failing, "ready": False})

    assert "not ready" in lines[0]
    assert "failing" in lines[3]
    assert "retry" in lines[3]
    assert "database/creds/app: refused (3 failed in a row)" in lines


def test_a_reader_without_roles_is_told_so() -> None:
    assert "no role that this uid may read" in table.health({**report(), "roles": {}})
