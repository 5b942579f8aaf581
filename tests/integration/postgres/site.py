"""A database with an admin, and engines on it: what the tests of the embedded engine work with."""

import asyncio
import contextlib
import os
import select
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.clock import SystemClock
from agent.config.model import Duration, PostgreSQL, Role
from agent.engines.postgres import PostgresEngine, build
from agent.leases.lease import Grant, Lease
from tests.fix_postgres import MAJORS, Database, force_drop, superuser

ROLE = "database/creds/app-readonly"

NEWEST = pytest.mark.parametrize("binaries", [max(MAJORS)], indirect=True, ids=[f"pg{max(MAJORS)}"])
"""For what no version of the server sees differently."""


@dataclass(kw_only=True)
class Site:
    """One test's database, the login the engines use, and the engines made on it.

    Attributes:
        user, password_file: the admin: the database's CREATEROLE owner, or the server's superuser.
    """

    database: Database
    user: str
    password_file: Path
    engines: list[PostgresEngine] = field(default_factory=list)

    def config(self, **changes: Any) -> PostgreSQL:
        """How the engine reaches the server."""
        settings: dict[str, Any] = {
            "host": self.database.host,
            "port": self.database.port,
            "dbname": self.database.dbname,
            "user": self.user,
            "password_file": str(self.password_file),
            "sslmode": "disable",
        }
        return PostgreSQL(**{**settings, **changes})

    def role(self, **changes: Any) -> Role:
        """A role that reads through the database's group."""
        settings: dict[str, Any] = {
            "upstream": "postgresql",
            "group": self.database.group,
            "default_ttl": Duration(60),
            "max_ttl": Duration(600),
        }
        return Role(**{**settings, **changes})

    def engine(
        self,
        roles: Mapping[str, Role] | None = None,
        *,
        holder: str = "pod",
        incarnation: int = 1,
        **changes: Any,
    ) -> PostgresEngine:
        """An engine, closed after the test."""
        engine = build(
            "postgresql",
            self.config(**changes),
            roles or {ROLE: self.role()},
            holder=holder,
            incarnation=incarnation,
            clock=SystemClock(),
        )
        self.engines.append(engine)
        return engine

    def log_in(self, grant: Grant, dbname: str | None = None) -> psycopg.Connection[tuple[Any, ...]]:
        """A session of the lease's user."""
        place = self.database.cluster.conninfo(dbname or self.database.dbname, username(grant), grant.data["password"])
        return psycopg.connect(place, autocommit=True, connect_timeout=5)

    def exists(self, grant: Grant) -> bool:
        """Whether the lease's user is in the catalog."""
        return bool(self.database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", username(grant)))

    def users(self) -> set[str]:
        """Every member of the marker group but the admin."""
        found = self.database.execute(
            "SELECT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member"
            " WHERE m.roleid = (SELECT oid FROM pg_roles WHERE rolname = 'leasehold_lease') AND NOT m.admin_option"
        )
        return {name for (name,) in found}

    def memberships(self) -> list[tuple[Any, ...]]:
        """Every membership of the server: role, member, and who may pass it on."""
        return self.database.execute(
            "SELECT r.rolname, u.rolname, m.admin_option FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid"
            " JOIN pg_roles u ON u.oid = m.member ORDER BY 1, 2, 3"
        )

    def as_admin(self, *statements: str) -> None:
        """Run statements as the engine's login: what it grants, it can take back."""
        with superuser(self.database.cluster, self.database.dbname) as conn:
            conn.execute(f'SET SESSION AUTHORIZATION "{self.user}"'.encode())
            for statement in statements:
                conn.execute(statement.encode())

    def expire(self, grant: Grant) -> None:
        """Let the lease have ended a second ago, in the journal."""
        self.database.execute(
            "UPDATE leasehold.lease SET expires = clock_timestamp() - interval '1 second' WHERE id = %s", grant.id
        )

    def rows(self) -> int:
        """How many rows the journal has."""
        return int(self.database.execute("SELECT count(*) FROM leasehold.lease")[0][0])

    @contextlib.contextmanager
    def neighbour(self, name: str) -> Any:
        """Another database on the same server, owned by the admin; yields a superuser's connection to it."""
        dbname = f"{self.database.dbname}_{name}"
        with superuser(self.database.cluster) as conn:
            conn.execute(f'CREATE DATABASE "{dbname}" OWNER "{self.user}"')
        try:
            with superuser(self.database.cluster, dbname) as conn:
                yield conn
        finally:
            with superuser(self.database.cluster) as conn:
                force_drop(conn, dbname)


def username(grant: Grant) -> str:
    """The user's name in clear."""
    return grant.data["username"].reveal()


def fresh() -> str:
    """A lease id to propose."""
    return str(uuid.uuid4())


def lease(grant: Grant) -> Lease:
    """The grant as the Renewer would hold it."""
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


async def eventually(condition: Callable[[], bool], within: float) -> bool:
    """Whether the condition comes true in time."""
    end = asyncio.get_running_loop().time() + within
    while not await asyncio.to_thread(condition):
        if asyncio.get_running_loop().time() > end:
            return False
        await asyncio.sleep(0.02)
    return True


def aside(action: Callable[[], None]) -> Callable[[], None]:
    """The action for a failpoint, done in a thread and waited for: what is reached by `agent` may not block itself."""

    def run() -> None:
        readable, writable = os.pipe()

        def work() -> None:
            try:
                action()
            finally:
                os.close(writable)

        threading.Thread(target=work, daemon=True).start()
        select.select([readable], [], [])
        os.close(readable)

    return run


def own_schema(site: Site) -> str:
    """A schema where the group may create."""
    site.as_admin("CREATE SCHEMA app", f'GRANT ALL ON SCHEMA app TO "{site.database.group}"')
    return "app"


def as_itself(site: Site, grant: Grant) -> psycopg.Connection[tuple[Any, ...]]:
    """A session in which the user has left its group."""
    session = site.log_in(grant)
    session.execute("SET ROLE NONE")
    return session


@contextlib.asynccontextmanager
async def closing(*engines: PostgresEngine) -> AsyncIterator[None]:
    """Close the engines after the block."""
    try:
        yield
    finally:
        for engine in engines:
            await engine.close()
