"""Verification against real servers: what each of them says of a credential, and that nothing keeps us waiting."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
import uvloop
from psycopg import sql

from agent.clock import SystemClock
from agent.dev.cluster import Cluster
from agent.engines.verify import LoginVerifier, Target
from agent.errors import CredentialRefused
from agent.leases.lease import Secret
from tests.fix_postgres import Database, StartCluster

USER = 'v_app_"x7'
PASSWORD = Secret("it's \\ hunter2")
DATA = {"username": Secret(USER), "password": PASSWORD}
LOOPS = (asyncio.new_event_loop, uvloop.new_event_loop)


def create_user(conninfo: str, *, group: str | None = None) -> None:
    """The credential of these tests, as an engine would have minted it."""
    with psycopg.connect(conninfo, autocommit=True) as conn:
        words = {"user": sql.Identifier(USER), "password": sql.Literal(PASSWORD.reveal())}
        conn.execute(sql.SQL("CREATE ROLE {user} LOGIN PASSWORD {password}").format(**words))
        if group is not None:
            conn.execute(sql.SQL("GRANT {} TO {user}").format(sql.Identifier(group), **words))


@pytest.fixture
def target(database: Database) -> Target:
    """The database of this test, where the credential may log in and read `reports`."""
    create_user(database.cluster.conninfo(), group=database.group)
    return Target(host=database.host, port=database.port, dbname=database.dbname, sslmode="disable")


async def verified(target: Target, *, within: float = 0.3, password: Secret = PASSWORD) -> bool:
    clock = SystemClock()
    data = {"username": Secret(USER), "password": password}
    return await LoginVerifier((target,), clock, attempt_timeout=1.0)(data, clock.now() + within)


async def refusal(target: Target, *, password: Secret = PASSWORD) -> CredentialRefused:
    """The refusal; it gives away neither user nor password."""
    with pytest.raises(CredentialRefused) as caught:
        await verified(target, within=0.0, password=password)
    assert "hunter2" not in str(caught.value)
    assert USER not in str(caught.value)
    assert f"{target.host}:{target.port}/{target.dbname}" in str(caught.value)
    return caught.value


# --- answers ------------------------------------------------------------------------------------------------------


async def test_a_good_credential_is_verified(target: Target, database: Database) -> None:
    assert await verified(target)
    assert await verified(replace(target, probe="SELECT 1 FROM reports LIMIT 0"))
    assert await verified(replace(target, host=str(database.cluster.socket_dir)))
    assert await verified(replace(target, host="localhost"))


async def test_a_wrong_password_is_refused(target: Target) -> None:
    error = await refusal(target, password=Secret("wrong"))

    assert error.code == "28P01"
    assert "lags" in str(error)


async def test_an_expired_user_is_refused(target: Target, database: Database) -> None:
    database.execute("""ALTER ROLE "v_app_""x7" VALID UNTIL '2020-01-01'""")

    assert (await refusal(target)).code == "28P01"


async def test_a_user_that_may_not_log_in_is_refused(target: Target, database: Database) -> None:
    database.execute("""ALTER ROLE "v_app_""x7" NOLOGIN""")

    error = await refusal(target)

    assert error.code == "28000"
    assert "may not log in" in str(error)


async def test_a_user_without_connect_is_refused(target: Target, database: Database) -> None:
    database.execute(f"REVOKE CONNECT ON DATABASE {database.dbname} FROM PUBLIC")

    error = await refusal(target)

    assert error.code == "42501"
    assert "no CONNECT privilege" in str(error)


async def test_a_database_that_does_not_exist_is_refused(target: Target) -> None:
    assert (await refusal(replace(target, dbname="no such"))).code == "3D000"


@pytest.mark.parametrize(
    ("probe", "code", "said"),
    [
        ("SELECT 1 FROM private.books", "42501", "a privilege is missing on schema private"),
        ("SELECT note FROM hidden", "42501", "a privilege is missing on table hidden"),
        ("SELECT 1 FROM nothing", "42P01", "does not exist"),
        ("SELECT nothing FROM reports", "42703", "SQLSTATE 42703"),
        ("SELECT 1/0", "22012", "SQLSTATE 22012"),
        ("DELETE FROM reports", "42501", "a privilege is missing on table reports"),
        ("SELEKT", "42601", "SQLSTATE 42601"),
        ("SELECT 1; SELECT 1 FROM nothing", "42P01", "does not exist"),
    ],
)
async def test_a_probe_finds_what_is_missing(
    target: Target, database: Database, probe: str, code: str, said: str
) -> None:
    database.execute("CREATE TABLE hidden (note text)")
    database.execute("CREATE SCHEMA private")
    database.execute("CREATE TABLE private.books (id int)")
    database.execute("GRANT SELECT ON private.books TO PUBLIC")

    error = await refusal(replace(target, probe=probe))

    assert error.code == code
    assert said in str(error)


@pytest.mark.parametrize(
    "probe", ["", "SELECT 1 -- and a comment", "SELECT 1;", "SELECT 1; SELECT 2", "SET LOCAL work_mem = '1MB'"]
)
async def test_a_probe_may_be_any_sql_that_succeeds(target: Target, probe: str) -> None:
    assert await verified(replace(target, probe=probe))


async def test_a_probe_leaves_no_trace(target: Target, database: Database) -> None:
    database.execute("GRANT INSERT ON reports TO PUBLIC")
    database.execute("GRANT USAGE ON SEQUENCE reports_id_seq TO PUBLIC")

    assert await verified(replace(target, probe="INSERT INTO reports (note) VALUES ('probe')"))

    assert database.execute("SELECT note FROM reports") == [("first",)]


async def test_a_copy_in_a_probe_is_not_waited_for(target: Target) -> None:
    assert await verified(replace(target, probe="COPY reports TO STDOUT")) is False


async def test_a_probe_that_takes_too_long_was_no_refusal_and_stops_on_the_server(
    target: Target, database: Database
) -> None:
    clock = SystemClock()
    verifier = LoginVerifier((replace(target, probe="SELECT pg_sleep(60)"),), clock, attempt_timeout=0.5)

    assert await verifier(DATA, clock.now()) is False

    await asyncio.sleep(0.5)
    assert database.execute(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()"
    ) == [(0,)]


async def test_too_many_connections_are_no_refusal(target: Target, database: Database) -> None:
    database.execute("""ALTER ROLE "v_app_""x7" CONNECTION LIMIT 0""")

    assert await verified(target) is False


async def test_a_credential_that_becomes_good_a_second_later_is_verified(target: Target, database: Database) -> None:
    """As on a replica that has not heard of the new user yet."""
    database.execute("""ALTER ROLE "v_app_""x7" PASSWORD 'not yet'""")
    began = time.monotonic()
    trial = asyncio.ensure_future(verified(target, within=8.0))
    await asyncio.sleep(1.0)

    database.execute(
        sql.SQL("""ALTER ROLE "v_app_""x7" PASSWORD {}""").format(sql.Literal(PASSWORD.reveal())).as_string()
    )

    assert await trial is True
    assert 1.0 <= time.monotonic() - began < 6.0


async def test_nothing_ambient_replaces_what_the_lease_says(
    target: Target, database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    passfile = tmp_path / "pgpass"
    passfile.write_text(f"*:*:*:*:{PASSWORD.reveal()}\n")
    passfile.chmod(0o600)
    for name, value in {
        "PGPASSFILE": str(passfile),
        "PGPASSWORD": PASSWORD.reveal(),
        "PGUSER": "postgres",
        "PGHOSTADDR": "203.0.113.1",
        "PGPORT": "1",
        "PGDATABASE": "postgres",
        "PGSSLMODE": "require",
        "PGOPTIONS": "-c search_path=nowhere",
        "PGREQUIREAUTH": "none",
        "PGTARGETSESSIONATTRS": "standby",
        "PGREQUIREPEER": "nobody-of-this-name",
    }.items():
        monkeypatch.setenv(name, value)

    assert await verified(replace(target, probe="SELECT 1 FROM reports"))
    assert await verified(replace(target, host=str(database.cluster.socket_dir)))
    assert (await refusal(target, password=Secret("wrong"))).code == "28P01"


# --- servers of a test's own ----------------------------------------------------------------------------------------


def here(cluster: Cluster) -> Target:
    return Target(host=cluster.host, port=cluster.port, dbname="postgres", sslmode="disable")


def say_in_hba(cluster: Cluster, line: str) -> None:
    """Put a line in front of the server's pg_hba.conf."""
    path = cluster.directory / "data" / "pg_hba.conf"
    path.write_text(f"{line}\n{path.read_text()}")
    with psycopg.connect(cluster.conninfo(), autocommit=True) as conn:
        conn.execute("SELECT pg_reload_conf()")
        conn.execute("SELECT pg_sleep(0.2)")


async def test_a_line_of_pg_hba_conf_that_shuts_the_user_out_is_a_refusal(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    create_user(cluster.conninfo())
    assert await verified(here(cluster))
    say_in_hba(cluster, 'host all "v_app_""x7" all reject')

    error = await refusal(here(cluster))

    assert error.code == "28000"
    assert "pg_hba.conf refuses it" in str(error)


async def test_a_server_that_trusts_everybody_proves_nothing(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    create_user(cluster.conninfo())
    say_in_hba(cluster, "host all all all trust")
    began = time.monotonic()

    assert await verified(here(cluster), within=10.0) is False
    assert await verified(here(cluster), within=10.0, password=Secret("wrong")) is False

    assert time.monotonic() - began < 2.0  # nothing to wait for


def test_a_paused_server_is_no_refusal_and_costs_one_deadline(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    create_user(cluster.conninfo())
    cluster.pause()

    for new_loop in LOOPS:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            began = time.monotonic()
            assert runner.run(verified(here(cluster), within=0.5)) is False
            assert time.monotonic() - began < 2.5


async def time_to_cancel(target: Target, cluster: Cluster) -> float:
    """Seconds that a verification takes to end when it is cancelled while the server is stopped."""
    task = asyncio.ensure_future(verified(target, within=5.0))
    await asyncio.sleep(0.5)
    cluster.pause()
    await asyncio.sleep(0.2)
    assert not task.done()
    began = time.monotonic()
    task.cancel()
    await asyncio.wait([task], timeout=5.0)
    assert task.cancelled()
    return time.monotonic() - began


def test_a_verification_is_cancelled_at_once_although_the_server_is_stopped(own_cluster: StartCluster) -> None:
    cluster = own_cluster()
    create_user(cluster.conninfo())
    amid_the_probe = replace(here(cluster), probe="SELECT pg_sleep(30)")

    for new_loop in LOOPS:
        for target in (amid_the_probe, here(cluster)):  # the second finds the server stopped: amid the login
            with asyncio.Runner(loop_factory=new_loop) as runner:
                assert runner.run(time_to_cancel(target, cluster)) < 0.5
        cluster.resume()
