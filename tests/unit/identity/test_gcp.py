"""Google: an identity token from the metadata server, made for the login's role."""

from typing import Any

import pytest

from agent.errors import BadResponse, NoIdentity
from tests.fakes import FakeClock
from tests.unit.identity.builders import WALL, identity, jwt, revealed
from tests.unit.identity.standin import StandIn, answer

FLAVOR = {"Metadata-Flavor": "Google"}


@pytest.mark.parametrize(
    ("config", "account", "audience"),
    [
        ({}, "default", "vault/app"),
        (
            {"service_account": "a@p.iam.gserviceaccount.com", "resource": "https://vault/app"},
            "a@p.iam.gserviceaccount.com",
            "https://vault/app",
        ),
    ],
)
async def test_the_metadata_server_signs_a_token_for_the_role(
    clock: FakeClock, config: dict[str, Any], account: str, audience: str
) -> None:
    token = jwt(aud=audience, exp=WALL + 3600)
    with StandIn(lambda asked: answer(f"{token}\n", headers=FLAVOR)) as metadata:
        subject = identity("gcp", clock, metadata_endpoint=metadata.url, role="app", **config)
        proof = await subject.prove()

    (asked,) = metadata.asked
    assert asked.path == f"/computeMetadata/v1/instance/service-accounts/{account}/identity"
    assert asked.query == {"audience": audience, "format": "full"}
    assert asked.headers["metadata-flavor"] == "Google"
    assert (proof.path, revealed(proof.body)) == ("auth/gcp/login", {"role": "app", "jwt": token})
    assert token not in repr(proof)


async def test_an_unknown_service_account_is_named(clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(status=404)) as metadata, pytest.raises(NoIdentity) as caught:
        await identity("gcp", clock, metadata_endpoint=metadata.url, role="app", service_account="x").prove()

    assert str(caught.value).startswith("the metadata server answered 404 for service account x; look at service_accou")


@pytest.mark.parametrize(
    "said",
    [
        answer(jwt(aud="vault/app")),
        answer("<html>", headers=FLAVOR),
        answer(jwt(exp=WALL - 300), headers=FLAVOR),
    ],
    ids=["not Google's", "no token", "ended"],
)
async def test_what_is_no_token_of_googles_is_of_no_use(clock: FakeClock, said: bytes) -> None:
    with StandIn(lambda asked: said) as metadata, pytest.raises(BadResponse, match="answered no identity token"):
        await identity("gcp", clock, metadata_endpoint=metadata.url, role="app").prove()
