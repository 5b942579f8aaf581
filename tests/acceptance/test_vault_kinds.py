"""Every kind of secret through the whole agent, several servers at once, and the login in a file."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_ssh_public_identity

from agent.atomicfile import on_memory
from tests.acceptance.harness import Agent, eventually
from tests.acceptance.living import logins, mode_of, reading, revoke_token, tokens, works
from tests.acceptance.scenes import ROLE, file_of, place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.fix_vault import StartPlace
from tests.issuers import Issuer
from tests.vault_agent import agent_document, vault_of
from tests.vault_setup import VaultSetup

__all__ = ["vault_scene"]

PLAIN, VERSIONED, FIXED, CERTIFICATE, LEASED, SIGNED = "plain", "versioned", "fixed", "certificate", "leased", "signed"


def data_of(agent: Agent, role: str) -> dict[str, Any]:
    """What the socket serves of it."""
    answer = agent.ask(f"/v1/{role}")
    assert answer.status == 200, answer.text
    found: dict[str, Any] = answer.body["data"]
    return found


def in_json(place: Path, role: str) -> dict[str, Any]:
    """[[template]]: all that a role gives, in a file."""
    return {**file_of(place, f"{role}.json", role), "format": "json"}


def only_url(place: Path, role: str) -> dict[str, Any]:
    """[[template]]: one field; how long it lives does not stand in the file."""
    file = file_of(place, role, role)
    del file["format"]
    return {**file, "contents": f'{{{{ secret("{role}").data.url }}}}'}


def certificates(scene: VaultScene) -> str:
    """A CA at the server, with a role whose certificates are not leased and one whose are; the mount."""
    mount, admin = scene.setup.mount("pki"), scene.setup.place.admin
    admin("POST", f"{mount}/root/generate/internal", {"common_name": "ca", "ttl": "1h"})
    for name, leased in (("web", False), ("leased", True)):
        written = {"allowed_domains": "example.com", "allow_subdomains": True, "max_ttl": "30m", "key_type": "ec"}
        admin("POST", f"{mount}/roles/{name}", {**written, "key_bits": 256, "generate_lease": leased})
    return mount


def signing(scene: VaultScene) -> tuple[str, str]:
    """An SSH CA at the server, and a key to be signed: the mount, and the public key's text."""
    mount, admin = scene.setup.mount("ssh"), scene.setup.place.admin
    admin("POST", f"{mount}/config/ca", {"generate_signing_key": True})
    role = {"key_type": "ca", "allow_user_certificates": True, "allowed_users": "*", "default_user": "deploy"}
    admin("POST", f"{mount}/roles/deploy", {**role, "ttl": "10m", "max_ttl": "30m", "algorithm_signer": "default"})
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    public = key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return mount, public.decode()


def every_kind(scene: VaultScene, issuer: Issuer) -> tuple[dict[str, Any], dict[str, str]]:
    """A configuration with a role of every kind, and the server's path of each role."""
    made = scene.leases(ttl=3600, max_ttl=14400)
    setup = scene.setup
    pki, (ssh, public) = certificates(scene), signing(scene)
    paths = {
        PLAIN: f"{setup.kv(1)}/app",
        VERSIONED: f"{setup.kv(2)}/data/app",
        FIXED: setup.static_role(made, period=5.0),
        CERTIFICATE: f"{pki}/issue/web",
        LEASED: f"{pki}/issue/leased",
        SIGNED: f"{ssh}/sign/deploy",
    }
    setup.place.admin("POST", paths[PLAIN], {"url": "one"})
    setup.place.admin("POST", paths[VERSIONED], {"data": {"url": "one"}})
    setup.write_policy(
        scene.policy,
        {
            **dict.fromkeys(paths.values(), ("read", "update")),
            "auth/token/*": ("read", "update"),
            "sys/leases/*": ("update",),
        },
    )
    asked = {"common_name": "web.example.com", "ttl": "10m"}
    roles: dict[str, dict[str, Any]] = {
        PLAIN: {"kind": "kv", "poll": "1s"},
        VERSIONED: {"kind": "kv", "poll": "1s"},
        FIXED: {"kind": "static", "poll": "60s", "connection": place_of(scene.database)},
        CERTIFICATE: {"kind": "write", "parameters": asked, "multiline": True},
        LEASED: {"kind": "write", "parameters": asked, "multiline": True},
        SIGNED: {
            "kind": "write",
            "parameters": {"public_key": public, "valid_principals": "deploy", "ttl": "10m"},
            "multiline": True,
        },
    }
    way = jwt_way(scene, issuer, token_ttl="600s", token_max_ttl="3600s")
    server = vault_of(setup.place, scene.proxy.address)
    named = {name: {**keys, "path": paths[name]} for name, keys in roles.items()}
    files = [in_json(scene.place, name) for name in (CERTIFICATE, SIGNED)]
    files += [only_url(scene.place, name) for name in (PLAIN, VERSIONED)]
    return agent_document(scene.place, server, way, named, templates=files), paths


@pytest.mark.timeout(120)
def test_one_agent_hands_out_every_kind(vault_scene: VaultScene, issuer: Issuer) -> None:
    """Whatever stands or is leased at a Vault is handed out by one agent."""
    scene = vault_scene
    document, paths = every_kind(scene, issuer)
    admin = scene.setup.place.admin
    agent = scene.agent(document).wait_ready()
    files = {role: Path(file["destination"]) for file in document["template"] for role in file["roles"]}

    # Certificates: whole, with their keys, for as long as they say.
    made = data_of(agent, CERTIFICATE)
    read = json.loads(files[CERTIFICATE].read_text())["data"]
    certificate = x509.load_pem_x509_certificate(made["certificate"].encode())
    key = serialization.load_pem_private_key(made["private_key"].encode(), None)
    assert certificate.public_key() == key.public_key()
    assert (read["certificate"], read["private_key"]) == (made["certificate"], made["private_key"])
    told = agent.ask(f"/v1/{CERTIFICATE}").body
    ends = certificate.not_valid_after_utc.timestamp()
    assert ends - 15 <= time.time() + told["lease_duration"] <= ends
    assert told["renewable"] is False
    signed = load_ssh_public_identity(data_of(agent, SIGNED)["signed_key"].encode())
    assert signed.valid_principals == [b"deploy"]  # type: ignore[union-attr]
    assert data_of(agent, LEASED)["private_key"] != made["private_key"]

    # What somebody else changes: a new version is published and written, the same again is not.
    before = {role: (files[role].stat().st_ino, agent.role(role)["generation"]) for role in (PLAIN, VERSIONED)}
    admin("POST", paths[PLAIN], {"url": "one"})
    admin("POST", paths[VERSIONED], {"data": {"url": "one"}})
    looked = {role: scene.proxy.count(paths[role]) for role in before}
    assert eventually(lambda: all(scene.proxy.count(paths[role]) >= looked[role] + 2 for role in looked))
    assert before == {role: (files[role].stat().st_ino, agent.role(role)["generation"]) for role in before}
    admin("POST", paths[PLAIN], {"url": "two"})
    admin("POST", paths[VERSIONED], {"data": {"url": "two"}})
    assert eventually(lambda: [data_of(agent, role)["url"] for role in before] == ["two", "two"])
    assert eventually(lambda: [files[role].read_text() for role in before] == ["two", "two"])
    admin("DELETE", paths[VERSIONED])
    assert eventually(lambda: agent.ask(f"/v1/{VERSIONED}").status == 503)
    assert "deleted" in agent.role(VERSIONED)["error"] or "no such secret" in agent.role(VERSIONED)["error"]
    assert agent.ask(f"/v1/{PLAIN}").status == 200

    # A static role: the user stays, and readers have the new password as soon as the server has it.
    with reading(lambda: agent, scene.database, FIXED, every=0.05) as reads:
        first = data_of(agent, FIXED)
        assert eventually(lambda: data_of(agent, FIXED)["password"] != first["password"])
        assert eventually(lambda: works(agent, scene.database, FIXED))
        after = time.monotonic()
        assert eventually(lambda: bool(reads.found) and reads.found[-1][0] > after)
    assert {held.username for _, held, _ in reads.found} == {first["username"]}
    assert max(dead_for(reads.found), default=0.0) < 4.0

    assert agent.stop() == 0
    assert not any(file.exists() for file in files.values())


def dead_for(found: list[Any]) -> list[float]:
    """How long (seconds) each time something was served that did not log in."""
    spans: list[float] = []
    since: float | None = None
    for at, _, good in found:
        if not good and since is None:
            since = at
        if good and since is not None:
            spans.append(at - since)
            since = None
    return spans


@pytest.mark.timeout(120)
def test_two_servers_and_a_namespace_have_a_login_each(
    vault_scene: VaultScene, own_vault_place: StartPlace, issuer: Issuer, tmp_path: Path
) -> None:
    """What ends at one of them is nothing to the others."""
    scene = vault_scene
    made = scene.leases(ttl=3600, max_ttl=14400)
    main = jwt_way(scene, issuer, token_ttl="600s")
    there = VaultSetup(own_vault_place(), tmp_path / "there")
    (tmp_path / "there").mkdir()
    kv = there.kv(1)
    there.place.admin("POST", f"{kv}/app", {"who": "there"})
    other = there.approle(there.policy(f"{kv}/app"), token_ttl="600s")
    team = f"team-{scene.setup.mark}"
    admin = scene.setup.place.admin
    admin("POST", f"sys/namespaces/{team}", {})
    try:
        admin("POST", "sys/mounts/kv", {"type": "kv"}, namespace=team)
        admin("POST", "kv/app", {"who": "team"}, namespace=team)
        may = {"kv/app": "read", "auth/token/lookup-self": "read", "auth/token/renew-self": "update"}
        policy = "".join(f'path "{path}" {{ capabilities = ["{right}"] }}\n' for path, right in may.items())
        admin("POST", "sys/policies/acl/pod", {"policy": policy}, namespace=team)
        body = {"policies": ["pod"], "no_default_policy": True, "ttl": "600s"}
        inside = admin("POST", "auth/token/create", body, namespace=team)["auth"]["client_token"]
        token = tmp_path / "team-token"
        token.touch(0o600)
        token.write_text(inside)
        by_file = {"type": "token_file", "config": {"token_file_path": str(token)}}
        document = scene.document(main)
        document["vault"] = {
            "main": {**document["vault"], "method": main.method},
            "there": vault_of(there.place, method=other.method),
            "team": {**document["vault"], "namespace": team, "method": by_file},
        }
        del document["auto_auth"]
        document["role"][ROLE]["upstream"] = "vault.main"
        for name, path in (("there", f"{kv}/app"), ("team", "kv/app")):
            document["role"][name] = {"upstream": f"vault.{name}", "kind": "kv", "path": path, "poll": "1s"}

        agent = scene.agent(document).wait_ready()

        assert works(agent, scene.database, ROLE)
        assert data_of(agent, "there") == {"who": "there"}
        assert data_of(agent, "team") == {"who": "team"}
        there.place.kill()
        assert eventually(lambda: agent.role("there")["error"] is not None)
        assert data_of(agent, "there") == {"who": "there"}, "it still stands"
        assert (agent.role(ROLE)["error"], agent.role("team")["error"]) == (None, None)
        assert logins(scene, main) == 1
        asked = scene.proxy.seen("kv/app")
        assert {(seen.headers["x-vault-namespace"], seen.headers["x-vault-token"]) for seen in asked} == {
            (team, inside)
        }
        plain = [seen.headers.get("x-vault-namespace") for seen in scene.proxy.seen(made.creds())]
        assert plain == [None]
        agent.stop()
        assert scene.users() == set()
    finally:
        admin("DELETE", f"sys/namespaces/{team}")


@pytest.mark.long
@pytest.mark.timeout(120)
def test_the_login_in_a_file_is_the_present_one_and_goes_at_the_stop(vault_scene: VaultScene, issuer: Issuer) -> None:
    """R004-055: plain and wrapped; mode 0400; a wrapped one opens once."""
    scene = vault_scene
    made = scene.leases(ttl=60, max_ttl=600)
    scene.policy = scene.setup.policy(made.creds(), more={"sys/wrapping/wrap": ("update",)})
    way = jwt_way(scene, issuer, token_ttl="60s", token_max_ttl="600s")
    document = scene.document(way)
    plain, wrapped = scene.place / "tokens" / "plain", scene.place / "tokens" / "wrapped"
    disk = not on_memory(scene.place)
    document["auto_auth"]["sink"] = [
        {"config": {"path": str(plain), "allow_disk": disk}},
        {"wrap_ttl": "60s", "config": {"path": str(wrapped), "allow_disk": disk}},
    ]
    ask = scene.setup.place.ask

    agent = scene.agent(document).wait_ready()

    token, envelope = plain.read_text(), wrapped.read_text()
    assert (mode_of(plain), mode_of(wrapped)) == (0o400, 0o400)
    assert ask("GET", "auth/token/lookup-self", token=token).status == 200
    assert token not in envelope
    opened = ask("POST", "sys/wrapping/unwrap", {}, token=envelope)
    assert opened.status == 200
    assert token in json.dumps(opened.body)
    assert ask("POST", "sys/wrapping/unwrap", {}, token=envelope).status in (400, 403), "it opens once"
    time.sleep(5.2)  # a login must be older before a refusal means that it has ended
    revoke_token(scene, token)
    agent.ask(f"/v1/{ROLE}/rotate", method="POST")
    assert eventually(lambda: plain.exists() and plain.read_text() not in ("", token))
    fresh = plain.read_text()
    assert fresh == tokens(scene)[-1] or fresh in tokens(scene)
    assert ask("GET", "auth/token/lookup-self", token=fresh).status == 200
    assert eventually(lambda: wrapped.read_text() != envelope)
    assert eventually(lambda: works(agent, scene.database, ROLE))
    assert logins(scene, way) == 2

    assert agent.stop() == 0
    assert not plain.exists()
    assert not wrapped.exists()
    assert ask("GET", "auth/token/lookup-self", token=fresh).status == 403
