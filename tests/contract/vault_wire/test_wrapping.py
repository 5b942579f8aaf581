"""Wrapping: an answer in exchange for a token that opens it once."""

from tests.contract.vault_wire.questions import eventually, lets_in
from tests.contract.vault_wire.test_tokens import alive
from tests.fix_postgres import Database
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup

NOT_VALID = ["wrapping token is not valid or does not exist"]


def test_what_is_wrapped_is_taken_out_once(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)
    wrapped = vault_place.admin("GET", made.creds(), wrap_ttl="60s")
    info = wrapped["wrap_info"]
    token = info["token"]

    looked_up = vault_place.ask("POST", "sys/wrapping/lookup", {"token": token})
    taken = vault_place.ask("POST", "sys/wrapping/unwrap", {}, token=token)
    again = vault_place.ask("POST", "sys/wrapping/unwrap", {}, token=token)
    with_ours = vault_place.ask("POST", "sys/wrapping/unwrap", {"token": token}, token=vault_place.root)
    looked_up_again = vault_place.ask("POST", "sys/wrapping/lookup", {"token": token})

    assert (wrapped["data"], wrapped["auth"], wrapped["lease_id"]) == (None, None, "")
    assert set(info) == {"token", "accessor", "ttl", "creation_time", "creation_path"}
    assert (info["ttl"], info["creation_path"]) == (60, made.creds())
    assert set(looked_up.data) == {"creation_path", "creation_time", "creation_ttl"}
    assert (looked_up.data["creation_path"], looked_up.data["creation_ttl"]) == (made.creds(), 60)
    assert taken.status == 200
    assert taken.body["lease_id"].startswith(made.creds())
    assert lets_in(database, taken.data)
    assert [(one.status, one.errors) for one in (again, with_ours, looked_up_again)] == [(400, NOT_VALID)] * 3


def test_what_is_wrapped_is_taken_out_with_another_token(vault_place: VaultPlace, vault_setup: VaultSetup):
    wrapped = vault_place.admin("POST", "auth/token/create", {"policies": ["default"]}, wrap_ttl="60s")["wrap_info"]

    taken = vault_place.ask("POST", "sys/wrapping/unwrap", {"token": wrapped["token"]}, token=vault_place.root)

    assert wrapped["creation_path"] == "auth/token/create"
    assert "wrapped_accessor" in wrapped
    assert taken.auth["accessor"] == wrapped["wrapped_accessor"]
    assert alive(vault_place, taken.auth["client_token"])


def test_what_is_wrapped_ends_if_nobody_takes_it_out(vault_place: VaultPlace):
    token = vault_place.admin("POST", "auth/token/create", {"policies": ["default"]}, wrap_ttl="1s")["wrap_info"][
        "token"
    ]

    assert eventually(lambda: vault_place.ask("POST", "sys/wrapping/lookup", {"token": token}).status == 400)
    late = vault_place.ask("POST", "sys/wrapping/unwrap", {}, token=token)
    assert (late.status, late.errors) == (400, NOT_VALID)


def test_what_a_test_brings_is_wrapped(vault_place: VaultPlace):
    token = vault_place.admin("POST", "sys/wrapping/wrap", {"secret": "value"}, wrap_ttl="60s")["wrap_info"]["token"]

    assert vault_place.ask("POST", "sys/wrapping/lookup", {"token": token}).data["creation_path"] == "sys/wrapping/wrap"
    assert vault_place.ask("POST", "sys/wrapping/unwrap", {}, token=token).data == {"secret": "value"}
