"""The server was put back to an earlier moment (docs/runbook.md): what it forgot, and what it remembers again."""

import shutil
from pathlib import Path

import pytest

from agent.dev.cluster import Cluster
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, credential, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, leased, place_of
from tests.fix_postgres import Database, StartCluster, create_database

TTL = 8.0


class Backup:
    """The server's files as they were at one moment; the server is down while they are copied."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        self._cluster = cluster
        self._data = _data_of(cluster)
        self._copy = directory / "backup"
        cluster.stop()
        shutil.copytree(self._data, self._copy, symlinks=True)
        cluster.start()

    def restore(self) -> None:
        """Put the server back."""
        owner = self._data.stat()
        self._cluster.stop()
        shutil.rmtree(self._data)
        shutil.copytree(self._copy, self._data, symlinks=True)
        for path in (self._data, *self._data.rglob("*")):
            shutil.chown(path, owner.st_uid, owner.st_gid)
        self._data.chmod(0o700)
        self._cluster.start()


def _data_of(cluster: Cluster) -> Path:
    (found,) = {path.parent for path in cluster.directory.rglob("PG_VERSION") if (path.parent / "global").is_dir()}
    return found


@pytest.fixture
def database(own_cluster: StartCluster, tmp_path: Path) -> Database:
    return create_database(own_cluster(), tmp_path)


def rotated(agent: Agent) -> str:
    """The user that a rotation has published; the one before it is revoked at once."""
    before = served(agent)
    assert agent.ask(f"/v1/{ROLE}/rotate", method="POST", body={"revoke_after": "0s"}).status == 202
    assert eventually(lambda: served(agent) not in ("", before))
    return served(agent)


def served(agent: Agent) -> str:
    """The user that readers get; "" while there is none: copying may take longer than a lease lives."""
    answer = agent.ask(f"/v1/{ROLE}")
    return credential(answer).username if answer.status == 200 else ""


@pytest.mark.parametrize("verify_every", ["1s", "0s"])
def test_a_user_that_the_server_has_forgotten_is_replaced_and_one_that_it_remembers_again_ends(
    run_agent: RunAgent, database: Database, place: Path, tmp_path: Path, verify_every: str
) -> None:
    """Found out by `verify_every`, or else by the next renewal; an undead user is reaped at its end by the sweep."""
    text = document(place, database, default_ttl=f"{TTL:g}s", max_ttl="1h", verify_every=verify_every)
    agent = run_agent(text).wait_ready()
    undead = served(agent)
    backup = Backup(database.cluster, tmp_path)
    forgotten = rotated(agent)
    assert eventually(lambda: leased(database) == {forgotten})

    backup.restore()
    assert leased(database) == {undead}

    assert eventually(lambda: served(agent) not in ("", forgotten))
    successor = agent.read(ROLE)
    log_in(place_of(database), successor).close()
    assert eventually(lambda: from_file(agent.file).username == successor.username)
    assert eventually(lambda: leased(database) == {served(agent)}, within=TTL + 20)
    assert agent.stop() == 0
    assert leased(database) == set()
