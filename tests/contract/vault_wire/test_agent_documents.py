"""The configurations that tests give to an agent are such as it accepts, whatever the way to log in."""

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.load import load
from agent.config.model import method_of
from tests.acceptance.harness import toml
from tests.issuers import Authority, Issuer, TokenReviewer
from tests.vault_agent import agent_document, vault_of
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup, Way


@pytest.mark.parametrize("kind", ["kubernetes", "jwt", "approle", "cert", "token_file"])
def test_a_document_loads_and_says_how_to_log_in(
    kind: str,
    vault_place: VaultPlace,
    vault_setup: VaultSetup,
    issuer: Issuer,
    token_reviewer: TokenReviewer,
    authority: Authority,
    tmp_path: Path,
):
    policy = vault_setup.policy("database/creds/app")
    makers: dict[str, Callable[[], Way]] = {
        "kubernetes": lambda: vault_setup.kubernetes(token_reviewer, policy),
        "jwt": lambda: vault_setup.jwt(issuer, policy),
        "approle": lambda: vault_setup.approle(policy, wrapped="60s"),
        "cert": lambda: vault_setup.cert(authority, policy),
        "token_file": lambda: vault_setup.token_file(policy, ttl="1h"),
    }
    way = makers[kind]()
    # A client certificate is shown to none but a TLS server.
    address = "https://127.0.0.1:8200" if kind == "cert" else None
    vault = vault_of(vault_place, address, namespace="team")
    document = agent_document(tmp_path, vault, way, {"database/creds/app": {"default_ttl": "1h"}})

    config = load(toml(document), environ={})

    assert config.vault["vault"].address == (address or vault_place.address)
    assert config.role["database/creds/app"].at_vault
    method = method_of(config, "vault")
    assert method.type == kind
    assert method.mount_path == (f"auth/{way.mount}" if way.mount else None)
    for key, value in way.config.items():
        assert getattr(method.config, key) == value
