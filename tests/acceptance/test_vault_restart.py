"""A pod's container comes back: with `state_dir` the same login and user go on; the app notices nothing."""

import random
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Agent, Program, eventually, from_file, toml
from tests.acceptance.living import can_log_in, logins, reading, remembering, revoke_token, tokens, works
from tests.acceptance.scenes import ROLE
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.faultproxy import FaultProxy
from tests.issuers import Issuer
from tests.vault_setup import Way

__all__ = ["vault_scene"]


def scenery(scene: VaultScene, issuer: Issuer, *, ttl: float = 60.0, **agent: Any) -> tuple[Way, dict[str, Any]]:
    """A login and a configuration with a memory."""
    scene.leases(ttl=ttl, max_ttl=1200)
    way = jwt_way(scene, issuer, token_ttl="120s", token_max_ttl="1200s")
    return way, remembering(scene.document(way), scene.place, **agent)


def once(scene: VaultScene, document: Any, started: list[Program], *options: str) -> Program:
    """An init container on that configuration, under way."""
    config = scene.place / "once.toml"
    config.write_text(toml(document))
    program = Program(["once", "-c", str(config), *options], scene.place)
    started.append(program)
    return program


@pytest.mark.parametrize("end", ["kill -9", "a handover", "an init container"])
def test_the_next_run_goes_on_with_the_same_login_and_user(
    vault_scene: VaultScene, issuer: Issuer, started: list[Program], end: str
) -> None:
    """Promise 8: nothing is issued anew, and the app's file is not touched."""
    scene = vault_scene
    way, document = scenery(scene, issuer, on_stop="handover" if end == "a handover" else "revoke")
    file = Path(document["template"][0]["destination"])

    if end == "an init container":
        assert once(scene, document, started).wait() == 0
    else:
        first = scene.agent(document).wait_ready()
        generation = first.read(ROLE).generation
        if end == "kill -9":
            first.end()
        else:
            assert first.stop() == 0
    before, told = from_file(file), file.stat()
    assert can_log_in(scene.database, before)
    assert scene.proxy.count("auth/token/revoke-self") == 0
    document["agent"]["on_stop"] = "revoke"
    second = scene.agent(document).wait_ready()
    after = second.read(ROLE)

    assert after.username == before.username
    if end != "an init container":
        assert after.generation == generation
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (told.st_ino, told.st_mtime_ns), "written again"
    assert scene.users() == {before.username}
    assert logins(scene, way) == 1
    assert len(tokens(scene)) == 1
    assert scene.made is not None
    assert scene.proxy.count(scene.made.creds()) == 1
    assert second.stop() == 0
    assert scene.users() == set()
    assert scene.proxy.count("auth/token/revoke-self") == 1


def test_a_login_revoked_meanwhile_is_found_out_at_the_start(vault_scene: VaultScene, issuer: Issuer) -> None:
    """One login, one user; what the last run left is said to be dead, not served as if it were alive."""
    scene = vault_scene
    way, document = scenery(scene, issuer)
    first = scene.agent(document).wait_ready()
    before = first.read(ROLE)
    first.end()
    revoke_token(scene, tokens(scene)[-1])
    assert eventually(lambda: scene.users() == set())

    second = scene.agent(document).wait_listening()

    assert eventually(lambda: works(second, scene.database, ROLE)), second.role(ROLE)
    after = second.read(ROLE)
    assert after.username != before.username
    assert after.generation > before.generation
    assert eventually(lambda: from_file(second.file).username == after.username)
    assert logins(scene, way) == 2
    assert scene.users() == {after.username}
    assert second.stop() == 0
    assert scene.users() == set()


def test_while_the_server_is_away_a_restart_serves_what_it_has(vault_scene: VaultScene, issuer: Issuer) -> None:
    """Promises 3 and 8 together: the outage costs a pod nothing that restarts during it."""
    scene = vault_scene
    way, document = scenery(scene, issuer)
    first = scene.agent(document).wait_ready()
    before = first.read(ROLE)
    first.end()
    scene.proxy.dead()

    second = scene.agent(document).wait_ready()

    assert second.read(ROLE).username == from_file(second.file).username == before.username
    assert can_log_in(scene.database, before)
    scene.proxy.alive()
    assert second.stop() == 0, second.stderr
    assert scene.users() == set()
    assert logins(scene, way) == 1


@pytest.mark.long
def test_another_way_to_log_in_keeps_the_user_that_is_there(vault_scene: VaultScene, issuer: Issuer) -> None:
    """What the last run left was made at the same server: the login in hand goes on, whatever made it."""
    scene = vault_scene
    _, document = scenery(scene, issuer)
    first = scene.agent(document).wait_ready()
    before = first.read(ROLE)
    first.end()
    other = scene.setup.approle(scene.policy, token_ttl="120s")
    document["auto_auth"] = {"method": other.method}

    second = scene.agent(document).wait_ready()

    assert second.read(ROLE).username == before.username
    assert works(second, scene.database, ROLE)
    assert logins(scene, other) == 0
    assert len(tokens(scene)) <= 1
    assert second.stop() == 0
    assert scene.users() == set()
    assert scene.setup.place.ask("GET", "auth/token/lookup-self", token=tokens(scene)[0]).status == 403


def test_another_server_is_not_sent_the_login_of_this_one(vault_scene: VaultScene, issuer: Issuer) -> None:
    """A login is a secret between two: whoever answers at the address that is configured now has never seen it."""
    scene = vault_scene
    way, document = scenery(scene, issuer)
    first = scene.agent(document).wait_ready()
    before = first.read(ROLE)
    first.end()

    with FaultProxy(scene.setup.place.address) as elsewhere:
        document["vault"]["address"] = elsewhere.address
        second = scene.agent(document).wait_ready()

        assert works(second, scene.database, ROLE)
        assert second.read(ROLE).username != before.username
        assert second.stop() == 0
        sent = {seen.headers.get("x-vault-token") for seen in elsewhere.seen()}
        assert not sent & set(tokens(scene))
        assert before.lease_id not in "".join(seen.path + str(seen.content) for seen in elsewhere.seen())
        assert elsewhere.count(f"auth/{way.mount}/login") == 1
    said = [line["error"] for line in second.logged("state-failed")]
    assert len(said) == 2, said
    assert all("another upstream" in line for line in said), said


@pytest.mark.long
@pytest.mark.timeout(180)
def test_random_kills_cost_readers_no_credential(vault_scene: VaultScene, issuer: Issuer) -> None:
    """An app that reads all the time never gets a credential that does not log in; one user at the end, or two."""
    scene = vault_scene
    way, document = scenery(scene, issuer, ttl=8)
    dice = random.Random(7)  # noqa: S311 - a seed, so that a failure can be played again
    agents: list[Agent] = [scene.agent(document).wait_ready()]

    with reading(lambda: agents[-1], scene.database, ROLE) as reads:
        for _ in range(10):
            time.sleep(dice.uniform(0.2, 3.0))
            agents[-1].end()
            agents.append(scene.agent(document).wait_ready())
        time.sleep(1.0)
        alive = scene.users()

    assert reads.dead == []
    assert {status for _, status in reads.refused} <= {0, 503}, "away, or about to take over"
    assert len(alive) <= 2
    assert logins(scene, way) == 1
    assert agents[-1].stop() == 0
    assert scene.users() == set()
