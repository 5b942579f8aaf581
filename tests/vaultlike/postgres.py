"""What the database engine does at a real PostgreSQL. Blocking: called in a thread."""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg import sql

from tests.vaultlike.messages import Problem, multi
from tests.vaultlike.tokens import random_text

_CONNECT_TIMEOUT = 5  # seconds

DEFAULT_RENEWAL = "ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'"
DEFAULT_ROTATION = "ALTER ROLE \"{{name}}\" WITH PASSWORD '{{password}}'"

Row = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Server:
    """How the engine's own user reaches a database.

    Attributes:
        url: with `{{username}}` and `{{password}}` in their places.
        scram: statements get a verifier in place of the password.
    """

    url: str
    username: str
    password: str = field(repr=False)
    scram: bool = False

    @property
    def conninfo(self) -> str:
        """For libpq."""
        as_url = "://" in self.url
        user, password = (quote(word, safe="") if as_url else word for word in (self.username, self.password))
        return self.url.replace("{{username}}", user).replace("{{password}}", password)


def new_password() -> str:
    """20 characters: letters of both cases, digits, one hyphen."""
    letters = random_text(19)
    at = secrets.randbelow(18) + 1
    return f"{letters[:at]}-{letters[at:]}"


def check(server: Server) -> None:
    """Problem where nobody can log in."""
    with _transaction(server) as conn:
        conn.execute("SELECT 1")


def run(server: Server, statements: Sequence[str], words: Mapping[str, str]) -> None:
    """All in one transaction, with the words in their places."""
    with _transaction(server) as conn:
        given = dict(words)
        if server.scram and "password" in given:
            raw = conn.pgconn.encrypt_password(given["password"].encode(), given["name"].encode(), b"scram-sha-256")
            given["password"] = raw.decode()
        for statement in statements:
            text = statement
            for name, value in given.items():
                text = text.replace("{{" + name + "}}", value)
            conn.execute(text.encode())


def drop(server: Server, username: str) -> None:
    """What happens to a user whose role has no revocation statements: its rights are taken back, then it goes."""
    with _transaction(server) as conn:
        if not conn.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (username,)).fetchone():
            return
        user = sql.Identifier(username)
        schemas = "SELECT DISTINCT table_schema FROM information_schema.role_table_grants WHERE grantee = %s"
        for (schema,) in conn.execute(schemas, (username,)).fetchall():
            words = {"schema": sql.Identifier(schema), "user": user}
            conn.execute(sql.SQL("REVOKE ALL PRIVILEGES ON ALL TABLES IN SCHEMA {schema} FROM {user}").format(**words))
            conn.execute(sql.SQL("REVOKE USAGE ON SCHEMA {schema} FROM {user}").format(**words))
        database = sql.Identifier(conn.info.dbname)
        conn.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, user))
        conn.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(user))


def change_password(server: Server, username: str, password: str) -> None:
    """Of a user that stays: a static one, or the engine's own."""
    with _transaction(server) as conn:
        words = (sql.Identifier(username), sql.Literal(password))
        conn.execute(sql.SQL("ALTER ROLE {} WITH PASSWORD {}").format(*words))


@contextmanager
def _transaction(server: Server) -> Iterator[psycopg.Connection[Row]]:
    """A connection that commits at the end; Problem for whatever goes wrong."""
    try:
        conn = psycopg.connect(server.conninfo, connect_timeout=_CONNECT_TIMEOUT)
    except psycopg.Error as exc:
        text = f"unable to start transaction: failed to connect to `user={server.username}`: {exc}"
        raise Problem(500, multi(text)) from exc
    try:
        with conn:
            yield conn
    except psycopg.Error as exc:
        said = exc.diag.message_primary or str(exc)
        raise Problem(500, multi(f"failed to execute query: ERROR: {said} (SQLSTATE {exc.sqlstate})")) from exc
