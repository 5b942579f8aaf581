"""Azure: the pod's federated token, or the machine's identity, for a token of Entra ID."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BadResponse, NoIdentity, Unavailable
from tests.fakes import FakeClock
from tests.unit.identity.builders import WALL, identity, jwt, revealed
from tests.unit.identity.standin import Asked, StandIn, answer

ACCESS = jwt(aud="https://management.azure.com/")
COMPUTE = {"subscriptionId": "sub-1", "resourceGroupName": "group", "name": "vm-1", "vmScaleSetName": "", "osType": "x"}


def _federated(tmp_path: Path, **claims: object) -> dict[str, Any]:
    (tmp_path / "token").write_text(jwt(sub="pod", **claims))
    return {
        "federated_token_file": str(tmp_path / "token"),
        "client_id": "client-1",
        "tenant_id": "tenant-1",
        "role": "app",
    }


async def test_a_federated_token_is_exchanged_as_the_clients_assertion(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer({"token_type": "Bearer", "access_token": ACCESS})) as entra:
        subject = identity("azure", clock, authority_host=f"{entra.url}/", **_federated(tmp_path))
        proof = await subject.prove()

    (asked,) = entra.asked
    assert (asked.method, asked.target) == ("POST", "/tenant-1/oauth2/v2.0/token")
    assert asked.form == {
        "grant_type": "client_credentials",
        "client_id": "client-1",
        "scope": "https://management.azure.com//.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt(sub="pod"),
    }
    assert (proof.path, revealed(proof.body)) == ("auth/azure/login", {"role": "app", "jwt": ACCESS})
    assert ACCESS not in repr(proof)


async def test_a_resource_that_is_set_becomes_the_scope(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer({"access_token": ACCESS})) as entra:
        config = {**_federated(tmp_path), "resource": "api://vault"}
        await identity("azure", clock, authority_host=entra.url, **config).prove()

    assert entra.asked[0].form["scope"] == "api://vault/.default"


async def test_a_federated_token_that_is_refused_is_named_without_entras_text(tmp_path: Path, clock: FakeClock) -> None:
    with (
        StandIn(lambda asked: answer({"error_description": "hunter2"}, status=401)) as entra,
        pytest.raises(NoIdentity) as caught,
    ):
        await identity("azure", clock, authority_host=entra.url, **_federated(tmp_path)).prove()

    assert str(caught.value).startswith("Entra ID refuses the federated token (401); look at client_id, tenant_id")
    assert "hunter2" not in str(caught.value)


async def test_a_federated_token_that_has_ended_is_not_sent(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer()) as entra, pytest.raises(NoIdentity, match=r"the federated token .* ended"):
        await identity("azure", clock, authority_host=entra.url, **_federated(tmp_path, exp=WALL - 300)).prove()

    assert entra.asked == []


def _machine(compute: dict[str, str], status: int = 200) -> Callable[[Asked], bytes]:
    def respond(asked: Asked) -> bytes:
        if asked.headers.get("metadata") != "true":
            return answer(status=400)
        if asked.path == "/metadata/identity/oauth2/token":
            return answer({"access_token": ACCESS})
        return answer(compute, status=status)

    return respond


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        (COMPUTE, {"subscription_id": "sub-1", "resource_group_name": "group", "vm_name": "vm-1"}),
        (
            {**COMPUTE, "vmScaleSetName": "set-1"},
            {"subscription_id": "sub-1", "resource_group_name": "group", "vmss_name": "set-1"},
        ),
        ({}, {}),
    ],
)
async def test_the_machines_identity_comes_with_what_the_server_may_ask_of_it(
    clock: FakeClock, compute: dict[str, str], told: dict[str, str]
) -> None:
    with StandIn(_machine(compute)) as metadata:
        proof = await identity("azure", clock, metadata_endpoint=metadata.url, role="app", client_id="mi-1").prove()

    token, machine = metadata.asked
    resource = "https://management.azure.com/"
    assert token.query == {"api-version": "2018-02-01", "resource": resource, "client_id": "mi-1"}
    assert machine.query == {"api-version": "2021-02-01", "format": "json"}
    assert revealed(proof.body) == {"role": "app", "jwt": ACCESS, **told}


async def test_a_machine_that_tells_nothing_of_itself_logs_in_without(clock: FakeClock) -> None:
    with StandIn(_machine({}, status=404)) as metadata:
        proof = await identity("azure", clock, metadata_endpoint=metadata.url, role="app").prove()

    assert revealed(proof.body) == {"role": "app", "jwt": ACCESS}


async def test_a_machine_without_an_identity_is_named(clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(status=400)) as metadata, pytest.raises(NoIdentity, match="a managed identity"):
        await identity("azure", clock, metadata_endpoint=metadata.url, role="app").prove()


@pytest.mark.parametrize("said", [{}, {"access_token": 1}, {"access_token": "a\nb"}])
async def test_an_answer_without_a_token_is_of_no_use(clock: FakeClock, said: dict[str, object]) -> None:
    with StandIn(lambda asked: answer(said)) as metadata, pytest.raises(BadResponse, match="without access_token"):
        await identity("azure", clock, metadata_endpoint=metadata.url, role="app").prove()


async def test_a_metadata_service_in_trouble_is_unavailable(clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(status=500)) as metadata, pytest.raises(Unavailable):
        await identity("azure", clock, metadata_endpoint=metadata.url, role="app").prove()
