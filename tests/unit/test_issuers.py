"""The stand-ins for a cluster: tokens that only their issuer knows, and the kubelet's way of changing a file."""

import os
from pathlib import Path

import pytest

from tests.issuers import Issuer, ProjectedToken


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_an_issuer_knows_its_own_tokens_until_they_end(algorithm: str):
    issuer, stranger = Issuer(algorithm), Issuer(algorithm)
    token = issuer.service_account_token(audience=["vault"])

    claims = issuer.claims(token)

    assert claims is not None
    assert (claims["sub"], claims["aud"]) == ("system:serviceaccount:default:app", ["vault"])
    assert stranger.claims(token) is None
    assert issuer.claims(issuer.service_account_token(ttl=-1)) is None
    assert issuer.claims(token[:-8] + "AAAAAAAA") is None
    assert issuer.claims("garbage") is None


def test_a_projected_token_changes_behind_links_that_stay(tmp_path: Path):
    tokens = iter(["first", "second"])
    projected = ProjectedToken(tmp_path / "volume", lambda: next(tokens))
    assert projected.read() == "first"
    links = (os.readlink(projected.path), os.readlink(projected.directory / "..data"))

    assert projected.rotate() == "second"

    assert projected.read() == "second"
    assert os.readlink(projected.path) == links[0] == "..data/token"
    assert os.readlink(projected.directory / "..data") != links[1]
    assert len(list(projected.directory.glob("..2*"))) == 1
