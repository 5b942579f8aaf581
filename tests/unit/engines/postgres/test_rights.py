"""The judgements on what no server of the tests shows, and the SQL they write."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import PostgreSQL
from agent.engines.postgres.rights import Finding, Level, login, missing_grants, surroundings
from agent.engines.postgres.rights.estate import Crowded, Estate, Settings
from agent.engines.postgres.rights.finding import grant_admin, grantee, identifier, plain, revoke_membership
from tests.fix_postgres import Database
from tests.integration.postgres.site import NEWEST

CONFIG = PostgreSQL(host="db", dbname="app", user="leasehold_admin")
SETTINGS = Settings(
    standby=False,
    connections=97,
    used=3,
    password_encryption="scram-sha-256",
    log_statement="none",
    prepared=0,
    self_grant="",
)
ESTATE = Estate(
    settings=SETTINGS, live=3, overdue=0, oldest=0.0, strangers={}, crowded=(), open_schemas=()
)  # fmt: skip


def judged(
    version: int = 160014, *, live: int = 3, crowded: tuple[Crowded, ...] = (), **settings: Any
) -> list[Finding]:
    """What is not in order."""
    estate = replace(ESTATE, live=live, crowded=crowded, settings=replace(SETTINGS, **settings))
    return [one for one in surroundings.judge(estate, CONFIG, version=version) if one.level is not Level.OK]


def only(found: list[Finding]) -> Finding:
    (one,) = found
    return one


def test_an_ordinary_server_is_in_order() -> None:
    assert judged() == []


def test_a_standby_cannot_make_users() -> None:
    finding = only(judged(standby=True))

    assert finding.level is Level.MISSING
    assert "primary" in finding.text


@pytest.mark.parametrize(("used", "warned"), [(3, False), (77, False), (79, True), (97, True)])
def test_connections_that_run_out_are_a_warning(used: int, warned: bool) -> None:
    found = judged(used=used)

    assert bool(found) is warned
    assert all(f"{used} of 97 connections are in use" in one.text for one in found)


def test_passwords_that_others_set_should_be_scram_too() -> None:
    """PostgreSQL 13 still begins with md5."""
    finding = only(judged(password_encryption="md5"))

    assert finding.level is Level.WARNING
    assert finding.remedy[0] == "ALTER SYSTEM SET password_encryption = 'scram-sha-256'"


@pytest.mark.parametrize("logged", ["ddl", "mod", "all"])
def test_a_server_that_logs_ddl_is_told_to_log_verifiers_only(logged: str) -> None:
    estate = replace(ESTATE, settings=replace(SETTINGS, log_statement=logged))

    (finding,) = [one for one in surroundings.judge(estate, CONFIG, version=160000) if "log_statement" in one.text]

    assert finding.level is Level.OK
    assert "SCRAM verifiers" in finding.text


@pytest.mark.parametrize(("version", "slow"), [(150000, False), (160000, True)])
def test_more_than_a_thousand_live_users_are_worth_a_word(version: int, slow: bool) -> None:
    assert judged(version, live=1000) == []

    finding = only(judged(version, live=1001))

    assert finding.level is Level.WARNING
    assert ("takes longer with each" in finding.text) is slow


@pytest.mark.parametrize(("grantees", "words"), [(12, "near 2400 PostgreSQL makes no more"), (1000, "few more fit")])
def test_rights_of_each_user_s_own_fill_a_table_up(grantees: int, words: str) -> None:
    """D-19."""
    crowded = (Crowded(thing="table public.reports", lease_users=10, grantees=grantees),)

    finding = only(judged(crowded=crowded))

    assert finding.subject == "table public.reports"
    assert f"10, of {grantees} roles" in finding.text
    assert words in finding.text


@pytest.mark.parametrize(
    ("number", "level", "words"),
    [
        (110022, Level.MISSING, "PostgreSQL 11 is too old"),
        (90624, Level.MISSING, "too old"),
        (120022, Level.WARNING, "PostgreSQL 12 is no longer supported"),
        (130000, Level.OK, "PostgreSQL 13.0"),
        (180004, Level.OK, "PostgreSQL 18.4"),
    ],
)
def test_versions_that_are_not_ours_are_refused_or_warned_of(number: int, level: Level, words: str) -> None:
    """R003-127."""
    finding = login.version(number)

    assert finding.level is level
    assert words in finding.text


# --- the SQL of a remedy ------------------------------------------------------------------------------------------


def test_a_membership_is_revoked_from_whoever_granted_it() -> None:
    """From 16 on REVOKE takes only the grant of one grantor, by default not the one that is meant."""
    grantors = {("app", "pg_monitor"): "boss"}

    assert revoke_membership("pg_monitor", "app", version=150000, grantors=grantors) == (
        'REVOKE "pg_monitor" FROM "app"'
    )
    assert revoke_membership("pg_monitor", "app", version=160000, grantors=grantors) == (
        'REVOKE "pg_monitor" FROM "app" GRANTED BY "boss"'
    )
    assert revoke_membership("other", "app", version=160000, grantors=grantors) == 'REVOKE "other" FROM "app"'


def test_the_right_to_grant_comes_without_the_right_to_act() -> None:
    assert grant_admin("g", "app", version=150000) == 'GRANT "g" TO "app" WITH ADMIN OPTION'
    assert grant_admin("g", "app", version=180000) == 'GRANT "g" TO "app" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE'


def test_public_is_a_word_and_a_role_of_that_name_is_not() -> None:
    assert grantee("") == "PUBLIC"
    assert grantee("public") == '"public"'


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=60))
def test_nothing_in_a_name_acts_on_a_terminal(name: str) -> None:
    assert identifier(name).isprintable()
    assert plain(name).isprintable()


@pytest.fixture
def server(database: Database) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    with psycopg.connect(database.conninfo(), autocommit=True) as conn:
        yield conn


@NEWEST
@pytest.mark.parametrize(
    "name", ["plain", 'a"b', "a\\b", "a\nb", "\x1b[2J", "\u202eevil", "ä ö", "\U000e0001x", "a\\\nb"]
)
def test_the_server_reads_back_the_name_that_was_written(
    server: psycopg.Connection[tuple[Any, ...]], name: str
) -> None:
    cursor = server.execute(f"SELECT 1 AS {identifier(name)}".encode())

    assert cursor.description is not None
    assert cursor.description[0].name == name


# --- what a probe lacks -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lacking", "probe", "granted"),
    [
        ("table reports", "SELECT 1 FROM public.reports LIMIT 0", 'SELECT ON "public"."reports"'),
        ("table reports", "select 1 from reports", 'SELECT ON "reports"'),
        ("table Books", 'SELECT 1 FROM "My App"."Books"', 'SELECT ON "My App"."Books"'),
        ("table reports", "SELECT 1 FROM PUBLIC.Reports", 'SELECT ON "public"."reports"'),
        ("table reports", "/* UPDATE */ INSERT INTO app.reports VALUES (1)", 'INSERT ON "app"."reports"'),
        ("table my table", "SELECT 1", 'SELECT ON "my table"'),
        ("materialized view totals", "TABLE app.totals", 'SELECT ON "app"."totals"'),
        ("foreign table far", "SELECT 1 FROM far", 'SELECT ON "far"'),
        ("view v", "SELECT 'public.v' FROM s.v", 'SELECT ON "s"."v"'),
        ("table v", "SELECT a, v FROM v", 'SELECT ON "v"'),
        ("schema private", "SELECT 1 FROM private.books", 'USAGE ON SCHEMA "private"'),
        ("sequence ids", "SELECT nextval('ids')", 'USAGE ON SEQUENCE "ids"'),
        ("function f", "SELECT app.f()", 'EXECUTE ON FUNCTION "app"."f"'),
        ("table reports", "SELECT 'unclosed", 'SELECT ON "reports"'),
    ],
)
def test_the_grant_that_a_probe_lacks_is_written_for_the_group(lacking: str, probe: str, granted: str) -> None:
    assert missing_grants(lacking, [probe], "readers") == (f'GRANT {granted} TO "readers"',)


@pytest.mark.parametrize(("lacking", "group"), [("", "readers"), ("table", "readers"), ("table reports", None)])
def test_where_nothing_is_known_no_grant_is_made_up(lacking: str, group: str | None) -> None:
    assert missing_grants(lacking, ["SELECT 1 FROM reports"], group) == ()
