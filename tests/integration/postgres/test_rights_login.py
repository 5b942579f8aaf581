"""Logins that fail, each for a reason of its own that an operator can tell from the others (R000-014, R003-103)."""

import shutil
from pathlib import Path
from typing import Any

import psycopg
import pytest

from agent.engines.postgres.rights import Finding, Level
from tests.fix_postgres import superuser
from tests.integration.postgres.least import Least, least
from tests.integration.postgres.site import NEWEST, Site
from tests.integration.postgres.test_tls import openssl


@pytest.fixture
def bare(site: Site) -> Least:
    return least(site)


async def refused(bare: Least, **changes: Any) -> Finding:
    """The only finding: no login, no more."""
    inspection = await bare.look(**changes)
    assert not inspection.reached
    assert not inspection.sound
    (finding,) = inspection.findings
    assert finding.level is Level.MISSING
    assert finding.subject == f"login {bare.site.user}"
    assert bare.database.admin_password.reveal() not in repr(inspection)
    return finding


async def test_four_faults_give_four_texts(bare: Least, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.password"
    wrong.write_text("hunter2")

    port = await refused(bare, port=1)
    password = await refused(bare, password_file=str(wrong))
    dbname = await refused(bare, dbname="no_such_database")
    tls = await refused(bare, sslmode="require")

    assert "cannot be reached: connection refused; is PostgreSQL up, is `port` right?" in port.text
    assert f"refuses the password of {bare.site.user}: correct password_file {wrong}" in password.text
    assert "has no database no_such_database" in dbname.text
    assert "no common TLS at sslmode require: the server has no TLS" in tls.text
    assert dbname.remedy == ('CREATE DATABASE "no_such_database"',)
    assert "hunter2" not in repr((port, password, dbname, tls))


@NEWEST
async def test_a_host_that_is_no_name_is_another_fault_than_a_port(bare: Least) -> None:
    finding = await refused(bare, host="no-such-host.invalid", sslmode="require")

    assert "the name does not resolve" in finding.text


async def test_a_login_that_may_not_connect_gets_the_grant_that_lets_it_in(bare: Least) -> None:
    """R003-105, R003-129: first its own CONNECT, then that of the group."""
    bare.run(bare.named('REVOKE CONNECT ON DATABASE "{db}" FROM PUBLIC, "{admin}", "{group}"'))

    own = await refused(bare)
    bare.run(*own.remedy)
    (group,) = await bare.found()
    bare.run(*group.remedy)

    assert "does not let" in own.text
    assert own.remedy == (bare.named('GRANT CONNECT ON DATABASE "{db}" TO "{admin}"'),)
    assert group.subject == f"group {bare.database.group}"
    assert await bare.found() == []


@NEWEST
async def test_a_login_without_login_is_sent_to_pg_hba_and_the_attribute(bare: Least) -> None:
    bare.run(bare.named('ALTER ROLE "{admin}" NOLOGIN'))

    assert "see pg_hba.conf, LOGIN" in (await refused(bare)).text


def only_by_tls(site: Site) -> None:
    """From now on pg_hba.conf admits the admin by TLS only."""
    with superuser(site.database.cluster) as conn:
        hba = Path(site.database.execute("SHOW hba_file")[0][0])
        hba.write_text(f"hostssl all {site.user} all scram-sha-256\nhost all postgres all scram-sha-256\n")
        conn.execute("SELECT pg_reload_conf()")


def switch_tls_on(site: Site, directory: Path) -> None:
    """With a certificate of its own, for another name than its address, and one beside it that nobody uses."""
    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    for name in ("server", "other"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.crt")
        openssl("req", "-x509", *key, "-subj", "/CN=db.example", *files, cwd=directory)
    with superuser(site.database.cluster) as conn:
        try:
            conn.execute("ALTER SYSTEM SET ssl = on")
        except psycopg.Error:
            pytest.skip(f"this build of PostgreSQL {site.database.cluster.major} has no TLS")
    data = Path(site.database.execute("SHOW data_directory")[0][0])
    for name in ("server.crt", "server.key"):
        shutil.copyfile(directory / name, data / name)
        (data / name).chmod(0o600)
        shutil.chown(data / name, data.stat().st_uid, data.stat().st_gid)
    site.database.execute("SELECT pg_reload_conf()")


@NEWEST
async def test_a_server_that_wants_tls_is_told_from_one_that_has_none(own_site: Site) -> None:
    """The other half of a TLS mismatch: pg_hba.conf admits nobody in plain text."""
    only_by_tls(own_site)
    bare = Least(site=own_site, words={})

    finding = await refused(bare, sslmode="disable")

    assert "no entry there admits a login without TLS; see sslmode" in finding.text


async def test_a_certificate_of_another_authority_is_told(own_site: Site, tmp_path: Path) -> None:
    """R003-103: and a certificate for another name."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with: apt-get install openssl")
    switch_tls_on(own_site, tmp_path)
    bare = Least(site=own_site, words={})

    authority = await refused(bare, sslmode="verify-full", sslrootcert=str(tmp_path / "other.crt"))
    named = await refused(bare, sslmode="verify-full", sslrootcert=str(tmp_path / "server.crt"))
    file = await refused(bare, sslmode="verify-full", sslrootcert=str(tmp_path / "none.crt"))

    assert "is not signed by it" in authority.text
    assert "is for another name than `host`" in named.text
    assert "there is no such file" in file.text
