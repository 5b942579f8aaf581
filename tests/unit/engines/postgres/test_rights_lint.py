"""What plain `leasehold check` says of a role's SQL without a server, and what it keeps quiet about."""

import pytest

from agent.config.model import Config, Role
from agent.engines.postgres import check_statements, lint_role
from tests.unit.config.trees import EXAMPLE

CREATE = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""


def lint(*creation: str, description: str = "an app", group: str | None = None) -> list[str]:
    role = Role(upstream="postgresql", creation_statements=creation, description=description, group=group)
    assert check_statements("r", role) == []
    return lint_role("r", role)


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("GRANT ALL ON public.t TO app", "grants ALL"),
        ("grant all privileges on all tables in schema public to app", "grants ALL"),
        ("GRANT SELECT ON public.t TO app, PUBLIC", "grants to PUBLIC"),
        ("GRANT SELECT ON public.t TO PUBLIC WITH GRANT OPTION", "grants to PUBLIC"),
        ('ALTER ROLE "{{name}}" SUPERUSER', "gives SUPERUSER"),
        ('ALTER USER "{{name}}" WITH CREATEDB BYPASSRLS', "gives BYPASSRLS"),
        ("GRANT ALL ON DATABASE app TO app", "grants on the whole database"),
        ("GRANT CONNECT, CREATE ON DATABASE app TO app", "grants on the whole database"),
        ('GRANT pg_read_all_data TO "{{name}}"', "gives pg_read_all_data, every table of every database"),
        ('GRANT readers TO "{{name}}" WITH ADMIN OPTION', "grant it to others"),
        ('GRANT readers TO "{{name}}" WITH ADMIN TRUE', "grant it to others"),
        ('GRANT SELECT ON public.t TO "{{name}}" WITH GRANT OPTION', "grant it to others"),
    ],
)
def test_what_goes_too_far_is_named_with_its_place(statement: str, said: str) -> None:
    """R003-066, R003-067."""
    found = lint(CREATE, f"SELECT 1; {statement}")

    assert [line for line in found if line.startswith("creation_statements[1] ") and said in line], found


@pytest.mark.parametrize(
    "statement",
    ['GRANT SELECT ON public.reports TO "{{name}}"', "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO app"],
)
def test_grants_to_each_user_are_advised_against(statement: str) -> None:
    """D-19."""
    (line,) = lint(f"{CREATE}; {statement}")

    assert line.startswith("creation_statements: its statements grant privileges to each user")
    assert "set `group`" in line


@pytest.mark.parametrize(
    "statements",
    [
        (),
        (f"{CREATE} IN ROLE readers",),
        (f"{CREATE} NOSUPERUSER NOCREATEROLE NOCREATEDB IN ROLE replication",),
        (CREATE, 'GRANT readers TO "{{name}}"'),
        (CREATE, """COMMENT ON ROLE "{{name}}" IS 'GRANT ALL TO PUBLIC; SUPERUSER'"""),
        (CREATE, 'ALTER ROLE "{{name}}" SET search_path = app -- SUPERUSER'),
    ],
)
def test_the_membership_pattern_and_what_only_looks_like_a_grant_pass(statements: tuple[str, ...]) -> None:
    assert lint(*statements, group="readers") == []


def test_connect_on_the_database_is_no_wide_grant() -> None:
    """It is every user's own all the same, as the vendors' examples have it."""
    (line,) = lint(f'{CREATE}; GRANT CONNECT ON DATABASE app TO "{{{{name}}}}"')

    assert "whole database" not in line


@pytest.mark.parametrize("description", ["", "  "])
def test_a_role_says_what_it_is_for(description: str) -> None:
    """R003-096."""
    assert lint(group="readers", description=description) == ["description is missing: say what the role is for"]


def test_a_group_of_postgresql_s_own_is_too_wide() -> None:
    (line,) = lint(group="pg_read_all_data")

    assert line.startswith("group is one of PostgreSQL's own")


def test_each_thing_is_said_once_per_statement() -> None:
    found = lint(CREATE, "GRANT ALL ON public.a TO app; GRANT ALL ON public.b TO app")

    assert sum("grants ALL" in line for line in found) == 1


def test_the_example_file_is_an_example(example: Config) -> None:
    minted = {name: role for name, role in example.role.items() if not role.at_vault}

    assert minted
    for name, role in minted.items():
        assert lint_role(name, role) == [], name


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Config:
    from agent.config.load import load_file

    return load_file(EXAMPLE, environ={})
