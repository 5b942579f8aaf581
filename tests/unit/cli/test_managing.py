"""leases, stats and revoke as they ask a running agent and print what it says."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.canned import canned
from tests.unit.cli.conftest import Run

APP, NEAR, OTHER = "database/creds/app", "database/creds/app-2", "other/creds/app"


def row(lease_id: str, role: str = APP, **keys: Any) -> dict[str, Any]:
    return {
        "lease_id": lease_id,
        "role": role,
        "upstream": "postgresql",
        "state": "published",
        "owner": "web-0",
        "remaining": 100.5,
        **keys,
    }


def agent(
    *rows: dict[str, Any], scope: str = "operator", more: dict[str, tuple[int, Any]] | None = None
) -> dict[str, tuple[int, Any]]:
    return {
        "GET /v1/sys/health": (200, {"roles": {}, "scope": scope}),
        "GET /v1/sys/leases": (200, {"leases": list(rows), "total": len(rows)}),
        **(more or {}),
    }


def test_leases_are_a_table_that_fits_and_keeps_its_ids(run: Run, path: Path) -> None:
    """R000-034: ids are never cut, since they are copied; long names lose their beginning."""
    lease_id = "0f8fad5b-d9cb-469f-a165-70867728950e"
    long = row(lease_id, "database/creds/" + "r" * 60, owner="orders-" + "7" * 50 + "-xk2p9", remaining=-3.0)

    with canned(path, agent(long, row("second", remaining=None))):
        ended = run("leases")

    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[1].startswith(f"{lease_id}  …")
    assert lines[1].endswith("-xk2p9")
    assert "3 s ago" in lines[1]
    assert lines[2].split() == ["second", APP, "published", "-", "web-0"]


def test_leases_can_be_narrowed_and_counted(run: Run, path: Path) -> None:
    """R000-035: which role piles up; a prefix is a path."""
    rows = [row("1"), row("2", state="draining"), row("3", NEAR), row("4", OTHER, upstream="postgresql.b")]

    with canned(path, agent(*rows)):
        by_role = run("leases", "--group-by", "role")
        one = run("leases", "--role", APP, "--json")
        upstream = run("leases", "--engine", "postgresql.b", "--json")
        none = run("leases", "--role", "none")

    assert [line.split() for line in by_role.out.splitlines()] == [
        ["ROLE", "LEASES", "DRAINING", "PUBLISHED"],
        [APP, "2", "1", "1"],
        [NEAR, "1", "0", "1"],
        [OTHER, "1", "0", "1"],
    ]
    assert [each["lease_id"] for each in json.loads(one.out)["leases"]] == ["1", "2"]
    assert json.loads(one.out)["leases"][0]["owner"] == "web-0"
    assert [each["lease_id"] for each in json.loads(upstream.out)["leases"]] == ["4"]
    assert none.out == "no leases\n"


def test_what_a_name_would_do_to_a_terminal_is_shown(run: Run, path: Path) -> None:
    with canned(path, agent(row("1", "database/creds/\x1b[31mred", owner="a\nb"))):
        ended = run("leases")

    assert "\x1b" not in ended.out
    assert len(ended.out.splitlines()) == 2
    assert "\\x1b[31mred" in ended.out
    assert "a\\nb" in ended.out


def test_revoke_ends_one_lease_or_all_below_a_path(run: Run, path: Path) -> None:
    """R003-062, R000-036: only what the agent holds, and no role that merely begins alike."""
    answers = agent(
        row("1"),
        row("2", NEAR),
        row("3", OTHER),
        more={
            "POST /v1/sys/leases/revoke": (204, None),
            f"POST /v1/sys/leases/revoke-prefix/{APP}": (204, None),
        },
    )

    with canned(path, answers) as asked:
        one = run("revoke", "3", "--yes")
        path_ = run("revoke", "--prefix", f"{APP}/", "--yes")
        unknown = run("revoke", "4", "--yes")
        nowhere = run("revoke", "--prefix", "database/creds/ap", "--yes")

    assert (one.code, one.out) == (path_.code, path_.out) == (0, "revoked 1\n")
    assert [request for request in asked.requests if request[0].startswith("POST")] == [
        ("POST /v1/sys/leases/revoke", {"lease_id": "3"}),
        (f"POST /v1/sys/leases/revoke-prefix/{APP}", None),
    ]
    assert (unknown.code, nowhere.code) == (5, 5)
    assert "holds no such lease; --everyone" in unknown.err


def test_a_reader_is_told_that_it_may_not_revoke(run: Run, path: Path) -> None:
    """The agent answers a reader's revoke with success and does nothing: a person must not take that for done."""
    answers = agent(row("1"), scope="reader", more={"POST /v1/sys/leases/revoke": (204, None)})

    with canned(path, answers) as asked:
        ended = run("revoke", "1", "--yes")

    assert ended.code == 5
    assert "is no operator: add" in ended.err
    assert "listener.unix.allow_admin" in ended.err
    assert asked.lines == ["GET /v1/sys/health"]


@pytest.mark.parametrize(
    ("answer", "code", "words"),
    [
        ((202, {"warnings": ["postgresql does not answer"]}), 6, "postgresql does not answer"),
        ((202, None), 6, "goes on trying"),
        ((403, {"errors": ["uid 5 may not admin"]}), 5, "uid 5 may not admin"),
        ((429, {"errors": ["too soon"]}), 5, "too soon"),
    ],
)
def test_a_revocation_that_is_not_done_is_not_called_done(
    run: Run, path: Path, answer: tuple[int, Any], code: int, words: str
) -> None:
    with canned(path, agent(row("1"), more={"POST /v1/sys/leases/revoke": answer})):
        ended = run("revoke", "1", "--yes")

    assert (ended.code, ended.out) == (code, "")
    assert words in ended.err


@pytest.mark.parametrize("everyone", [[], ["--everyone", "-c", "no-such-file"]])
@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([""], "LEASE_ID: name a lease"),
        ([" \t"], "LEASE_ID: name a lease"),
        (["--prefix", "/ "], "--prefix: name a path"),
        (["--prefix", "database/\x1bcreds"], "no control characters"),
    ],
)
def test_an_empty_variable_does_not_mean_every_lease(
    run: Run, path: Path, argv: list[str], words: str, everyone: list[str]
) -> None:
    with canned(path, agent(row("1"), more={"POST /v1/sys/leases/revoke": (204, None)})) as asked:
        ended = run("revoke", *argv, *everyone, "--yes")

    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 1)
    assert words in ended.err
    assert "\x1b" not in ended.err
    assert asked.lines == []


def test_what_could_not_be_revoked_is_named(run: Run, path: Path) -> None:
    """The agent counts; a person has to know which, and where the reason stands."""
    answers = agent(
        row("1", state="doomed", failed=True),
        row("2", OTHER),
        more={
            "GET /v1/sys/health": (200, {"roles": {APP: {"error": "postgresql: away"}}, "scope": "operator"}),
            "POST /v1/sys/leases/revoke": (202, {"warnings": ["1 of 1 are not confirmed"]}),
        },
    )

    with canned(path, answers):
        ended = run("revoke", "1", "--yes")

    assert (ended.code, ended.out) == (6, "")
    assert ended.err.splitlines() == [
        "leasehold: 1 of 1 are not confirmed",
        f"leasehold: 1 of {APP} is left, tried and failed",
        f"leasehold: {APP}: newest failure: postgresql: away",
        "leasehold: why it could not be revoked: the agent's log, `revoke-failed`; how its role is doing: "
        "`leasehold status`",
    ]


def test_nothing_is_asked_of_the_agent_where_nobody_can_confirm(run: Run, path: Path) -> None:
    with canned(path, agent(row("1"))) as asked:
        ended = run("revoke", "1")

    assert ended.code == 2
    assert "add --yes" in ended.err
    assert not [line for line in asked.lines if line.startswith("POST")]


def test_stats_are_numbers_and_tables(run: Run, path: Path) -> None:
    """R003-056: active, by role and upstream, expiring soon."""
    found = {
        "active": 3,
        "expiring_soon": 1,
        "by_role": {APP: {"active": 2, "draining": 1}, OTHER: {"active": 1}},
        "by_upstream": {"postgresql": 3},
    }

    with canned(path, agent(more={"GET /v1/sys/leases/stats": (200, {"data": found})})):
        shown = run("stats")
        whole = run("stats", "--json")

    assert json.loads(whole.out) == found
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines == [
        ["active", "3"],
        ["expiring", "soon", "1"],
        [],
        ["BY", "ROLE", "ACTIVE", "DRAINING"],
        [APP, "2", "1"],
        [OTHER, "1", "-"],
        [],
        ["BY", "UPSTREAM", "LEASES"],
        ["postgresql", "3"],
    ]


def test_an_agent_that_refuses_is_quoted_on_one_line(run: Run, path: Path) -> None:
    with canned(path, {"GET /v1/sys/leases": (403, {"errors": ["uid 5 may not\n\x1b[2Jread"]})}):
        ended = run("leases")

    assert (ended.code, ended.out, ended.err) == (5, "", "leasehold: uid 5 may not\\n\\x1b[2Jread\n")


def test_an_agent_that_knows_no_such_path_leads_to_the_journals(run: Run, path: Path) -> None:
    """A pod's agent may be older than the command beside it."""
    with canned(path, {}):
        ended = run("leases")

    assert ended.code == 5
    assert "--everyone reads the journals" in ended.err
