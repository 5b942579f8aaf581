"""Policies: who may what, as Vault reads them."""

import pytest

from tests.contract.vault_wire.questions import DENIED_POLICY
from tests.fix_postgres import Database
from tests.vault_place import VaultPlace
from tests.vault_setup import VaultSetup


def test_a_policy_that_changes_counts_at_once(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)
    policy = vault_setup.policy(made.creds())
    token = vault_setup.token(policy, ttl="1h")
    assert vault_place.ask("GET", made.creds(), token=token).status == 200

    vault_setup.write_policy(policy, {"sys/leases/renew": ("update",)})

    assert vault_place.ask("GET", made.creds(), token=token).status == 403


@pytest.mark.parametrize(
    ("rule", "allowed", "refused"),
    [
        ({"{kv}/a": ("read",)}, "a", "b"),
        ({"{kv}/*": ("read",)}, "deep/er", None),
        ({"{kv}/pre*": ("read",)}, "prefix", "other"),
        ({"{kv}/+/end": ("read",)}, "any/end", "any/more/end"),
        ({"{kv}/*": ("read",), "{kv}/no": ("deny",)}, "yes", "no"),
        ({"{kv}/*": ("list",), "{kv}/a": ("read",)}, "a", "b"),
    ],
)
def test_policies_are_read_as_vault_reads_them(
    vault_place: VaultPlace,
    vault_setup: VaultSetup,
    rule: dict[str, tuple[str, ...]],
    allowed: str,
    refused: str | None,
):
    mount = vault_setup.kv(1)
    policy = vault_setup.policy(more={path.format(kv=mount): given for path, given in rule.items()})
    token = vault_setup.token(policy)

    assert vault_place.ask("GET", f"{mount}/{allowed}", token=token).status == 404
    if refused:
        assert vault_place.ask("GET", f"{mount}/{refused}", token=token).status == 403


def test_a_policy_may_be_json(vault_place: VaultPlace, vault_setup: VaultSetup):
    policy = vault_setup.policy()
    text = '{"path": {"sys/leases/renew": {"capabilities": ["update"]}}}'
    vault_place.admin("POST", f"sys/policies/acl/{policy}", {"policy": text})

    reply = vault_place.ask("POST", "sys/leases/renew", {"lease_id": "x"}, token=vault_setup.token(policy))

    assert reply.status == 400


def test_a_token_asks_what_it_may(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy("database/creds/app"), ttl="1h")
    paths = ["database/creds/app", "sys/leases/revoke", "database/creds/other", "sys/capabilities-self"]

    told = vault_place.ask("POST", "sys/capabilities-self", {"paths": paths}, token=token)
    plain = vault_setup.token("default", ttl="1h", no_default_policy=False)
    granted = vault_place.ask("POST", "sys/capabilities-self", {"paths": paths}, token=plain)

    assert (told.status, told.errors) == (403, DENIED_POLICY)  # without the default policy it may not even ask
    assert granted.status == 200
    assert granted.data == {
        "database/creds/app": ["deny"],
        "sys/leases/revoke": ["deny"],
        "database/creds/other": ["deny"],
        "sys/capabilities-self": ["update"],
    }


def test_the_default_policy_allows_renewing_and_not_revoking(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token("default", ttl="1h", no_default_policy=False)
    body = {"lease_id": "database/creds/app/x"}

    assert vault_place.ask("POST", "sys/leases/renew", body, token=token).status == 400
    assert vault_place.ask("POST", "sys/leases/lookup", body, token=token).status == 400
    assert vault_place.ask("POST", "sys/leases/revoke", body, token=token).status == 403
    assert vault_place.ask("POST", "auth/token/renew-self", {}, token=token).status == 200
    assert vault_place.ask("POST", "auth/token/revoke-self", {}, token=token).status == 204
