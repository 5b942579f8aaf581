"""Promise 9 over Vault: a flow at debug with every trouble, and then every place is swept for what was a secret in it.

Secrets are all that was sent to and came from the server and could be used by whoever finds it: tokens, what proves
who the pod is, wrapping tokens, passwords, private keys. An accessor names a login; it stands in the audit log alone.
"""

import json
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent.atomicfile import on_memory
from tests.acceptance.harness import Agent, Client, Program, eventually
from tests.acceptance.living import replace, revoke_token, tokens
from tests.acceptance.scenes import ROLE
from tests.acceptance.test_vault_kinds import certificates
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer

__all__ = ["vault_scene"]

CERTIFICATE, SECRET, BY_APPROLE = "certificate", "settings", "by-approle"
STOLEN = "s.thisWrappingTokenIsKnownToNobody"
CANARY = "a-canary-that-nobody-may-see"
STATE = "state"
OPEN = ("/v1/sys/health", "/readyz", "/v1/nothing", "/metrics", "/v1/sys/leases", "/v1/sys/leases/lookup")


class Collector:
    """Keeps every answer that should hold no secret, and every credential that was served.

    Attributes:
        served: values of served credentials that are secret.
        accessors: of our logins.
        places: texts by where they were found.
    """

    def __init__(self, agent: Agent, sinks: list[Path], state: Path) -> None:
        self._agent = agent
        self._sinks = sinks
        self._state = state
        self.served: set[str] = set()
        self.accessors: set[str] = set()
        self.places: dict[str, str] = {}

    @contextmanager
    def at_work(self) -> Iterator[None]:
        done = threading.Event()

        def look() -> None:
            with Client(self._agent.socket) as client:
                while not done.wait(0.1):
                    self._look(client)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _look(self, client: Client) -> None:
        for target in OPEN:
            answer = client.ask(target)
            self._keep(target, f"{answer.headers} {answer.text}")
        for role in (ROLE, CERTIFICATE, SECRET, BY_APPROLE):
            answer = client.ask(f"/v1/{role}")
            if answer.status != 200:
                self._keep(role, answer.text)
                continue
            data = answer.body["data"]
            self.served |= {data[name] for name in ("password", "private_key", "url") if name in data}
        for sink in self._sinks:
            with suppress(FileNotFoundError):
                self.served.add(sink.read_text())
        for record in self._state.glob("role-*.json"):
            with suppress(FileNotFoundError):
                self.accessors |= accessors_of(json.loads(record.read_text()))
        pid = self._agent.pid
        for name in ("cmdline", "environ", "status"):
            with suppress(PermissionError):
                self._keep(name, Path(f"/proc/{pid}/{name}").read_text())

    def _keep(self, where: str, text: str) -> None:
        self.places[where] = self.places.get(where, "") + text


def suffer(scene: VaultScene, agent: Agent, secret_id: Path) -> None:
    """A lost login, refusals, a server that repeats what is secret, half an answer, an outage; then all is well."""
    assert scene.made is not None
    refused = scene.proxy.fault("auth/", status=400, body={"errors": [f"permission denied: {CANARY}"]})
    revoke_token(scene, tokens(scene)[0])
    agent.ask(f"/v1/{ROLE}/rotate", method="POST")
    assert eventually(lambda: len(agent.logged("issue-failed")) >= 2)
    scene.proxy.clear(refused)
    # What it says to an issue repeats what is secret, as a hostile or a careless server would.
    said = {
        "errors": [f"1 error occurred: {CANARY} {tokens(scene)[-1]} {secret_id.read_text()}"],
        "data": {"a": CANARY},
    }
    hostile = scene.proxy.fault(scene.made.creds(), status=500, body=said)
    half = scene.proxy.fault("sys/leases/renew", half=True, times=1)
    assert eventually(lambda: bool(agent.logged("issue-failed", role=ROLE)), within=30.0)
    scene.proxy.clear(hostile)
    scene.proxy.clear(half)
    scene.proxy.dead()
    time.sleep(1.0)
    scene.proxy.alive()
    assert eventually(lambda: agent.probe("readyz") == 200, within=60.0), agent.health()


@pytest.mark.long
@pytest.mark.timeout(180)
def test_no_secret_of_a_vault_is_anywhere_else(
    vault_scene: VaultScene, issuer: Issuer, started: list[Program], tmp_path: Path
) -> None:
    """R004-034, R004-035, D-31."""
    scene = vault_scene
    setup, admin = scene.setup, scene.setup.place.admin
    made = scene.leases(ttl=6, max_ttl=14)
    brief = setup.database_role(made, "brief", ttl=6, max_ttl=14)
    pki, kv = certificates(scene), setup.kv(2)
    scene.policy = setup.policy(
        *(made.creds(), brief, f"{kv}/data/app"),
        more={f"{pki}/issue/web": ("update",), "sys/wrapping/wrap": ("update",)},
    )
    admin("POST", f"{kv}/data/app", {"data": {"url": "postgres://u:kv-canary@h/d"}})
    way = jwt_way(scene, issuer, token_ttl="9s", token_max_ttl="40s")
    wrapped = setup.approle(scene.policy, wrapped="120s", token_ttl="60s")
    secret_id = Path(wrapped.config["secret_id_file_path"])
    envelope = secret_id.read_text()
    document: Any = scene.document(way, role={"retries": 1}, agent={"log_level": "debug"})
    server = document["vault"]
    document["vault"] = {"main": {**server, "method": way.method}, "other": {**server, "method": wrapped.method}}
    del document["auto_auth"]
    document["role"] = {
        ROLE: {**document["role"][ROLE], "upstream": "vault.main"},
        SECRET: {"upstream": "vault.main", "kind": "kv", "path": f"{kv}/data/app", "poll": "1s"},
        CERTIFICATE: {
            "upstream": "vault.main",
            "kind": "write",
            "path": f"{pki}/issue/web",
            "parameters": {"common_name": "a.example.com", "ttl": "15s"},
            "multiline": True,
        },
        BY_APPROLE: {"upstream": "vault.other", "path": brief, "verify": []},
    }
    sinks = [scene.place / "tokens" / name for name in ("plain", "wrapped")]
    disk = not on_memory(scene.place)
    places = [{"upstream": "vault.main", "config": {"path": str(sink), "allow_disk": disk}} for sink in sinks]
    document["auto_auth"] = {"sink": [places[0], {**places[1], "wrap_ttl": "30s"}]}
    document["agent"] |= {"state_dir": str(scene.place / STATE), "holder": "web-0", "state_allow_disk": disk}
    audit = scene.place / "audit.jsonl"
    document["audit"] = {"file": str(audit)}
    environ = tmp_path / "environ"
    before = ["sh", "-c", 'cat /proc/$$/environ >"$0" && exec "$@"', str(environ)]
    agent = scene.agent(document, before=before).wait_ready()
    collector = Collector(agent, sinks, scene.place / STATE)

    with collector.at_work():
        assert eventually(lambda: bool(agent.logged("renewed", role=ROLE)), within=30.0)
        suffer(scene, agent, secret_id)
        # Somebody else has opened the next wrapping token.
        replace(secret_id, STOLEN)
        revoke_token(scene, scene.proxy.seen(brief)[-1].headers["x-vault-token"])
        assert eventually(lambda: bool(agent.logged("wrapping-token-reused")), within=40.0)
        assert eventually(lambda: len(agent.logged("published", role=ROLE)) >= 3, within=40.0)
    status = Program(["status", "-s", str(agent.socket)], scene.place)
    listed = Program(["leases", "-s", str(agent.socket)], scene.place)
    started += [status, listed]
    for each in (status, listed):
        each.wait()
    state = "".join(path.read_text() for path in (scene.place / STATE).glob("*.json"))
    agent.send(signal.SIGTERM)
    assert agent.wait() in (0, 6)

    sent = [seen.body for seen in scene.proxy.seen(method="POST") if seen.content]
    proofs = {str(body[name]) for body in sent for name in ("jwt", "secret_id", "token") if name in body}
    secrets = {*collector.served, *proofs, *tokens(scene), envelope, CANARY, "kv-canary", STOLEN}
    secrets = {each for each in secrets if each and len(each) > 7}
    assert len(secrets) >= 12, [len(each) for each in secrets]
    assert len(collector.accessors) >= 3, "two logins, and the one after the first"
    assert any(each in state for each in secrets), "the state keeps what a restart needs, and nothing else does"
    texts = {
        **collector.places,
        "stdout": agent.stdout,
        "stderr": agent.stderr,
        "status": status.stdout + status.stderr,
        "leases": listed.stdout + listed.stderr,
        "environ at exec": environ.read_text(),
    }
    for path in scene.place.rglob("*"):
        if path.is_file() and path.parent.name != STATE:
            texts[str(path)] = path.read_text()
    assert audit.stat().st_size > 0
    assert "debug" in {line["level"] for line in agent.log}
    for name, text in texts.items():
        # The audit log names each lease and each login in full, as the server's operators know them.
        hidden = secrets if name == str(audit) else secrets | collector.accessors
        assert [each for each in hidden if each in text] == [], name
        assert "BEGIN PRIVATE KEY" not in text, name
        assert "BEGIN EC PRIVATE KEY" not in text, name
    assert "Traceback" not in agent.stderr


def accessors_of(record: Mapping[str, Any]) -> set[str]:
    """The ids of logins in a record of the state."""
    if not record["role"].startswith("session:") or record["current"] is None:
        return set()
    return {record["current"]["first"]["id"], *(each["id"] for each in record["retired"])}
