"""deploy/vault as an operator uses it: copies of its files for one database, and its script run by /bin/sh."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from psycopg import sql

from tests.fix_postgres import Database, superuser
from tests.vault_place import VaultPlace

FILES = Path(__file__).parents[1] / "deploy" / "vault"
ADMIN, GROUP = "vault-admin", "app_readers"
SPECIAL = "a:b@c/d?e#f%20g h&i=j+k\\l'm\"n"
"""A password with everything that means something in a URL."""


def prepare(database: Database, directory: Path, password: str = SPECIAL) -> None:
    """What postgresql.sql asks for, and the operator's copies of the files in `directory`, made for that database."""
    database.execute((FILES / "postgresql.sql").read_text().replace("%", "%%"))
    with superuser(database.cluster) as conn:
        words = {"admin": sql.Identifier(ADMIN), "password": sql.Literal(password)}
        conn.execute(sql.SQL("ALTER ROLE {admin} PASSWORD {password}").format(**words))
    shutil.copytree(FILES, directory)
    file = directory / "postgresql.database.json"
    config = json.loads(file.read_text())
    before = "postgresql://{{username}}:{{password}}@"
    config["connection_url"] = f"{before}{database.host}:{database.port}/{database.dbname}?sslmode=disable"
    file.write_text(json.dumps(config))
    (directory / "password").write_text(password + "\n")


def run(
    program: Path, directory: Path, environment: Mapping[str, str], *, at: VaultPlace | None = None
) -> subprocess.CompletedProcess[str]:
    """The script on those copies, as an operator who has logged in to the server `at`."""
    server = {"BAO_ADDR": at.address, "VAULT_ADDR": at.address, "VAULT_TOKEN": at.root} if at else {}
    return subprocess.run(
        ["/bin/sh", str(FILES / "bootstrap.sh"), str(directory)],
        env={
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "VAULT_CLI": str(program),
            "DB_ADMIN_PASSWORD_FILE": str(directory / "password"),
            **server,
            **environment,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
