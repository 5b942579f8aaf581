"""The main job over Vault: log in with a projected token, lease a user of a real database, hand it out, end it."""

from typing import Any

import pytest

from tests.acceptance.harness import from_file, log_in
from tests.acceptance.scenes import ROLE, place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, vault_scene
from tests.issuers import Issuer, TokenReviewer

__all__ = ["vault_scene"]


@pytest.mark.parametrize("method", ["jwt", "kubernetes"])
def test_a_projected_token_becomes_a_working_credential(
    vault_scene: VaultScene, issuer: Issuer, token_reviewer: TokenReviewer, method: str
) -> None:
    scene = vault_scene
    scene.leases(ttl=60, max_ttl=600)
    keys: dict[str, Any] = {"token_ttl": "120s", "token_max_ttl": "600s"}
    way = (
        jwt_way(scene, issuer, **keys)
        if method == "jwt"
        else scene.setup.kubernetes(token_reviewer, scene.policy, **keys)
    )
    agent = scene.agent(scene.document(way)).wait_ready()

    held = agent.read(ROLE)

    assert from_file(agent.file).username == held.username
    with log_in(place_of(scene.database), held) as app:
        assert app.execute("SELECT 1").fetchone() == (1,)
    assert scene.users() == {held.username}
    assert 55 <= held.lease_duration <= 60

    assert agent.stop() == 0
    assert scene.users() == set()
    assert not agent.file.exists()
    assert scene.proxy.count("auth/token/revoke-self") == 1, "our own login ends too"
