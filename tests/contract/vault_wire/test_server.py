"""The server as a whole: seals, health, and the engines whose answers carry no lease."""

from collections.abc import Iterator

import pytest

from tests.contract.vault_wire.questions import DENIED_POLICY, eventually, lets_in, users
from tests.fix_postgres import Database
from tests.fix_vault import StartPlace
from tests.issuers import Issuer
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup


def test_health_of_a_server_that_serves(vault_place: VaultPlace):
    reply = vault_place.ask("GET", "sys/health")
    head = vault_place.ask("HEAD", "sys/health")

    assert (reply.status, head.status) == (200, 200)
    assert reply.headers["content-type"] == "application/json"
    assert {"initialized", "sealed", "standby", "server_time_utc", "version"} <= set(reply.body)
    assert (reply.body["initialized"], reply.body["sealed"], reply.body["standby"]) == (True, False, False)
    assert isinstance(reply.body["server_time_utc"], int)


def test_a_sealed_server_says_so_to_everybody_and_forgets_nothing(
    own_vault_place: StartPlace, database: Database, issuer: Issuer, tmp_path_factory: pytest.TempPathFactory
):
    place = own_vault_place()
    setup = VaultSetup(place, tmp_path_factory.mktemp("pod"))
    made = setup.database(database)
    way = setup.jwt(issuer, setup.policy(made.creds()))
    token = setup.log_in(way).auth["client_token"]
    issued = place.ask("GET", made.creds(), token=token)
    lease = {"lease_id": issued.body["lease_id"]}

    place.seal()
    health = place.ask("GET", "sys/health")
    told = place.ask("GET", "sys/health?sealedcode=299")
    replies = [
        place.ask("GET", made.creds(), token=token),
        place.ask("POST", "sys/leases/renew", lease, token=token),
        place.ask("GET", "auth/token/lookup-self", token="s.nosuchtokenatall00000000"),
        setup.log_in(way),
    ]
    status = place.ask("GET", "sys/seal-status")
    place.unseal()

    assert (health.status, health.body["sealed"], told.status) == (503, True, 299)
    assert [(one.status, one.errors) for one in replies] == [(503, ["Vault is sealed"])] * 4
    assert (status.status, status.body["sealed"]) == (200, True)
    assert lets_in(database, issued.data)
    assert place.ask("POST", "sys/leases/renew", lease, token=token).status == 200
    place.admin("POST", "sys/leases/revoke", {**lease, "sync": True})
    assert users(database) == set()


def test_a_paused_server_answers_nothing_until_it_is_resumed(own_vault_place: StartPlace):
    place = own_vault_place()

    place.pause()
    with pytest.raises(TimeoutError):
        place.ask("GET", "sys/health", timeout=0.3)
    place.resume()

    assert eventually(lambda: place.health() == 200)


def test_a_killed_server_refuses_connections_and_comes_back_at_its_address(own_vault_place: StartPlace):
    place = own_vault_place()
    address = place.address

    place.kill()
    with pytest.raises(ConnectionRefusedError):
        place.ask("GET", "sys/health")
    place.start_again()

    assert place.address == address
    assert place.health() == 200
    assert place.admin("GET", "auth/token/lookup-self")["data"]["policies"] == ["root"]


def test_a_key_value_secret_of_the_first_version(vault_place: VaultPlace, vault_setup: VaultSetup):
    mount = vault_setup.kv(1)
    document = {"x": "1", "nested": {"list": [1, None, True]}}

    written = vault_place.ask("POST", f"{mount}/a/b", document, token=vault_place.root)
    read = vault_place.admin("GET", f"{mount}/a/b")
    vault_place.admin("DELETE", f"{mount}/a/b")
    gone = vault_place.ask("GET", f"{mount}/a/b", token=vault_place.root)

    assert (written.status, written.body) == (204, {})
    assert read["data"] == document
    assert (read["lease_id"], read["renewable"]) == ("", False)
    assert read["lease_duration"] == 2764800
    assert (gone.status, gone.errors) == (404, [])


def test_a_key_value_secret_of_the_second_version(vault_place: VaultPlace, vault_setup: VaultSetup):
    mount = vault_setup.kv(2)

    versions = [
        vault_place.admin("POST", f"{mount}/data/a", {"data": {"x": value}})["data"]["version"] for value in "12"
    ]
    read = vault_place.admin("GET", f"{mount}/data/a")["data"]
    first = vault_place.admin("GET", f"{mount}/data/a?version=1")["data"]
    missing = vault_place.ask("GET", f"{mount}/data/nosuch", token=vault_place.root)
    wrong = vault_place.ask("GET", f"{mount}/a", token=vault_place.root)
    deleted = vault_place.ask("DELETE", f"{mount}/data/a", token=vault_place.root)
    gone = vault_place.ask("GET", f"{mount}/data/a", token=vault_place.root)

    assert versions == [1, 2]
    assert read["data"] == {"x": "2"}
    assert set(read["metadata"]) == {"created_time", "custom_metadata", "deletion_time", "destroyed", "version"}
    assert read["metadata"]["version"] == 2
    assert first["data"] == {"x": "1"}
    assert (missing.status, missing.errors) == (404, [])
    assert (wrong.status, wrong.errors) == (404, [])
    assert deleted.status == 204
    assert (gone.status, gone.data["data"]) == (404, None)
    assert gone.data["metadata"]["deletion_time"]


@pytest.fixture
def pki(vault_place: VaultPlace, vault_setup: VaultSetup) -> str:
    """The path that issues certificates of an hour."""
    mount = vault_setup.mount("pki")
    vault_place.admin("POST", f"{mount}/root/generate/internal", {"common_name": "tests' root", "ttl": "12h"})
    role = {
        "allow_any_name": True,
        "enforce_hostnames": False,
        "max_ttl": "2h",
        "ttl": "1h",
        "key_type": "ec",
        "key_bits": 256,
    }
    vault_place.admin("POST", f"{mount}/roles/app", role)
    return f"{mount}/issue/app"


def test_a_certificate_has_an_end_and_no_lease(vault_place: VaultPlace, vault_setup: VaultSetup, pki: str):
    token = vault_setup.token(vault_setup.policy(more={pki: ("update",)}))

    reply = vault_place.ask("POST", pki, {"common_name": "app.test", "ttl": "30m"}, token=token)

    assert reply.status == 200
    assert (reply.body["lease_id"], reply.body["lease_duration"], reply.body["renewable"]) == ("", 0, False)
    names = {"certificate", "issuing_ca", "ca_chain", "private_key", "private_key_type", "serial_number", "expiration"}
    assert names <= set(reply.data)
    assert isinstance(reply.data["ca_chain"], list)
    now = vault_place.ask("GET", "sys/health").body["server_time_utc"]
    assert 1770 <= reply.data["expiration"] - now <= 1810


def test_a_certificate_of_an_unknown_role_is_refused(vault_place: VaultPlace, pki: str):
    reply = vault_place.ask("POST", pki.replace("/app", "/nosuch"), {"common_name": "x"}, token=vault_place.root)

    assert (reply.status, reply.errors) == (400, ["unknown role: nosuch"])


def test_reading_what_must_be_written_is_refused(vault_place: VaultPlace, pki: str):
    assert vault_place.ask("GET", pki, token=vault_place.root).status == 405


@pytest.fixture
def namespace(vault_place: VaultPlace, vault_setup: VaultSetup) -> Iterator[str]:
    """A namespace of this test."""
    name = f"ns-{vault_setup.mark}"
    vault_place.admin("POST", f"sys/namespaces/{name}", {})
    yield name
    vault_place.admin("DELETE", f"sys/namespaces/{name}")


def test_a_namespace_is_a_tree_of_its_own(vault_place: VaultPlace, vault_setup: VaultSetup, namespace: str):
    vault_place.admin("POST", "sys/mounts/kv", {"type": "kv"}, namespace=namespace)
    vault_place.admin("POST", "kv/a", {"x": "1"}, namespace=namespace)
    text = 'path "kv/*" { capabilities = ["read"] }'
    vault_place.admin("POST", "sys/policies/acl/inside", {"policy": text}, namespace=namespace)
    body = {"policies": ["inside"], "ttl": "1h"}
    inside = vault_place.admin("POST", "auth/token/create", body, namespace=namespace)["auth"]["client_token"]
    outside = vault_setup.token(vault_setup.policy(more={"kv/*": ("read",)}))

    by_header = vault_place.ask("GET", "kv/a", token=inside, headers={"X-Vault-Namespace": namespace})
    by_path = vault_place.ask("GET", f"{namespace}/kv/a", token=inside)
    stranger = vault_place.ask("GET", "kv/a", token=outside, headers={"X-Vault-Namespace": namespace})

    assert by_header.data == by_path.data == {"x": "1"}
    assert (stranger.status, stranger.errors) == (403, DENIED_POLICY)
