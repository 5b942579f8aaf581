"""What ends behind the agent's back at a Vault: leases, roles, logins and what proves who the pod is.

Each ends in a credential that works, or in a report that says why there is none.
"""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Agent, Credential, Program, credential, eventually, toml
from tests.acceptance.living import (
    can_log_in,
    logins,
    reading,
    replace,
    revoke_lease,
    revoke_token,
    tokens,
    upstream,
    works,
)
from tests.acceptance.scenes import ROLE, file_of, place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer
from tests.vault_agent import agent_document, vault_of

__all__ = ["vault_scene"]

RENEWED, TRIED, ASKED = (f"database/creds/{name}" for name in ("renewed", "tried", "asked"))
LAG = 5.2
"""A login must be older (seconds) before a refusal means that it has ended: a standby may lag behind."""
SOON = 10.0
"""Within this much (seconds) something is there again that nothing holds up; a backoff would have grown beyond."""


def three_roles(scene: VaultScene, way: Any) -> dict[str, Any]:
    """One role that is renewed soon, one that is tried again all the time, and one that nobody asks after."""
    made = scene.made
    assert made is not None
    scene.setup.database_role(made, "brief", ttl=6, max_ttl=600)
    scene.setup.write_policy(
        scene.policy,
        {
            **{made.creds(name): ("read",) for name in ("app", "brief")},
            "auth/token/*": ("read", "update"),
            "sys/leases/*": ("update",),
        },
    )
    roles: dict[str, dict[str, Any]] = {
        RENEWED: {"path": made.creds("brief"), "verify": []},
        TRIED: {"path": made.creds(), "connection": place_of(scene.database), "verify_every": "1s"},
        ASKED: {"path": made.creds(), "verify": []},
    }
    server = vault_of(scene.setup.place, scene.proxy.address)
    return agent_document(scene.place, server, way, roles, templates=[file_of(scene.place, role=RENEWED)])


def all_new(agent: Agent, scene: VaultScene, before: Mapping[str, Credential]) -> bool:
    """Whether every role serves another user than before, who can log in."""
    found = {role: agent.ask(f"/v1/{role}") for role in before}
    return all(
        answer.status == 200
        and credential(answer).username != before[role].username
        and can_log_in(scene.database, credential(answer))
        for role, answer in found.items()
    )


@pytest.mark.timeout(90)
def test_a_revoked_lease_is_found_out_and_replaced(vault_scene: VaultScene, issuer: Issuer) -> None:
    """By the first renewal, by the next trial, and by the app's own word."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = jwt_way(scene, issuer, token_ttl="600s", token_max_ttl="3600s")
    agent = scene.agent(three_roles(scene, way)).wait_ready()
    before = {role: agent.read(role) for role in (RENEWED, TRIED, ASKED)}

    for held in before.values():
        revoke_lease(scene, held.lease_id)
    assert agent.ask(f"/v1/{ASKED}/rotate", method="POST").status in (200, 202)

    assert eventually(lambda: all_new(agent, scene, before), within=SOON), agent.health()
    assert scene.users() == {agent.read(role).username for role in before}, "one user each"
    assert logins(scene, way) == 1
    assert upstream(agent)["healthy"]
    assert agent.stop() == 0
    assert scene.users() == set()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_deleted_role_is_named_and_serves_again_once_it_is_written(vault_scene: VaultScene, issuer: Issuer) -> None:
    scene = vault_scene
    made = scene.leases(ttl=6, max_ttl=600)
    way = jwt_way(scene, issuer, token_ttl="600s", token_max_ttl="3600s")
    agent = scene.agent(scene.document(way)).wait_ready()

    with reading(lambda: agent, scene.database, ROLE) as reads:
        scene.setup.place.admin("DELETE", f"{made.mount}/roles/app")
        assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 503, within=30)
        said = agent.role(ROLE)["error"]
        assert made.creds() in said, said
        assert agent.probe("readyz") == 503
        asked = scene.proxy.count(made.creds())
        scene.setup.database_role(made, ttl=6, max_ttl=600)
        assert eventually(lambda: works(agent, scene.database, ROLE), within=70)

    assert reads.dead == []
    assert asked <= 10
    assert agent.probe("readyz") == 200
    assert agent.stop() == 0


@pytest.mark.timeout(120)
def test_a_revoked_login_leads_to_one_other_and_every_role_is_back(vault_scene: VaultScene, issuer: Issuer) -> None:
    """Promise 6: whoever finds it out, one login is made, and no role waits for its own next call."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = jwt_way(scene, issuer, token_ttl="600s", token_max_ttl="3600s")
    agent = scene.agent(three_roles(scene, way)).wait_ready()
    roles = (RENEWED, TRIED, ASKED)
    before = {role: agent.read(role) for role in roles}
    time.sleep(LAG)

    with reading(lambda: agent, scene.database, ASKED) as reads:
        began = time.monotonic()
        revoke_token(scene, tokens(scene)[-1])
        assert eventually(lambda: all_new(agent, scene, before), within=SOON), agent.health()

    # From the first call that reveals it a login and an issue later there is another.
    assert max(reads.dead, default=began) - began < 8.0
    assert reads.refused == []
    assert logins(scene, way) == 2
    assert len(agent.logged("login-lost")) == 1
    assert scene.users() == {agent.read(role).username for role in roles}
    assert agent.stop() == 0
    assert scene.users() == set()


def test_a_token_that_has_ended_is_named_and_the_next_one_logs_in_at_once(
    vault_scene: VaultScene, issuer: Issuer
) -> None:
    """R004-004: the kubelet was late. What has ended is not sent; its swap of links ends the wait."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = jwt_way(scene, issuer, token_ttl="600s")
    token = way.token
    assert token is not None
    token.put(issuer.service_account_token("default", "app", audience=["vault"], ttl=-600))

    agent = scene.agent(scene.document(way)).wait_listening()

    assert eventually(lambda: str(token.path) in (agent.role(ROLE)["error"] or "")), agent.role(ROLE)
    assert "ended" in agent.role(ROLE)["error"]
    assert agent.probe("readyz") == 503
    assert scene.proxy.count() == 0
    delay = agent.logged("issue-failed")[0]["retry_in"]
    rotated = time.monotonic()
    token.rotate()
    assert eventually(lambda: works(agent, scene.database, ROLE))
    assert time.monotonic() - rotated < max(4.0, delay), "it has waited for its own next attempt"
    assert agent.probe("readyz") == 200
    assert logins(scene, way) == 1
    assert agent.stop() == 0
    assert scene.users() == set()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_rotated_token_file_ends_the_wait_at_once(vault_scene: VaultScene, issuer: Issuer) -> None:
    """R004-004, D-09: the kubelet's swap of links is noticed; until then the report names the file and the fault."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = jwt_way(scene, issuer, token_ttl="600s", token_max_ttl="3600s")
    token = way.token
    assert token is not None
    agent = scene.agent(scene.document(way)).wait_ready()
    time.sleep(LAG)
    token.put(issuer.service_account_token("default", "app", audience=["vault"], ttl=-600))
    before = logins(scene, way)

    with reading(lambda: agent, scene.database, ROLE) as reads:
        began = time.monotonic()
        revoke_token(scene, tokens(scene)[-1])
        agent.ask(f"/v1/{ROLE}/rotate", method="POST")
        assert eventually(lambda: str(token.path) in (agent.role(ROLE)["error"] or "")), agent.role(ROLE)
        assert "ended" in agent.role(ROLE)["error"]
        assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 503), "the login is lost and so is the lease"
        time.sleep(2.5)  # the delays grow
        assert agent.probe("readyz") == 503
        assert logins(scene, way) == before, "what has ended is not sent"
        token.rotate()
        rotated = time.monotonic()
        assert eventually(lambda: works(agent, scene.database, ROLE))
        took = time.monotonic() - rotated

    assert max(reads.dead, default=began) - began < 5.0, "readers get what is known to be dead"
    assert took < 6.0
    assert logins(scene, way) == before + 1
    assert agent.probe("readyz") == 200
    assert agent.stop() == 0
    assert scene.users() == set()


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_replaced_token_file_is_a_new_login_and_leases_follow_with_overlap(vault_scene: VaultScene) -> None:
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = scene.setup.token_file(scene.policy, ttl="40s")
    file = Path(way.config["token_file_path"])
    agent = scene.agent(scene.document(way)).wait_ready()
    old, first = file.read_text(), agent.read(ROLE)

    with reading(lambda: agent, scene.database, ROLE) as reads:
        fresh = scene.setup.token(scene.policy, ttl="40s")
        replace(file, fresh)
        assert eventually(lambda: agent.read(ROLE).username != first.username, within=60), agent.role(ROLE)
        second = agent.read(ROLE)
        assert can_log_in(scene.database, first), "it drains"
        assert can_log_in(scene.database, second)

    assert reads.dead == []
    assert reads.refused == []
    assert tokens(scene)[-1] == fresh
    assert agent.stop() == 0
    assert scene.users() == set()
    for token in (old, fresh):
        assert scene.setup.place.ask("GET", "auth/token/lookup-self", token=token).status in (200, 403)
    assert scene.proxy.count("auth/token/revoke-self") == 0, "it is somebody else's"


@pytest.mark.timeout(90)
def test_a_stolen_wrapping_token_raises_the_alarm_and_is_sent_once(
    vault_scene: VaultScene, started: list[Program]
) -> None:
    """D-31: somebody else opened it first."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=14400)
    way = scene.setup.approle(scene.policy, wrapped="60s")
    secret_id = Path(way.config["secret_id_file_path"])
    stolen = secret_id.read_text()
    assert scene.setup.place.ask("POST", "sys/wrapping/unwrap", {}, token=stolen).status == 200
    document = scene.document(way)
    config = scene.place / "once.toml"
    config.write_text(toml(document))

    once = Program(["once", "-c", str(config), "--timeout", "2s"], scene.place)
    started.append(once)

    assert once.wait() == 1
    said = [line for line in once.stderr.splitlines() if line.startswith("leasehold: ")]
    assert str(secret_id) in said[0], said
    assert "wrapping token" in said[0]
    assert len(once.logged("wrapping-token-reused")) == 1
    assert scene.proxy.count("sys/wrapping") == 1, [seen.path for seen in scene.proxy.seen()]
    assert logins(scene, way) == 0
    assert stolen not in once.stderr

    # Another one, delivered while the agent waits, is all it takes.
    agent = scene.agent(document).wait_listening()
    assert eventually(lambda: len(agent.logged("wrapping-token-reused")) == 1)
    made_at = way.config["secret_id_response_wrapping_path"]
    delivered = scene.setup.place.admin("POST", made_at, {}, wrap_ttl="60s")["wrap_info"]["token"]
    replace(secret_id, delivered)
    assert eventually(lambda: agent.probe("readyz") == 200, within=SOON), agent.role(ROLE)
    assert logins(scene, way) == 1
    assert agent.stop() == 0
    assert scene.users() == set()
