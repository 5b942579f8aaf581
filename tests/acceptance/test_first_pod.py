"""The manifests' own containers beside a real Vault and a real PostgreSQL: what happens from a pod's start to its end.

They run as processes (see `kubelet`), with deploy/vault written to the server as an operator would.
"""

import re
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.atomicfile import on_memory
from tests import bootstrap
from tests.acceptance.harness import Credential, Program, eventually, log_in
from tests.acceptance.kubelet import ROOT, Kubelet
from tests.acceptance.scenes import place_of
from tests.fix_postgres import Database
from tests.fix_vault import make, program, tls_of
from tests.issuers import Authority, TokenReviewer
from tests.manifests import environment, pod
from tests.vault_place import VaultPlace, free_port

ROLE = "database/creds/app-readonly"


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Signs the server's certificate: the manifests' agents speak TLS."""
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def server(authority: Authority) -> Iterator[VaultPlace]:
    """A real one, of this test alone: deploy/vault writes at fixed places."""
    one = make("bao", tls=tls_of(authority))
    one.start()
    yield one
    one.destroy()


class Cluster:
    """Where pods of the manifests run: with a Vault that deploy/vault was written to, and a database."""

    def __init__(
        self,
        server: VaultPlace,
        database: Database,
        reviewer: TokenReviewer,
        authority: Authority,
        place: Path,
        started: list[Program],
    ) -> None:
        self.server = server
        self.database = database
        self.port = free_port()
        self._reviewer = reviewer
        self._authority = authority
        self._place = place
        self._started = started
        directory = place / "vault"
        bootstrap.prepare(database, directory)
        (directory / "reviewer").write_text(reviewer.token)
        given = {
            "KUBERNETES_HOST": reviewer.address,
            "KUBERNETES_CA_FILE": str(authority.file),
            "REVIEWER_TOKEN_FILE": str(directory / "reviewer"),
            "VAULT_CACERT": str(authority.file),
            "BAO_CACERT": str(authority.file),
        }
        done = bootstrap.run(program(), directory, given, at=server)
        assert done.returncode == 0, done.stdout + done.stderr

    def schedule(self, name: str, *, account: str = "app", **more: str) -> Kubelet:
        """A pod of that manifest on a node; `more` changes words of its configuration."""
        at = place_of(self.database)
        database = "".join(f'{key} = "{at[key]}", ' if key != "port" else f"port = {at[key]}, " for key in at)
        words = {
            "base": {
                'address = "https://vault.vault.svc:8200"': f'address = "{self.server.address}"',
                'host = "db-host", port = 5432, dbname = "appdb", sslmode = "require"': database.rstrip(", "),
            },
            "examples": {  # has no CA of its own: the system knows it
                'address = "https://vault.internal:8200"': f'address = "{self.server.address}"\n'
                f'ca_cert = "{self._known_ca()}"',
                'host = "db-host"\ndbname = "appdb"': database.rstrip(", ").replace(", ", "\n"),
            },
        }
        return Kubelet(
            pod(name),
            self._place,
            stands_for={**words[re.split("[-/]", name)[0]], "${POD_IP}:8210": f"127.0.0.1:{self.port}", **more},
            config_maps={"vault-ca": {"ca.crt": self._authority.file.read_text()}},
            token=lambda: self._reviewer.issuer.service_account_token("default", account, audience=["vault"]),
            started=self._started,
        )

    def _known_ca(self) -> Path:
        path = self._place / "ca.pem"
        path.write_text(self._authority.file.read_text())
        return path

    def logins(self) -> int:
        """How many logins of pods the server knows."""
        found = self.server.ask("LIST", "auth/token/accessors", token=self.server.root).data["keys"]
        tokens = [self.server.admin("POST", "auth/token/lookup-accessor", {"accessor": one})["data"] for one in found]
        return sum(one["path"] == "auth/kubernetes/login" for one in tokens)

    def users(self) -> set[str]:
        """Those that the server has made and not ended."""
        return {
            str(name) for (name,) in self.database.execute("SELECT rolname FROM pg_roles WHERE rolname LIKE 'v-%%'")
        }


@pytest.fixture
def cluster(
    server: VaultPlace,
    database: Database,
    token_reviewer: TokenReviewer,
    authority: Authority,
    place: Path,
    started: list[Program],
) -> Cluster:
    """Ready for pods."""
    if not on_memory(place):
        pytest.skip("no memory file system for a pod's volumes")
    return Cluster(server, database, token_reviewer, authority, place, started)


def file_of(kubelet: Kubelet) -> Credential:
    """What the app's container reads where SECRETS_PATH says."""
    (app,) = kubelet.pod.apps
    pairs = dict(word.split("=", 1) for word in shlex.split(kubelet.read(app, environment(app)["SECRETS_PATH"])))
    assert {"DB_USER", "DB_PASS", "DB_LEASE_ID", "DB_TTL"} <= set(pairs)
    return Credential(
        username=pairs["DB_USER"],
        password=pairs["DB_PASS"],
        lease_id=pairs["DB_LEASE_ID"],
        lease_duration=int(pairs["DB_TTL"]),
    )


def test_a_native_pod_from_its_start_to_its_end(cluster: Cluster) -> None:
    """The app starts once the agent has started, uses file and socket; after it the agent ends, and nothing is left."""
    kubelet = cluster.schedule("base-native")
    sidecar, (app,) = kubelet.pod.sidecar, kubelet.pod.apps

    agent = kubelet.start(sidecar)
    kubelet.wait_started(agent, sidecar, cluster.port)

    held = file_of(kubelet)
    log_in(place_of(cluster.database), held).close()
    answer = kubelet.ask(app, "app-readonly")
    assert answer["data"]["username"] == held.username
    assert answer["data"]["host"] == cluster.database.host
    assert answer["verified"] is True
    assert cluster.users() == {held.username}
    assert cluster.logins() == 1
    assert kubelet.exec(sidecar, "status").code == 0
    with pytest.raises(subprocess.CalledProcessError):
        kubelet.read(app, environment(app)["LEASEHOLD_SOCKET"])

    assert agent.stop() == 0, agent.stderr

    assert cluster.users() == set()
    assert cluster.logins() == 0
    left = [
        path for path in (kubelet.volume(name) for name in ("secrets", "leasehold-state")) for path in path.rglob("*")
    ]
    assert [path.name for path in left if held.password in _text(path)] == []


def _text(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def test_an_app_reaches_neither_the_agents_state_nor_its_memory(cluster: Cluster) -> None:
    """Even where a manifest were to mount the state volume into the app: the kernel keeps uids apart."""
    if not ROOT:
        pytest.skip("needs root to be several users")
    kubelet = cluster.schedule("base-native")
    sidecar, (app,) = kubelet.pod.sidecar, kubelet.pod.apps
    agent = kubelet.start(sidecar)
    kubelet.wait_started(agent, sidecar, cluster.port)
    state = kubelet.volume("leasehold-state") / "state"
    meddling = {**app, "volumeMounts": sidecar["volumeMounts"]}

    for path in [state / "holder.json", *state.glob("*.json")]:
        with pytest.raises(subprocess.CalledProcessError):
            kubelet.read(meddling, f"/var/lib/leasehold/state/{path.name}")
    assert Path(f"/proc/{agent.pid}/status").read_text().count("CapBnd:\t0000000000000000") == 1
    assert (kubelet.path(sidecar, "/etc/secrets/db-creds").stat().st_mode & 0o777) == 0o440


def test_a_killed_container_comes_back_with_the_same_user(cluster: Cluster) -> None:
    """What the kubelet does after a crash: the same container again, on the same volumes."""
    kubelet = cluster.schedule("base-native")
    sidecar = kubelet.pod.sidecar
    agent = kubelet.start(sidecar)
    kubelet.wait_started(agent, sidecar, cluster.port)
    held = file_of(kubelet)

    agent.stop(signal.SIGKILL)
    again = kubelet.start(sidecar)
    kubelet.wait_started(again, sidecar, cluster.port)

    assert file_of(kubelet).username == held.username
    assert cluster.users() == {held.username}
    assert cluster.logins() == 1
    assert again.stop() == 0, again.stderr
    assert cluster.users() == set()
    assert cluster.logins() == 0


def test_a_plain_pod_hands_over_and_serves_while_the_app_drains(cluster: Cluster) -> None:
    kubelet = cluster.schedule("base-plain", **{'stop_grace = "35s"': 'stop_grace = "6s"'})
    (once,) = kubelet.pod.spec["initContainers"]
    sidecar, (app,) = kubelet.pod.sidecar, kubelet.pod.apps

    first = kubelet.start(once)
    assert first.wait() == 0, first.stderr
    held = file_of(kubelet)
    log_in(place_of(cluster.database), held).close()
    agent = kubelet.start(sidecar)
    kubelet.wait_started(agent, sidecar, cluster.port)

    assert kubelet.ask(app, "app-readonly")["data"]["username"] == held.username
    assert cluster.users() == {held.username}
    assert cluster.logins() == 1
    agent.send(signal.SIGTERM)
    assert eventually(lambda: bool(agent.logged("stopping")))
    log_in(place_of(cluster.database), held).close()
    assert file_of(kubelet).username == held.username
    assert agent.wait() == 0, agent.stderr
    assert cluster.users() == set()
    assert cluster.logins() == 0


def test_the_deployment_of_source_004_runs(cluster: Cluster) -> None:
    """R004-054 to R004-064: as the article has it, with our image and arguments."""
    binding = {"bound_service_account_names": ["api-sa"]}
    cluster.server.admin("POST", "auth/kubernetes/role/app-service-role", binding)
    kubelet = cluster.schedule("examples/source-004", account="api-sa", **{'stop_grace = "35s"': 'stop_grace = "1s"'})
    (once,) = kubelet.pod.spec["initContainers"]

    first = kubelet.start(once)
    assert first.wait() == 0, first.stderr
    held = file_of(kubelet)
    agent = kubelet.start(kubelet.pod.sidecar)
    kubelet.wait_started(agent, kubelet.pod.sidecar, cluster.port)

    assert file_of(kubelet).username == held.username
    log_in(place_of(cluster.database), held).close()
    assert {line["level"] for line in (*first.log, *agent.log)} <= {"warning", "error"}
    assert agent.stop() == 0, agent.stderr
    assert cluster.users() == set()
