"""Logins: what each method gives and refuses."""

import ssl
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509

from tests.contract.vault_wire.questions import DENIED_TOKEN, ENVELOPE, eventually, lets_in, users
from tests.contract.vault_wire.test_tokens import AUTH, alive
from tests.fix_postgres import Database
from tests.fix_vault import StartPlace, tls_of
from tests.issuers import Authority, Issuer, TokenReviewer
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup, Way


@pytest.fixture
def policy(vault_setup: VaultSetup) -> str:
    """For a token that may look after itself."""
    return vault_setup.policy()


@pytest.fixture(params=["kubernetes", "jwt", "jwt-es256", "approle"])
def way(
    request: pytest.FixtureRequest, vault_setup: VaultSetup, policy: str, issuer: Issuer, token_reviewer: TokenReviewer
) -> Way:
    """Each method that works over plain HTTP, with a role of 60 s that may become 300 s old."""
    keys = {"token_ttl": "60s", "token_max_ttl": "300s"}
    makers: dict[str, Callable[[], Way]] = {
        "kubernetes": lambda: vault_setup.kubernetes(token_reviewer, policy, **keys),
        "jwt": lambda: vault_setup.jwt(issuer, policy, **keys),
        "jwt-es256": lambda: vault_setup.jwt(Issuer("ES256"), policy, **keys),
        "approle": lambda: vault_setup.approle(policy, **keys),
    }
    return makers[request.param]()


def test_a_login_gives_a_token_of_the_roles_length(
    vault_place: VaultPlace, vault_setup: VaultSetup, way: Way, policy: str
):
    reply = vault_setup.log_in(way)

    assert reply.status == 200
    assert set(reply.body) == ENVELOPE
    assert reply.body["data"] is None
    assert set(reply.auth) == AUTH
    assert (reply.auth["lease_duration"], reply.auth["renewable"]) == (60, True)
    assert reply.auth["policies"] == reply.auth["token_policies"] == [policy]
    assert (reply.auth["orphan"], reply.auth["token_type"], reply.auth["num_uses"]) == (True, "service", 0)
    assert reply.auth["entity_id"]
    assert alive(vault_place, reply.auth["client_token"])
    longer = vault_place.ask("POST", "auth/token/renew-self", {"increment": "600s"}, token=reply.auth["client_token"])
    assert 270 <= longer.auth["lease_duration"] <= 300


def test_each_login_is_a_token_of_its_own(vault_setup: VaultSetup, way: Way):
    assert len({vault_setup.log_in(way).auth["accessor"] for _ in range(2)}) == 2


def test_a_login_is_read_as_its_role_is_now(vault_setup: VaultSetup, way: Way):
    vault_setup.write_role(way, token_ttl="45s")

    assert vault_setup.log_in(way).auth["lease_duration"] == 45


def test_a_role_may_give_other_kinds_of_tokens(vault_setup: VaultSetup, way: Way):
    vault_setup.write_role(way, token_type="batch")
    batch = vault_setup.log_in(way).auth
    vault_setup.write_role(way, token_num_uses=3)
    counted = vault_setup.log_in(way).auth
    vault_setup.write_role(way, token_num_uses=0, token_period="75s", token_max_ttl=0)
    periodic = vault_setup.log_in(way).auth

    assert (batch["token_type"], batch["accessor"], batch["renewable"]) == ("batch", "", False)
    assert counted["num_uses"] == 3
    assert periodic["lease_duration"] == 75


def test_a_login_without_a_known_mount_is_denied(vault_place: VaultPlace):
    reply = vault_place.ask("POST", "auth/nosuch/login", {"role": "app", "jwt": "x"})

    assert (reply.status, reply.errors) == (403, DENIED_TOKEN)


def test_leases_end_with_their_login(
    vault_place: VaultPlace, vault_setup: VaultSetup, issuer: Issuer, database: Database
):
    made = vault_setup.database(database)
    way = vault_setup.jwt(issuer, vault_setup.policy(made.creds()), token_ttl="3s", token_max_ttl="3s")
    token = vault_setup.log_in(way).auth["client_token"]

    issued = vault_place.ask("GET", made.creds(), token=token)

    assert issued.status == 200
    assert eventually(lambda: not users(database))
    assert not lets_in(database, issued.data)


# -- refusals --------------------------------------------------------------------------------------------------------

Forge = Callable[[Issuer], dict[str, Any]]
JWT_REFUSALS: list[tuple[str, Forge, str]] = [
    ("expired", lambda one: {"jwt": one.service_account_token(ttl=-600)}, "invalid expiration time (exp) claim"),
    ("audience", lambda one: {"jwt": one.service_account_token(audience=["x"])}, "invalid audience (aud) claim"),
    ("subject", lambda one: {"jwt": one.service_account_token(name="x")}, "invalid subject (sub) claim"),
    ("forged", lambda one: {"jwt": Issuer().service_account_token()}, "no known key successfully validated"),
    ("garbage", lambda one: {"jwt": "garbage"}, "error verifying token signature"),
    ("unknown role", lambda one: {"role": "zz", "jwt": one.service_account_token()}, 'role "zz" could not be found'),
    ("no role", lambda one: {"role": "", "jwt": one.service_account_token()}, "missing role"),
    ("no token", lambda one: {}, "missing token"),
]
KUBERNETES_REFUSALS: list[tuple[str, Forge, int, str]] = [
    ("expired", lambda one: {"jwt": one.service_account_token(ttl=-600)}, 403, "invalid expiration time (exp) claim"),
    ("audience", lambda one: {"jwt": one.service_account_token(audience=["x"])}, 403, "invalid audience (aud) claim"),
    ("account", lambda one: {"jwt": one.service_account_token(name="x")}, 403, "service account name not authorized"),
    ("namespace", lambda one: {"jwt": one.service_account_token("x")}, 403, "namespace not authorized"),
    ("forged", lambda one: {"jwt": Issuer().service_account_token()}, 403, "permission denied"),
    ("garbage", lambda one: {"jwt": "garbage"}, 403, "permission denied"),
    ("unknown role", lambda one: {"role": "zz", "jwt": one.service_account_token()}, 400, 'invalid role name "zz"'),
    ("no role", lambda one: {"role": "", "jwt": one.service_account_token()}, 400, "missing role"),
]


@pytest.mark.parametrize(("forge", "error"), [row[1:] for row in JWT_REFUSALS], ids=[row[0] for row in JWT_REFUSALS])
def test_what_jwt_does_not_accept(
    vault_place: VaultPlace, vault_setup: VaultSetup, policy: str, issuer: Issuer, forge: Forge, error: str
):
    way = vault_setup.jwt(issuer, policy)

    reply = vault_place.ask("POST", f"auth/{way.mount}/login", {"role": "app", **forge(issuer)})

    assert reply.status == 400
    assert error in reply.errors[0]


@pytest.mark.parametrize(
    ("forge", "status", "error"), [row[1:] for row in KUBERNETES_REFUSALS], ids=[row[0] for row in KUBERNETES_REFUSALS]
)
def test_what_kubernetes_does_not_accept(
    vault_place: VaultPlace,
    vault_setup: VaultSetup,
    policy: str,
    token_reviewer: TokenReviewer,
    forge: Forge,
    status: int,
    error: str,
):
    way = vault_setup.kubernetes(token_reviewer, policy)
    body = {"role": "app", **forge(token_reviewer.issuer)}

    reply = vault_place.ask("POST", f"auth/{way.mount}/login", body)

    assert reply.status == status
    assert error in reply.errors[0]


def test_a_cluster_that_does_not_answer_is_a_refused_login(
    vault_setup: VaultSetup, policy: str, token_reviewer: TokenReviewer
):
    way = vault_setup.kubernetes(token_reviewer, policy)
    token_reviewer.broken = True

    reply = vault_setup.log_in(way)

    assert (reply.status, reply.errors) == (403, DENIED_TOKEN)


def test_the_cluster_is_asked_about_each_login(vault_setup: VaultSetup, policy: str, token_reviewer: TokenReviewer):
    way = vault_setup.kubernetes(token_reviewer, policy)

    vault_setup.log_in(way)
    vault_setup.log_in(way)

    assert token_reviewer.reviews == ["system:serviceaccount:default:app"] * 2


def test_what_approle_does_not_accept(vault_place: VaultPlace, vault_setup: VaultSetup, policy: str):
    way = vault_setup.approle(policy)
    good = way.body()
    path = f"auth/{way.mount}/login"

    replies = [
        vault_place.ask("POST", path, body)
        for body in ({**good, "secret_id": "x"}, {**good, "role_id": "x"}, {"role_id": good["role_id"]}, {})
    ]

    assert [(one.status, one.errors) for one in replies] == [
        (400, ["invalid role or secret ID"]),
        (400, ["invalid role or secret ID"]),
        (400, ["missing secret_id"]),
        (500, ["missing role_id"]),
    ]


def test_a_secret_id_of_one_use_is_used_once(vault_setup: VaultSetup, policy: str):
    way = vault_setup.approle(policy, secret_id_num_uses=1)

    first, second = vault_setup.log_in(way), vault_setup.log_in(way)

    assert first.status == 200
    assert (second.status, second.errors) == (400, ["invalid role or secret ID"])


def test_a_secret_id_comes_wrapped(vault_place: VaultPlace, vault_setup: VaultSetup, policy: str):
    way = vault_setup.approle(policy, wrapped="60s")
    wrapping = way.body()["secret_id"]

    made_at = vault_place.ask("POST", "sys/wrapping/lookup", {"token": wrapping}).data["creation_path"]
    secret = vault_place.ask("POST", "sys/wrapping/unwrap", {}, token=wrapping).data["secret_id"]
    reply = vault_place.ask("POST", f"auth/{way.mount}/login", {"role_id": way.body()["role_id"], "secret_id": secret})

    assert made_at == way.config["secret_id_response_wrapping_path"]
    assert reply.status == 200


# -- certificates ----------------------------------------------------------------------------------------------------


def test_a_client_certificate_logs_in_and_must_come_along_at_renewals(
    own_vault_place: StartPlace, authority: Authority, tmp_path_factory: pytest.TempPathFactory
):
    place = own_vault_place(tls=tls_of(authority))
    setup = VaultSetup(place, tmp_path_factory.mktemp("pod"))
    way = setup.cert(authority, setup.policy(), token_ttl="60s")
    path = f"auth/{way.mount}/login"

    reply = setup.log_in(way)
    token = reply.auth["client_token"]
    other = place.ask("POST", path, {"name": "app"}, certificate=authority.client("somebody-else"))
    none = place.ask("POST", path, {"name": "app"})
    kept = place.ask("POST", "auth/token/renew-self", {}, token=token, certificate=way.certificate)
    bare = place.ask("POST", "auth/token/renew-self", {}, token=token)

    assert (reply.status, reply.auth["lease_duration"]) == (200, 60)
    assert set(reply.auth) == AUTH
    assert kept.status == 200
    assert [other.status, none.status] == [400, 400]
    assert bare.status == 400


def test_a_servers_certificate_rotates_without_a_restart(own_vault_place: StartPlace, authority: Authority):
    place = own_vault_place(tls=tls_of(authority))
    before = _serial(place)

    authority.server()
    place.reload()

    assert eventually(lambda: _serial(place) != before)
    assert place.health() == 200


def _serial(place: VaultPlace) -> int:
    pem = ssl.get_server_certificate(("127.0.0.1", place.port))
    return x509.load_pem_x509_certificate(pem.encode()).serial_number
