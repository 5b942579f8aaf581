"""Sites: a fresh database and engines on it, on every PostgreSQL of this machine."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fix_postgres import Database, StartCluster, create_database
from tests.integration.postgres.site import Site


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    """Its engines log in as a CREATEROLE role that is no superuser."""
    one = Site(database=database, user=database.admin, password_file=database.admin_password_file)
    yield one
    for engine in one.engines:
        await engine.close()


@pytest.fixture(params=["createrole", "superuser"])
async def any_site(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Site]:
    """With either kind of admin."""
    cluster = database.cluster
    if request.param == "superuser":
        one = Site(database=database, user=cluster.superuser, password_file=cluster.password_file)
    else:
        one = Site(database=database, user=database.admin, password_file=database.admin_password_file)
    yield one
    for engine in one.engines:
        await engine.close()


@pytest.fixture
def own_site(own_cluster: StartCluster, tmp_path: Path) -> Site:
    """On a server of this test alone, to stop and to kill; its engines are the test's to close."""
    database = create_database(own_cluster(log_statement="ddl"), tmp_path)
    return Site(database=database, user=database.admin, password_file=database.admin_password_file)
