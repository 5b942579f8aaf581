"""What `leasehold check` prints of what it found."""

from agent.engines.postgres.rights import Diagnosis, Finding, Inspection, Level
from agent.engines.postgres.rights.diagnosis import GroupRight, LeaseUser
from agent.examine import Note
from agent.reports import document, lines
from agent.trial import Tried

FINDING = Finding(
    level=Level.MISSING, subject="login a", text="lacks CREATEROLE", remedy=('ALTER ROLE "a" CREATEROLE',)
)
FINE = Finding(level=Level.OK, subject="server", text="PostgreSQL 16.14")


def inspection(*findings: Finding) -> Inspection:
    return Inspection(upstream="postgresql", place="db:5432/app", user="a", reached=True, findings=findings)


def user(name: str, **changes: object) -> LeaseUser:
    values: dict[str, object] = {
        "user": name,
        "role": "r",
        "holder": "pod",
        "expires_in": 90.0,
        "valid_until": "2026-01-01T00:00:00Z",
        "there": True,
        "sessions": 0,
    }
    return LeaseUser(**{**values, **changes})  # type: ignore[arg-type]


def test_findings_stand_in_columns_each_with_its_remedy() -> None:
    assert lines(inspection(FINDING, FINE)) == [
        "postgresql: a at db:5432/app",
        "  missing   login a: lacks CREATEROLE",
        '            ALTER ROLE "a" CREATEROLE;',
        "  ok        server: PostgreSQL 16.14",
        "  1 missing",
    ]
    assert lines(inspection(FINE))[-1] == "  nothing is missing, nothing is too much"


def test_a_role_that_was_not_logged_in_with_is_not_said_to_have_been() -> None:
    tried = [Tried(role="r", took=0.0421, verified=verified) for verified in (True, False, None)]

    told = [lines(one)[0] for one in tried]

    assert told[0] == "r: minted a user, logged in with it, renewed it, revoked it, in 42 ms"
    assert "could not find out whether it logs in" in told[1]
    assert "did not log in with it (no verify target)" in told[2]


def test_a_failed_role_names_step_reason_and_remedy() -> None:
    tried = Tried(role="r", took=1.0, failed="log in with it", error="refused", remedy=("GRANT x TO y",))

    assert lines(tried) == ["r: could not log in with it: refused", "            GRANT x TO y;"]


def test_users_are_told_by_what_has_become_of_them() -> None:
    found = Diagnosis(
        upstream="postgresql",
        place="db:5432/app",
        users=(
            user("one"),
            user("two", expires_in=-5.0),
            user("three", there=False, valid_until=""),
            user("four", expires_in=None, role="", holder=""),
            user("fi\x1bve"),
        ),
        rights=(GroupRight(group="readers", thing="public.re\nports", privileges="SELECT"),),
    )

    told = lines(found)

    states = {line.split()[0]: line.split()[1] for line in told[2:7]}
    assert states == {"one": "live", "two": "ended", "three": "gone", "four": "stranger", "fi?ve": "live"}
    assert told[-1].split() == ["readers", "public.re?ports", "SELECT"]
    assert all(line.isprintable() for line in told)


def test_where_there_is_nobody_nothing_is_drawn() -> None:
    told = lines(Diagnosis(upstream="postgresql", place="db:5432/app"))

    assert told[0] == "postgresql: lease users at db:5432/app: none"
    assert told[-1] == "  nothing of their own"


def test_the_document_is_ok_where_the_exit_code_is() -> None:
    whole = document("f", ["w"], [inspection(FINE), Tried(role="r", took=0.1), Diagnosis(upstream="p", place="x")])

    assert (whole["file"], whole["ok"], whole["warnings"]) == ("f", True, ["w"])
    assert [len(whole[key]) for key in ("servers", "roles", "users")] == [1, 1, 1]
    assert document("f", [], [inspection(FINDING)])["ok"] is False
    assert document("f", [], [Tried(role="r", took=0.1, failed="mint")])["ok"] is False
    assert document("f", [], [Diagnosis(upstream="p", place="x", error="away")])["ok"] is False


def test_a_vault_s_remedy_is_a_policy_and_no_sql() -> None:
    line = 'path "a" { capabilities = ["read"] }'
    finding = Finding(level=Level.MISSING, subject="path a", text="the login may not read it", remedy=(line,))

    told = lines(Inspection(upstream="vault.eu", place="https://v", user="jwt", reached=True, findings=(finding,)))

    assert told[2].strip() == line


def test_what_could_go_better_stands_below_a_role_that_went_well() -> None:
    tried = Tried(role="r", took=0.01, verified=True, done=("read it", ""), notes=("its login is short",))

    assert lines(tried) == ["r: read it, logged in with it, in 10 ms", "  warning   its login is short"]


def test_a_note_is_no_failure_and_stands_in_the_document() -> None:
    note = Note(upstream="vault", text="vault: cannot be listed")

    whole = document("f", [], [note])

    assert lines(note) == ["vault: cannot be listed"]
    assert (whole["ok"], whole["notes"]) == (True, [{"upstream": "vault", "text": "vault: cannot be listed"}])
