"""What `leasehold dev` puts into its throwaway server: a database, a group with a right to read it, a least admin."""

import secrets
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from agent.dev.cluster import Cluster
from agent.leases.lease import Secret

DATABASE, ADMIN, GROUP = "app", "leasehold_admin", "app_readonly"

_USERS = """
SELECT r.rolname, coalesce(to_char(r.rolvaliduntil, 'HH24:MI:SS'), 'never')
FROM pg_catalog.pg_roles r
JOIN pg_catalog.pg_auth_members m ON m.member = r.oid
JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
WHERE g.rolname = %s AND NOT r.rolcreaterole
ORDER BY r.rolvaliduntil
"""


@dataclass(frozen=True, kw_only=True)
class DevDatabase:
    """The demonstration's database.

    Attributes:
        admin_password_file: of the CREATEROLE, non-superuser role that the agent logs in as.
    """

    cluster: Cluster
    admin_password_file: Path

    @property
    def place(self) -> str:
        """Where an app connects: a conninfo without user and password."""
        return f"host={self.cluster.host} port={self.cluster.port} dbname={DATABASE} sslmode=disable"


def prepare(cluster: Cluster, directory: Path) -> DevDatabase:
    """Create what the demonstration needs; `directory` takes the admin's password file (0600)."""
    password = Secret(secrets.token_urlsafe(24))
    path = directory / "admin.password"
    path.touch(mode=0o600)
    path.write_text(password.reveal())
    with psycopg.connect(cluster.conninfo(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN CREATEROLE NOSUPERUSER PASSWORD {}").format(
                sql.Identifier(ADMIN), sql.Literal(password.reveal())
            )
        )
        connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(sql.Identifier(GROUP)))
        connection.execute(
            sql.SQL("GRANT {} TO {} WITH ADMIN OPTION").format(sql.Identifier(GROUP), sql.Identifier(ADMIN))
        )
        connection.execute(
            sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(DATABASE), sql.Identifier(ADMIN))
        )
    with psycopg.connect(cluster.conninfo(DATABASE), autocommit=True) as connection:
        connection.execute("CREATE TABLE public.reports (id bigint GENERATED ALWAYS AS IDENTITY, note text)")
        connection.execute("INSERT INTO public.reports (note) VALUES ('hello from a leased user')")
        connection.execute(
            sql.SQL("GRANT USAGE ON SCHEMA public TO {}; GRANT SELECT ON public.reports TO {}").format(
                sql.Identifier(GROUP), sql.Identifier(GROUP)
            )
        )
    return DevDatabase(cluster=cluster, admin_password_file=path)


async def lease_users(cluster: Cluster, marker_group: str) -> dict[str, str] | None:
    """The users that pg_roles has of ours now, name to end; None where the server does not answer."""
    try:
        async with await psycopg.AsyncConnection.connect(cluster.conninfo(DATABASE), autocommit=True) as connection:
            cursor = await connection.execute(_USERS, (marker_group,))
            return {str(name): str(until) for name, until in await cursor.fetchall()}
    except (OSError, psycopg.Error):
        return None
