"""What stands at a Vault without being leased, beside the agent's own login in files: on both kinds of server."""

import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg

from agent.atomicfile import on_memory
from tests.acceptance.harness import Agent, eventually, log_in
from tests.acceptance.scenes import file_of, place_of
from tests.acceptance.vaulted import VaultScene, vault_scene
from tests.issuers import Issuer
from tests.vault_agent import agent_document, vault_of

__all__ = ["vault_scene"]

FIXED, SECRET = "database/static-creds/fixed", "secret/data/app"


def sink(directory: Path, name: str, **keys: Any) -> dict[str, Any]:
    config = {"path": str(directory / "tokens" / name), "allow_disk": not on_memory(directory)}
    return {"type": "file", "config": config, **keys}


def token_file(document: Mapping[str, Any], number: int) -> Path:
    return Path(document["auto_auth"]["sink"][number]["config"]["path"])


def value(agent: Agent) -> str | None:
    """What an app reads of the key-value secret; None while it is not there."""
    answer = agent.ask(f"/v1/{SECRET}")
    return str(answer.body["data"]["word"]) if answer.status == 200 else None


def test_a_rotated_password_a_changed_value_and_the_login_reach_the_app(
    vault_scene: VaultScene, issuer: Issuer
) -> None:
    scene, place = vault_scene, vault_scene.setup.place
    made = scene.leases(ttl=3600, max_ttl=7200)
    fixed = scene.setup.static_role(made, period=5)
    path = f"{scene.setup.kv()}/data/app"
    scene.policy = scene.setup.policy(fixed, path, more={"sys/wrapping/wrap": ["update"]})
    place.admin("POST", path, {"data": {"word": "first"}})
    way = scene.setup.jwt(issuer, scene.policy, token_ttl="120s", token_max_ttl="600s")
    roles: dict[str, dict[str, Any]] = {
        FIXED: {"path": fixed, "kind": "static", "connection": place_of(scene.database)},
        SECRET: {"path": path, "kind": "kv", "poll": "1s", "verify": []},
    }
    document = agent_document(
        scene.place,
        vault_of(place, scene.proxy.address),
        way,
        roles,
        templates=[file_of(scene.place, role=FIXED)],
    )
    document["auto_auth"]["sink"] = [sink(scene.place, "plain"), sink(scene.place, "wrapped", wrap_ttl="60s")]
    agent = scene.agent(document).wait_ready()
    plain, wrapped = token_file(document, 0), token_file(document, 1)

    # The app logs in with the static role's password at any moment, but for the instants around a rotation.
    failed = 0
    passwords: set[str] = set()
    ends = time.monotonic() + 30
    while len(passwords) < 2 and time.monotonic() < ends:
        held = agent.read(FIXED)
        passwords.add(held.password)
        assert held.lease_duration >= 1
        try:
            log_in(place_of(scene.database), held).close()
        except psycopg.OperationalError:
            failed += 1
        time.sleep(0.1)
    assert len(passwords) == 2
    assert failed < 60, "a rotation is seen within a few seconds"
    assert len(agent.logged("published", role=FIXED)) - len(passwords) in (0, 1)

    # A changed value comes with the next look, a deleted one is withdrawn.
    assert value(agent) == "first"
    assert len(agent.logged("published", role=SECRET)) == 1
    place.admin("POST", path, {"data": {"word": "second"}})
    assert eventually(lambda: value(agent) == "second")
    place.admin("DELETE", path)
    assert eventually(lambda: value(agent) is None)
    assert "there is no such secret" in agent.role(SECRET)["error"]

    # The login: the token itself, and one that opens once.
    assert stat.S_IMODE(plain.stat().st_mode) == 0o400
    token = plain.read_text()
    assert place.ask("GET", "auth/token/lookup-self", token=token).status == 200
    opened = place.ask("POST", "sys/wrapping/unwrap", token=wrapped.read_text())
    assert opened.status == 200
    assert place.ask("POST", "sys/wrapping/unwrap", token=wrapped.read_text()).status in (400, 403)
    told = agent.stderr + agent.ask("/v1/sys/health").text
    assert token not in told

    assert agent.stop() == 0
    assert not plain.exists()
    assert not wrapped.exists()
    assert not agent.file.exists()
    assert place.ask("GET", "auth/token/lookup-self", token=token).status == 403


def test_while_the_server_is_gone_the_last_value_is_served_as_stale(vault_scene: VaultScene, issuer: Issuer) -> None:
    scene, place = vault_scene, vault_scene.setup.place
    path = f"{scene.setup.kv(1)}/app"
    scene.policy = scene.setup.policy(path)
    place.admin("POST", path, {"word": "first"})
    way = scene.setup.jwt(issuer, scene.policy, token_ttl="120s", token_max_ttl="600s")
    roles = {SECRET: {"path": path, "kind": "kv", "poll": "1s", "verify": []}}
    agent = scene.agent(agent_document(scene.place, vault_of(place, scene.proxy.address), way, roles)).wait_ready()

    scene.proxy.dead()
    assert eventually(lambda: agent.role(SECRET)["state"] == "stale")
    for _ in range(20):
        answer = agent.ask(f"/v1/{SECRET}")
        assert (answer.status, answer.body["data"], answer.body["state"]) == (200, {"word": "first"}, "stale")
        assert answer.body["lease_duration"] >= 1
        time.sleep(0.1)
    place.admin("POST", path, {"word": "second"})
    scene.proxy.alive()
    assert eventually(lambda: value(agent) == "second", within=30)
    assert eventually(lambda: agent.role(SECRET)["state"] == "fresh")
    assert agent.stop() == 0
