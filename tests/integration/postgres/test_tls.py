"""TLS and client certificates, on the builds of PostgreSQL that have them."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.errors import Forbidden
from tests.fix_postgres import superuser
from tests.integration.postgres.site import ROLE, Site, closing, fresh


def openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=cwd, check=True, capture_output=True)


@pytest.fixture
def secured(own_site: Site, tmp_path: Path) -> Site:
    """A server with a certificate for 127.0.0.1, and one of the same authority for the admin."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with: apt-get install openssl")
    cluster = own_site.database.cluster
    with superuser(cluster) as conn:
        try:
            conn.execute("ALTER SYSTEM SET ssl = off")
            conn.execute("ALTER SYSTEM SET ssl_ca_file = 'ca.crt'")
            conn.execute("ALTER SYSTEM SET ssl = on")
        except psycopg.Error:
            pytest.skip(f"this build of PostgreSQL {cluster.major} has no TLS")
        row = conn.execute("SHOW data_directory").fetchone()
        assert row is not None
        data = Path(row[0])
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl(
        "req", "-x509", *key, "-subj", "/CN=tests", "-days", "2", "-keyout", "ca.key", "-out", "ca.crt", cwd=tmp_path
    )
    (tmp_path / "san").write_text("subjectAltName = IP:127.0.0.1")
    for name, subject in (("server", "127.0.0.1"), ("client", own_site.user)):
        openssl("req", *key, "-subj", f"/CN={subject}", "-keyout", f"{name}.key", "-out", f"{name}.csr", cwd=tmp_path)
        authority = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "san")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.crt", *authority, cwd=tmp_path)
    for name in ("ca.crt", "server.crt", "server.key"):
        shutil.copyfile(tmp_path / name, data / name)
        (data / name).chmod(0o600)
        os.chown(data / name, data.stat().st_uid, data.stat().st_gid)
    (tmp_path / "client.key").chmod(0o600)
    with superuser(cluster) as conn:
        conn.execute("SELECT pg_reload_conf()")
    return own_site


def ask_for_certificates(site: Site) -> None:
    """From now on the admin logs in by certificate only."""
    hba = Path(site.database.execute("SHOW hba_file")[0][0])
    hba.write_text(f"hostssl all {site.user} 127.0.0.1/32 cert\n{hba.read_text()}")
    site.database.execute("SELECT pg_reload_conf()")


async def test_tls_is_used_and_verified_as_configured(secured: Site, tmp_path: Path):
    """R003-028, R003-070, R003-071."""
    certificate: dict[str, Any] = {"sslcert": str(tmp_path / "client.crt"), "sslkey": str(tmp_path / "client.key")}
    verified: dict[str, Any] = {"sslmode": "verify-full", "sslrootcert": str(tmp_path / "ca.crt")}
    other: dict[str, Any] = {**verified, "sslrootcert": str(tmp_path / "server.crt")}

    async with closing(engine := secured.engine(sslmode="require")):
        grant = await engine.issue(ROLE, fresh())
        ((encrypted,),) = secured.database.execute(
            "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE usename = %s", secured.user
        )
    assert encrypted

    async with closing(engine := secured.engine(**verified)):
        await engine.ping()
    async with closing(engine := secured.engine(**other)):
        with pytest.raises(Forbidden, match="no common TLS at sslmode verify-full: check sslrootcert"):
            await engine.ping()

    ask_for_certificates(secured)
    async with closing(engine := secured.engine(password_file=None, **verified, **certificate)):
        await engine.ping()
        await engine.revoke(grant.id)
    assert not secured.exists(grant)
