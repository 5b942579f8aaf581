"""A user that changes its own password locks its app out; the agent notices, and replaces the lease."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.harness import Agent, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, place_of
from tests.fix_postgres import Database
from tests.integration.postgres.site import NEWEST


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for a socket's path."""
    return tmp_path_factory.mktemp("p")


@contextlib.contextmanager
def running(config: object, place: Path) -> Iterator[Agent]:
    agent = Agent(config, place)  # type: ignore[arg-type]
    try:
        yield agent.wait_ready()
    finally:
        agent.end()


@NEWEST
def test_a_changed_password_is_noticed_and_replaced(database: Database, place: Path) -> None:
    keys = document(place, database, verify_every="1s")
    with running(keys, place) as agent:
        held = agent.read(ROLE)
        with log_in(place_of(database), held) as session:
            session.execute("SET ROLE NONE")
            session.execute("ALTER ROLE CURRENT_USER PASSWORD 'own'")
        began = time.monotonic()

        assert eventually(lambda: agent.read(ROLE).username != held.username, 15.0)

        assert (
            time.monotonic() - began < 8.0
        )  # a second to the look, and what is refused at first is tried again for a while
        fresh = agent.read(ROLE)
        log_in(place_of(database), fresh).close()
        assert eventually(lambda: from_file(agent.file).username == fresh.username, 5.0)
        with pytest.raises(psycopg.OperationalError):
            log_in(place_of(database), held)
        assert agent.stop() == 0
    assert database.execute("SELECT 1 FROM pg_roles WHERE rolname IN (%s, %s)", held.username, fresh.username) == []


@NEWEST
def test_a_tenant_that_has_its_password_changed_and_prepared_is_gone_after_the_stop(
    database: Database, place: Path
) -> None:
    """The agent's stop revokes within its deadline, although a prepared transaction holds the user's role."""
    with running(document(place, database), place) as agent:
        held = agent.read(ROLE)
        with log_in(place_of(database), held) as session:
            session.autocommit = True
            session.execute("SET ROLE NONE")
            session.execute("BEGIN")
            session.execute("ALTER ROLE CURRENT_USER PASSWORD 'own'")
            session.execute("PREPARE TRANSACTION 'kept'")

        assert agent.stop() == 0

    assert database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", held.username) == []
    assert database.execute("SELECT 1 FROM pg_prepared_xacts WHERE gid = 'kept'") == []
