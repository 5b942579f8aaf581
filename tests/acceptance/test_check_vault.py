"""`leasehold check --engine`, `--live` and `--users` where credentials come from a Vault."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Program, toml
from tests.acceptance.scenes import ROLE
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.fix_vault import StartPlace
from tests.issuers import Issuer

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


def rewritten(scene: VaultScene, *, without: str = "", more: dict[str, tuple[str, ...]] | None = None) -> None:
    """The policy with a path less, or with more."""
    from tests.vault_setup import LEASE_PATHS, TOKEN_PATHS

    assert scene.made is not None
    paths = {scene.made.creds(): ("read",), **TOKEN_PATHS, **LEASE_PATHS, **CAPABILITIES, **(more or {})}
    paths.pop(without, None)
    scene.setup.write_policy(scene.policy, paths)


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

    print(ended.stdout, ended.stderr)
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
