"""What the tests of the wire ask beside HTTP: who is on the database, and whether a credential lets anybody in."""

import time
from collections.abc import Callable, Mapping

import psycopg

from agent.leases.lease import Secret
from tests.fix_postgres import Database

ENVELOPE = {"request_id", "lease_id", "renewable", "lease_duration", "data", "wrap_info", "warnings", "auth"}
DENIED_TOKEN = ["permission denied"]
DENIED_POLICY = ["1 error occurred:\n\t* permission denied\n\n"]


def eventually(holds: Callable[[], bool], within: float = 20.0) -> bool:
    """Whether it becomes true in time."""
    end = time.monotonic() + within
    while not (true := holds()) and time.monotonic() < end:
        time.sleep(0.05)
    return true


def users(database: Database) -> set[str]:
    """The users that were made and are there now."""
    rows = database.execute(
        "SELECT rolname FROM pg_roles r WHERE pg_has_role(r.oid, %s, 'MEMBER') AND NOT rolsuper"
        " AND rolname NOT IN (%s, %s)",
        database.group,
        database.group,
        database.admin,
    )
    return {str(name) for (name,) in rows}


def connect(database: Database, data: Mapping[str, str]) -> psycopg.Connection[tuple[object, ...]]:
    """An app's login with a credential."""
    return psycopg.connect(database.conninfo(data["username"], Secret(data["password"])), connect_timeout=10)


def lets_in(database: Database, data: Mapping[str, str]) -> bool:
    """Whether an app can log in and read."""
    try:
        with connect(database, data) as session:
            session.execute("SELECT note FROM reports" if data["username"].startswith("v-") else "SELECT 1").fetchall()
    except psycopg.Error:  # a user may go between its login and its question
        return False
    return True
