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


LOGIN: dict[str, Any] = {
    "method": "jwt",
    "mount": "auth/jwt-eu",
    "phase": "fresh",
    "expires_in": 45,
    "failures": 0,
    "retry_in": None,
    "next_step": "renew",
    "next_in": 20.5,
    "draining": 0,
    "error": None,
}


def login_line(circuit: str = "closed", **login: Any) -> str:
    upstream = {"name": "vault", "circuit": circuit, "address": "https://v:8200", "login": {**LOGIN, **login}}
    return table.health({**report(), "upstreams": [upstream]})[-1]


def test_a_login_is_one_line_with_what_comes_next() -> None:
    assert login_line() == "vault: logged in by jwt at auth/jwt-eu at https://v:8200, 45 s left, renew in 20 s"
    assert login_line(draining=2).endswith(", 2 older draining")
    assert login_line(method="token_file", mount=None).startswith("vault: logged in by token_file at https://v:8200")


def test_a_login_that_is_missing_or_fails_says_why_and_when_it_is_tried_again() -> None:
    failing: dict[str, Any] = {"error": "no file", "failures": 3, "retry_in": 8.0}

    assert login_line(phase="failing", expires_in=None, **failing) == (
        "vault: not logged in by jwt at auth/jwt-eu at https://v:8200: no file (3 failed in a row; next try in 8 s)"
    )
    assert login_line(phase="stale", **failing).startswith(
        "vault: logged in by jwt at auth/jwt-eu at https://v:8200, 45"
    )
    assert login_line(phase="starting", expires_in=None, next_in=None).startswith("vault: logging in by jwt")


def test_an_end_that_is_the_logins_is_marked_and_explained_once() -> None:
    marked, plain = table.health(report(ends_with_login=True)), table.health(report(ends_with_login=False))

    assert " s*  renew" in marked[3]
    assert marked[4].startswith("* our login's end")
    assert not any("*" in line for line in plain)


def test_a_reader_without_roles_is_told_so() -> None:
    assert "no role that this uid may read" in table.health({**report(), "roles": {}})
