"""What operators see of the login at a Vault: health, status, metrics, the audit log, and what the commands say."""

import json
from pathlib import Path
from typing import Any

from tests.acceptance.harness import Agent, Program, eventually, toml
from tests.acceptance.scenes import ROLE
from tests.acceptance.test_metrics import holds, scrape, value
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer

__all__ = ["vault_scene"]

LOGIN = {"role": "session:vault", "upstream": "vault"}


def command(scene: VaultScene, started: list[Program], *argv: str) -> Program:
    """`leasehold …` run to its end."""
    program = Program(argv, scene.place)
    started.append(program)
    program.wait()
    return program


def status(scene: VaultScene, started: list[Program]) -> Program:
    return command(scene, started, "status", "-s", str(scene.place / "agent.sock"))


def login(agent: Agent) -> dict[str, Any]:
    (upstream,) = agent.health()["upstreams"]
    found: dict[str, Any] = upstream["login"]
    return found


def accessors(scene: VaultScene) -> set[str]:
    return set(scene.setup.place.admin("LIST", "auth/token/accessors")["data"]["keys"])


def test_a_login_is_seen_by_operators_and_gives_nothing_away(
    vault_scene: VaultScene, issuer: Issuer, started: list[Program]
) -> None:
    """Leases of an hour on a login of a minute: what is told is the login's end, and says so."""
    scene = vault_scene
    scene.leases(ttl=3600, max_ttl=7200)
    way = jwt_way(scene, issuer, token_ttl="60s", token_max_ttl="600s")
    document = scene.document(way)
    audit = scene.place / "audit.jsonl"
    document["audit"] = {"file": str(audit)}
    before = accessors(scene)
    agent = scene.agent(document).wait_ready()
    (ours,) = accessors(scene) - before

    health, shown, samples = agent.health(), status(scene, started), scrape(agent)

    (upstream,) = health["upstreams"]
    told = upstream["login"]
    assert (upstream["healthy"], upstream["address"], health["degraded"]) == (True, scene.proxy.address, False)
    assert (told["method"], told["mount"], told["phase"]) == ("jwt", f"auth/{way.mount}", "fresh")
    assert (told["failures"], told["error"], told["next_step"]) == (0, None, "renew")
    assert 0 < told["expires_in"] <= 60
    assert health["roles"][ROLE]["ends_with_login"] is True
    assert health["roles"][ROLE]["remaining"] <= 60
    lines = shown.stdout.splitlines()
    (row,) = [line for line in lines if line.startswith(ROLE)]
    assert " s* " in row, "the end is the login's"
    assert "* our login's end, which comes before the lease's own: each renewal of the login moves it on" in lines
    assert lines[-1].startswith(f"vault: logged in by jwt at auth/{way.mount} at {scene.proxy.address}, ")
    assert ", renew in " in lines[-1]
    assert value(samples, "leasehold_login_phase", upstream="vault", phase="fresh") == 1
    assert value(samples, "leasehold_login_failures", upstream="vault") == 0
    assert 0 < value(samples, "leasehold_login_remaining_seconds", upstream="vault") <= 60
    assert value(samples, "leasehold_login_overlap_seconds", upstream="vault") == 15
    assert value(samples, "leasehold_upstream_serving", upstream="vault", address=scene.proxy.address) == 1
    assert value(samples, "leasehold_issues_total", outcome="ok", **LOGIN) == 1
    assert value(samples, "leasehold_renewals_total", outcome="failed", **LOGIN) == 0
    assert value(samples, "leasehold_leases", role="session:vault", state="published") == 1
    for text in (json.dumps(health), shown.stdout, agent.ask("/metrics").text, agent.stderr):
        assert ours not in text
        assert way.body()["jwt"] not in text

    assert agent.stop() == 0
    logins = [line for line in map(json.loads, audit.read_text().splitlines()) if line["role"] == "session:vault"]
    assert [(line["what"], line["outcome"], line["lease_id"]) for line in logins if line["what"] != "renew"] == [
        ("issue", "ok", ours),
        ("revoke", "ok", ours),
    ]
    assert {"hvs.", "s."}.isdisjoint(word[: word.find(".") + 1] for line in logins for word in map(str, line.values()))


def test_a_login_that_fails_is_told_once_with_its_reason_and_heals(
    vault_scene: VaultScene, issuer: Issuer, started: list[Program]
) -> None:
    """The role is quiet: its session says all. Degraded, not ready; alerts are true; then all is well by itself."""
    scene = vault_scene
    scene.leases(ttl=60, max_ttl=600)
    way = jwt_way(scene, issuer, token_ttl="120s", token_max_ttl="600s")
    assert way.token is not None
    way.token.put("")
    agent = scene.agent(scene.document(way)).wait_listening()
    assert eventually(lambda: bool(agent.health()["upstreams"]) and agent.role(ROLE)["failures"] >= 1)

    told, shown, samples = login(agent), status(scene, started), scrape(agent)

    assert agent.health()["degraded"] is True
    assert agent.health()["ready"] is False
    assert (told["phase"], told["expires_in"]) == ("failing", None)
    assert str(way.token.path) in told["error"]
    assert shown.code == 1
    line = shown.stdout.splitlines()[-1]
    assert line.startswith(f"vault: not logged in by jwt at auth/{way.mount} at {scene.proxy.address}: ")
    assert str(way.token.path) in line
    assert "failed in a row; next try in " in line
    assert value(samples, "leasehold_login_phase", upstream="vault", phase="failing") == 1
    assert value(samples, "leasehold_issues_total", outcome="failed", **LOGIN) >= 1
    assert holds("LeaseholdLoginFailing", samples)
    assert not holds("LeaseholdIssuesFailing", *[samples] * 3)
    assert {line["role"] for line in agent.logged("issue-failed")} == {"session:vault"}

    way.token.rotate()

    agent.wait_ready()
    assert login(agent)["phase"] == "fresh"
    assert eventually(lambda: agent.health()["degraded"] is False)
    assert agent.stop() == 0


def test_a_sweep_where_only_vaults_are_is_no_failure(
    vault_scene: VaultScene, issuer: Issuer, started: list[Program], place: Path
) -> None:
    scene = vault_scene
    scene.leases(ttl=60, max_ttl=600)
    config = place / "agent.toml"
    config.write_text(toml(scene.document(jwt_way(scene, issuer))))

    swept = command(scene, started, "sweep", "-c", str(config))

    assert (swept.code, swept.stdout) == (0, "")
    assert "vault: has no journal: nothing is left to sweep" in swept.stderr
