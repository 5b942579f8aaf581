"""Formats against a real server: libpq logs in with what stands in the file, whatever the password."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from agent import atomicfile
from agent.config import model
from agent.dev.binaries import Binaries
from agent.files.formats import FORMATS
from tests.fix_postgres import Database, superuser
from tests.unit.files.builders import credential, hostile_passwords, role

USER = 'v_app_":\\x7'
# Kept few, since the server hashes each password: the unit tests put a thousand through each parser.
PASSWORDS = [text for text in hostile_passwords(30) if text == text.rstrip()]


@pytest.fixture
def files(database: Database, tmp_path: Path) -> Iterator[Callable[[str], dict[str, Path]]]:
    """`files(password)` sets the user's password and writes every format's file."""
    place = model.Connection(host=database.host, port=database.port, dbname=database.dbname, sslmode="disable")
    user = sql.Identifier(USER)
    with superuser(database.cluster) as conn:
        conn.execute(sql.SQL("CREATE ROLE {} LOGIN").format(user))

        def write(password: str) -> dict[str, Path]:
            conn.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(user, sql.Literal(password)))
            shown = credential({"username": USER, "password": password}, of=role(connection=place))
            paths = {name: tmp_path / name for name in FORMATS}
            for name, path in paths.items():
                atomicfile.write(path, FORMATS[name](shown, "DB_").encode(), mode=0o400)
            return paths

        yield write


def user_of(conninfo: str) -> str:
    """Who a login with `conninfo` is."""
    with psycopg.connect(conninfo, connect_timeout=10) as conn:
        (name,) = conn.execute("SELECT session_user").fetchone() or ("",)
        return str(name)


def test_a_login_through_each_of_libpqs_files_succeeds_with_hostile_passwords(
    files: Callable[[str], dict[str, Path]], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"host={database.host} port={database.port} dbname={database.dbname} sslmode=disable"
    for password in PASSWORDS:
        paths = files(password)
        monkeypatch.setenv("PGSERVICEFILE", str(paths["pg_service"]))
        monkeypatch.setenv("PGUSER", USER)

        users = [
            user_of(paths["url"].read_text()),
            user_of(f"{place} passfile={paths['pgpass']}"),
            user_of("service=app-readonly"),
        ]

        assert users == [USER] * 3


@pytest.mark.parametrize("name", ["dotenv", "shell-export"])
def test_psql_logs_in_with_the_file_sourced_by_sh(
    files: Callable[[str], dict[str, Path]], binaries: Binaries, name: str
) -> None:
    psql = binaries.bin_dir / "psql"
    if not psql.exists():
        pytest.skip(f"this PostgreSQL comes without psql: {psql}")
    script = (
        f". {files(PASSWORDS[0])[name]}; "
        "PGPASSWORD=$DB_PASS PGSSLMODE=$DB_SSLMODE PGHOST=$DB_HOST PGPORT=$DB_PORT PGDATABASE=$DB_NAME PGUSER=$DB_USER "
        "exec \"$0\" -XAtc 'SELECT session_user'"
    )

    done = subprocess.run(
        ["sh", "-c", script, psql], capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )

    assert (done.stdout, done.stderr) == (USER + "\n", "")
