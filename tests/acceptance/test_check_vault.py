"""`leasehold check --engine`, `--live` and `--users` where credentials come from a Vault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Program, toml
from tests.acceptance.scenes import ROLE, place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer
from tests.vault_setup import LEASE_PATHS, TOKEN_PATHS

__all__ = ["vault_scene"]

Check = Callable[..., Program]
CAPABILITIES = {"sys/capabilities-self": ("update",)}


@pytest.fixture
def check(place: Path, started: list[Program]) -> Check:
    """`check(document, *options)` writes the file and runs the command to its end."""

    def run(document: Any, *options: str) -> Program:
        config = place / "agent.toml"
        config.write_text(toml(document))
        program = Program(["check", "-c", str(config), *options], place)
        started.append(program)
        program.wait()
        return program

    return run


@pytest.fixture
def scene(vault_scene: VaultScene) -> VaultScene:
    """Leases of an hour, and the least policy that can tell what it allows."""
    made = vault_scene.leases(ttl=3600, max_ttl=14400)
    vault_scene.policy = vault_scene.setup.policy(made.creds(), more=CAPABILITIES)
    return vault_scene


def tokens(scene: VaultScene) -> int:
    """How many the server keeps account of."""
    keys: list[str] = scene.setup.place.admin("LIST", "auth/token/accessors")["data"]["keys"]
    return len(keys)


LONG = {"token_ttl": "2h", "token_max_ttl": "48h"}


def test_a_sound_server_passes_each_role_lives_once_and_nothing_is_left(
    check: Check, scene: VaultScene, issuer: Issuer
) -> None:
    document = scene.document(jwt_way(scene, issuer, **LONG))
    before = tokens(scene)

    ended = check(document, "--engine")

    assert ended.code == 0, ended.stdout
    told = ended.stdout
    assert "  ok        policy: allows all 6 things that the agent does" in told
    assert ": works: a token for 7200 s, with renewals for 172800 s at most" in told
    assert "unsealed" in told
    assert not any(line.startswith(("  missing", "  too-much", "  warning")) for line in told.splitlines())
    last = told.splitlines()[-1]
    assert last.startswith(f"{ROLE}: had it issued for 3600 s, logged in with it, renewed it, revoked it, in ")
    assert ended.stderr == ""
    assert scene.users() == set()
    assert tokens(scene) == before, "its own login has ended"


def test_a_missing_right_fails_with_the_line_that_gives_it(check: Check, scene: VaultScene, issuer: Issuer) -> None:
    """R004-042; as one document for scripts, in which there is no token."""
    assert scene.made is not None
    path = scene.made.creds()
    scene.setup.write_policy(scene.policy, {**TOKEN_PATHS, **LEASE_PATHS, **CAPABILITIES, "secret/*": ("read",)})
    way = jwt_way(scene, issuer, **LONG)

    ended = check(scene.document(way), "--engine", "--json")

    found = json.loads(ended.stdout)
    assert ended.code == 1
    assert found["ok"] is False
    (server,) = found["servers"]
    assert (server["upstream"], server["place"], server["reached"]) == ("vault", scene.proxy.address, True)
    assert server["user"] == f"jwt at auth/{way.mount} as app"
    assert server["findings"][0] == {
        "level": "missing",
        "subject": f"path {path}",
        "text": f"the login may not read it: {ROLE} can never be had",
        "remedy": [f'path "{path}" {{ capabilities = ["read"] }}'],
    }
    (role,) = found["roles"]
    assert (role["role"], role["failed"]) == (ROLE, "have it issued")
    assert path in role["error"]
    assert way.body()["jwt"] not in ended.stdout
    assert "hvs." not in ended.stdout


def test_every_kind_of_role_is_tried_and_a_short_login_is_worth_a_word(
    check: Check, scene: VaultScene, issuer: Issuer
) -> None:
    setup, made = scene.setup, scene.made
    assert made is not None
    kv, pki, fixed = setup.kv(2), setup.mount("pki"), setup.static_role(made, period=3600)
    setup.place.admin("POST", f"{kv}/data/app", {"data": {"key": "value-canary"}})
    setup.place.admin("POST", f"{pki}/root/generate/internal", {"common_name": "test", "ttl": "24h"})
    setup.place.admin("POST", f"{pki}/roles/app", {"allow_any_name": True, "max_ttl": "1h"})
    paths = {made.creds(): ("read",), fixed: ("read",), f"{kv}/data/app": ("read",), f"{pki}/issue/app": ("update",)}
    setup.write_policy(scene.policy, {**paths, **TOKEN_PATHS, **LEASE_PATHS})
    document = scene.document(jwt_way(scene, issuer, token_ttl="60s", token_max_ttl="5m"))
    asked = {"common_name": "app.example", "ttl": "10m"}
    document["role"] |= {
        "database/creds/fixed": {"path": fixed, "kind": "static", "connection": place_of(scene.database)},
        "secret/app": {"path": f"{kv}/data/app", "kind": "kv"},
        "pki/app": {"path": f"{pki}/issue/app", "kind": "write", "parameters": asked, "multiline": True},
    }
    for role in document["role"].values():
        role["upstream"] = "vault"

    ended = check(document, "--live")

    assert ended.code == 0, ended.stdout + ended.stderr
    told = {line.split(": ")[0]: line for line in ended.stdout.splitlines() if " ms" in line}
    assert ": had it issued for 3600 s, logged in with it, renewed it, revoked it, in " in told[ROLE]
    assert ": read it, logged in with it, in " in told["database/creds/fixed"]
    assert ": read it, did not log in with it (no verify target), in " in told["secret/app"]
    assert "which ends by itself, in " in told["pki/app"]
    notes = [line.split(None, 1)[1] for line in ended.stdout.splitlines() if line.startswith("  warning")]
    assert notes == [
        "its lease of 3600 s hangs on a login of 60 s, and readers are told the shorter: set token_ttl of the login's "
        "role to 3600 s or more",
        "its lease of 3600 s is replaced with every new login, each 300 s at the latest: set token_max_ttl of the "
        "login's role to many times 3600 s, or a token_period",
    ]
    assert "value-canary" not in ended.stdout
    assert scene.users() == set()


def test_users_of_a_vault_are_not_listed_and_that_is_said(check: Check, scene: VaultScene, issuer: Issuer) -> None:
    before = tokens(scene)

    ended = check(scene.document(jwt_way(scene, issuer)), "--users")

    assert ended.code == 0
    assert ended.stdout.startswith("vault: the users there cannot be listed with the agent's login: ")
    assert tokens(scene) == before
    assert scene.proxy.count("sys/health") == 0, "nobody is asked for it"
