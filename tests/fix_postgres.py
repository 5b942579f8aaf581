"""Throwaway PostgreSQL servers for tests: one per major version found on this machine, started when first asked for.

LEASEHOLD_TEST_MAJORS=15,18 runs on those only (one that is missing fails). LEASEHOLD_TEST_REQUIRE=postgres makes a
machine without any PostgreSQL fail instead of skip; `faketime` there does the same for tests/acceptance/shifted.py.
"""

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from agent.dev.binaries import REMEDY
from agent.dev.cluster import Binaries, Cluster, find_binaries
from agent.leases.lease import Secret
from tests import majors

_ASKED = tuple(int(word) for word in os.environ.get("LEASEHOLD_TEST_MAJORS", "").split(",") if word)
# What `make majors` fetched is used where it is asked for by number.
_FETCHED = {major: one for major, one in majors.unpacked().items() if major in _ASKED}
FOUND = _FETCHED | {one.major: one for one in find_binaries()}
_REQUIRED = "postgres" in os.environ.get("LEASEHOLD_TEST_REQUIRE", "").split(",")
MAJORS: tuple[int, ...] = _ASKED or tuple(FOUND) or (0,)  # 0: there is none
SETTINGS = {"max_prepared_transactions": "10"}

_MEMORY = Path("/dev/shm")  # noqa: S108 - each server makes a directory of its own
_ROOM = 2 << 30  # bytes; a container's 64 MB would not do for even one server

StartCluster = Callable[..., Cluster]


def pytest_report_header() -> str:
    """What the tests can run on."""
    found = "; ".join(str(one) for one in FOUND.values()) or f"none ({REMEDY})"
    only = f", of which LEASEHOLD_TEST_MAJORS asks for {_ASKED}" if _ASKED else ""
    return f"postgres: {found}{only}"


def binaries_of(major: int) -> Binaries:
    """The installation of that major; without one the test is skipped, or fails where PostgreSQL is required."""
    if major in FOUND:
        return FOUND[major]
    missing = f"no PostgreSQL {major or ''} found: {REMEDY}"
    if _REQUIRED or _ASKED:
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def place() -> Path | None:
    """Where a server of the tests lives: in memory, six times faster at making databases, if there is room."""
    if not os.access(_MEMORY, os.W_OK):
        return None
    state = os.statvfs(_MEMORY)
    roomy = state.f_bavail * state.f_frsize >= _ROOM
    return _MEMORY / f"leasehold-test-{secrets.token_hex(6)}" if roomy else None


@pytest.fixture(scope="session")
def clusters() -> Iterator[dict[int, Cluster]]:
    """The shared servers by major version, filled by `cluster`."""
    running: dict[int, Cluster] = {}
    yield running
    for one in running.values():
        one.destroy()


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major or ''}")
def binaries(request: pytest.FixtureRequest) -> Binaries:
    """Each PostgreSQL on this machine in turn."""
    return binaries_of(request.param)


@pytest.fixture
def cluster(binaries: Binaries, clusters: dict[int, Cluster]) -> Cluster:
    """A running server that all tests share: never stop, pause or kill it."""
    if binaries.major not in clusters:
        one = Cluster(binaries, place(), settings=SETTINGS)
        one.start()
        clusters[binaries.major] = one
    return clusters[binaries.major]


@pytest.fixture
def own_cluster(binaries: Binaries) -> Iterator[StartCluster]:
    """`own_cluster(**settings)` starts a server for this test alone, to stop, pause and kill."""
    started: list[Cluster] = []

    def start(**settings: str) -> Cluster:
        one = Cluster(binaries, place(), settings={**SETTINGS, **settings})
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.destroy()


def superuser(cluster: Cluster, dbname: str = "postgres") -> psycopg.Connection[tuple[Any, ...]]:
    """A connection of the server's superuser that commits each statement."""
    return psycopg.connect(cluster.conninfo(dbname), autocommit=True, connect_timeout=10)


@dataclass(kw_only=True)
class Database:
    """A database of one test.

    Attributes:
        admin: LOGIN CREATEROLE NOSUPERUSER, owner of the database, may grant `group`.
        group: NOLOGIN, may SELECT from the table `reports` (id serial, note text), which holds one row.
    """

    cluster: Cluster
    dbname: str
    admin: str
    group: str
    admin_password_file: Path
    admin_password: Secret = field(default_factory=lambda: Secret(secrets.token_urlsafe(24)))

    @property
    def host(self) -> str:
        """Of the server."""
        return self.cluster.host

    @property
    def port(self) -> int:
        """Of the server."""
        return self.cluster.port

    def conninfo(self, user: str | None = None, password: Secret | None = None) -> str:
        """For a login to this database; the admin's where no user is named."""
        if user is None:
            user, password = self.admin, self.admin_password
        return self.cluster.conninfo(self.dbname, user, password)

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of a statement run in this database as superuser."""
        with superuser(self.cluster, self.dbname) as conn:
            cursor = conn.execute(statement.encode(), parameters or None)
            return cursor.fetchall() if cursor.description else []


def create_database(cluster: Cluster, directory: Path) -> Database:
    """A fresh database with its admin and group."""
    name = f"t{secrets.token_hex(4)}"
    path = directory / f"{name}.password"
    one = Database(
        cluster=cluster, dbname=name, admin=f"admin_{name}", group=f"app_readonly_{name}", admin_password_file=path
    )
    path.touch(0o600)
    path.write_text(one.admin_password.reveal())
    words = {
        "db": sql.Identifier(name),
        "admin": sql.Identifier(one.admin),
        "group": sql.Identifier(one.group),
        "password": sql.Literal(one.admin_password.reveal()),
    }
    with superuser(cluster) as conn:
        conn.execute(sql.SQL("CREATE ROLE {admin} LOGIN CREATEROLE NOSUPERUSER PASSWORD {password}").format(**words))
        conn.execute(sql.SQL("CREATE ROLE {group} NOLOGIN").format(**words))
        conn.execute(sql.SQL("GRANT {group} TO {admin} WITH ADMIN OPTION").format(**words))
        conn.execute(sql.SQL("CREATE DATABASE {db} OWNER {admin}").format(**words))
    with superuser(cluster, name) as conn:
        conn.execute("CREATE TABLE reports (id serial PRIMARY KEY, note text)")
        conn.execute("INSERT INTO reports (note) VALUES ('first')")
        conn.execute(sql.SQL("GRANT SELECT ON reports TO {group}").format(**words))
    return one


def force_drop(conn: psycopg.Connection[tuple[Any, ...]], dbname: str) -> None:
    """Drop a database, whoever is in it; before PostgreSQL 13 there is no WITH (FORCE)."""
    forced = conn.info.server_version >= 130000
    if not forced:
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (dbname,))
    conn.execute(sql.SQL("DROP DATABASE {}" + " WITH (FORCE)" * forced).format(sql.Identifier(dbname)))


def _roles(cluster: Cluster) -> set[str]:
    with superuser(cluster) as conn:
        return {row[0] for row in conn.execute("SELECT rolname FROM pg_roles")}


def drop_database(one: Database, keep: set[str]) -> None:
    """Remove the database and every role that is not in `keep`."""
    for (gid,) in one.execute("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"):
        one.execute(sql.SQL("ROLLBACK PREPARED {}").format(sql.Literal(gid)).as_string())
    with superuser(one.cluster) as conn:
        force_drop(conn, one.dbname)
        left = _roles(one.cluster) - keep
        # A role that granted a membership can go only after that membership: minted users before their admin.
        for role in sorted(left, key=lambda name: name in (one.admin, one.group)):
            conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (role,))
            conn.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
            conn.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def database(cluster: Cluster, tmp_path: Path) -> Iterator[Database]:
    """A fresh database on the shared server; it and every role made during the test go away afterwards."""
    before = _roles(cluster)
    one = create_database(cluster, tmp_path)
    yield one
    drop_database(one, before)
