"""What most acceptance tests begin with: a configuration for one role on one database, and questions to its server."""

from pathlib import Path
from typing import Any

from agent.atomicfile import on_memory
from tests.fix_postgres import Database

ROLE = "database/creds/app"


def server_of(database: Database, **keys: object) -> dict[str, Any]:
    """[postgresql] for the database's CREATEROLE admin."""
    return {
        "host": database.host,
        "port": database.port,
        "dbname": database.dbname,
        "user": database.admin,
        "password_file": str(database.admin_password_file),
        "sslmode": "disable",
        "cleanup_interval": "1s",
        **keys,
    }


def place_of(database: Database) -> dict[str, Any]:
    """Where an app logs in."""
    return {"host": database.host, "port": database.port, "dbname": database.dbname, "sslmode": "disable"}


def role_of(database: Database, **keys: object) -> dict[str, Any]:
    """A role of long leases that hands out the group's rights."""
    return {
        "upstream": "postgresql",
        "group": database.group,
        "default_ttl": "1h",
        "max_ttl": "4h",
        "connection": place_of(database),
        **keys,
    }


def file_of(directory: Path, name: str = "db-creds", role: str = ROLE) -> dict[str, Any]:
    """[[template]]: a dotenv file."""
    destination = directory / "secrets" / name
    disk = not on_memory(directory)
    return {"destination": str(destination), "format": "dotenv", "roles": [role], "allow_disk": disk}


def document(directory: Path, database: Database, **role: object) -> Any:
    """A configuration with one role, its socket and its file; `role` adds keys to the role."""
    return {
        "agent": {"stop_timeout": "10s"},
        "listener": {"unix": {"address": str(directory / "agent.sock")}},
        "postgresql": server_of(database),
        "role": {ROLE: role_of(database, **role)},
        "template": [file_of(directory)],
    }


def leased(database: Database) -> set[str]:
    """The users of ours that the server has now."""
    rows = database.execute(
        "SELECT rolname FROM pg_roles r WHERE rolname LIKE 'v!_%%' ESCAPE '!'"
        " AND pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = %s), 'MEMBER')",
        database.group,
    )
    return {str(name) for (name,) in rows}


def minted(database: Database) -> int:
    """How many leases the journal knows, revoked ones included."""
    ((count,),) = database.execute("SELECT count(*) FROM leasehold.lease WHERE username <> ''")
    return int(count)
