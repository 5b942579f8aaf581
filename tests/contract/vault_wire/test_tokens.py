"""Tokens: what a login or auth/token/create gives, what ends them, and what ends with them."""

import time
from typing import Any

from tests.contract.vault_wire.questions import DENIED_POLICY, DENIED_TOKEN, ENVELOPE, eventually, lets_in, users
from tests.fix_postgres import Database
from tests.vault_place import Reply, VaultPlace
from tests.vault_setup import VaultSetup

AUTH = {
    "client_token",
    "accessor",
    "policies",
    "token_policies",
    "metadata",
    "lease_duration",
    "renewable",
    "entity_id",
    "token_type",
    "orphan",
    "mfa_requirement",
    "num_uses",
}
LOOKED_UP = {
    "accessor",
    "creation_time",
    "creation_ttl",
    "display_name",
    "entity_id",
    "expire_time",
    "explicit_max_ttl",
    "id",
    "issue_time",
    "meta",
    "num_uses",
    "orphan",
    "path",
    "policies",
    "renewable",
    "ttl",
    "type",
}


def look_up(place: VaultPlace, token: str) -> Reply:
    return place.ask("GET", "auth/token/lookup-self", token=token)


def renew(place: VaultPlace, token: str, **body: Any) -> Reply:
    return place.ask("POST", "auth/token/renew-self", body, token=token)


def alive(place: VaultPlace, token: str) -> bool:
    return look_up(place, token).status == 200


# -- their shape -----------------------------------------------------------------------------------------------------


def test_a_token_says_what_it_is(vault_place: VaultPlace, vault_setup: VaultSetup):
    policy = vault_setup.policy()

    made = vault_place.admin("POST", "auth/token/create", {"policies": [policy], "ttl": "1h"})
    told = look_up(vault_place, made["auth"]["client_token"])

    assert set(made) == ENVELOPE
    assert (made["data"], made["lease_id"]) == (None, "")
    assert set(made["auth"]) == AUTH
    assert made["auth"]["policies"] == made["auth"]["token_policies"] == ["default", policy]
    assert (made["auth"]["lease_duration"], made["auth"]["renewable"]) == (3600, True)
    assert (made["auth"]["token_type"], made["auth"]["orphan"], made["auth"]["num_uses"]) == ("service", False, 0)
    assert set(told.data) == LOOKED_UP
    assert told.data["id"] == made["auth"]["client_token"]
    assert told.data["accessor"] == made["auth"]["accessor"]
    assert 3580 <= told.data["ttl"] <= 3600
    assert (told.data["path"], told.data["type"]) == ("auth/token/create", "service")
    assert told.data["policies"] == ["default", policy]


def test_a_token_without_an_end_says_zero(vault_place: VaultPlace):
    made = vault_place.admin("POST", "auth/token/create", {"policies": ["root"]})["auth"]

    assert (made["lease_duration"], made["renewable"]) == (0, False)
    told = look_up(vault_place, made["client_token"]).data
    assert (told["ttl"], told["expire_time"]) == (0, None)
    refused = renew(vault_place, made["client_token"])
    assert (refused.status, refused.errors) == (400, ["lease is not renewable"])
    vault_place.admin("POST", "auth/token/revoke", {"token": made["client_token"]})


# -- how long --------------------------------------------------------------------------------------------------------


def test_a_token_is_renewed(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), ttl="60s")

    plain = renew(vault_place, token)
    longer = renew(vault_place, token, increment="90s")
    after = renew(vault_place, token)

    assert plain.status == 200
    assert set(plain.auth) == AUTH
    assert plain.auth["client_token"] == token
    assert [one.auth["lease_duration"] for one in (plain, longer)] == [60, 90]
    assert after.auth["lease_duration"] == 90  # without an increment, the last length is asked for again


def test_renewals_of_a_token_shrink_towards_its_longest_life(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), ttl="4s", explicit_max_ttl="5s")
    assert look_up(vault_place, token).data["explicit_max_ttl"] == 5

    answers = [renew(vault_place, token, increment="4s")]
    while answers[-1].status == 200:
        time.sleep(0.2)
        answers.append(renew(vault_place, token, increment="4s"))

    lengths = [one.auth["lease_duration"] for one in answers[:-1]]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (4, 1)
    assert answers[-2].body["warnings"] == [
        'TTL of "4s" exceeded the effective max_ttl of "1s"; TTL value is capped accordingly'
    ]
    # A lease is refused with 400 here, a token as if the server had failed.
    assert (answers[-1].status, answers[-1].errors) == (
        500,
        ["1 error occurred:\n\t* past the max TTL, cannot renew\n\n"],
    )
    assert eventually(lambda: not alive(vault_place, token))


def test_a_periodic_token_is_renewed_by_its_period(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), period="1h")

    assert look_up(vault_place, token).data["period"] == 3600
    assert renew(vault_place, token, increment="5m").auth["lease_duration"] == 3600


def test_a_token_that_is_not_renewable_is_not_renewed(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), ttl="1h", renewable=False)

    refused = renew(vault_place, token)

    assert look_up(vault_place, token).data["renewable"] is False
    assert (refused.status, refused.errors) == (400, ["lease is not renewable"])


def test_a_batch_token_has_no_accessor_and_no_second_life(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database, ttl=60, max_ttl=300)
    body = {"policies": [vault_setup.policy(made.creds())], "ttl": "30s", "type": "batch"}

    auth = vault_place.admin("POST", "auth/token/create", body)["auth"]
    token = auth["client_token"]
    renewed = renew(vault_place, token)
    revoked = vault_place.ask("POST", "auth/token/revoke-self", {}, token=token)
    issued = vault_place.ask("GET", made.creds(), token=token)
    lease = {"lease_id": issued.body["lease_id"], "increment": 60}
    kept = vault_place.ask("POST", "sys/leases/renew", lease, token=token)

    assert (auth["accessor"], auth["token_type"], auth["renewable"]) == ("", "batch", False)
    assert look_up(vault_place, token).data["type"] == "batch"
    assert (renewed.status, renewed.errors) == (400, ["batch tokens cannot be renewed"])
    assert (revoked.status, revoked.errors) == (400, ["batch tokens cannot be revoked"])
    assert (issued.status, issued.body["renewable"]) == (200, True)
    assert issued.body["lease_duration"] <= 30
    assert kept.body["lease_duration"] <= 30


def test_a_token_of_so_many_uses_counts_them(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), ttl="1h", num_uses=2)

    first, second, third = (look_up(vault_place, token) for _ in range(3))

    assert (first.status, first.data["num_uses"]) == (200, 1)
    assert second.status == 200
    assert (third.status, third.errors) == (403, DENIED_TOKEN)


def test_the_last_use_of_a_token_gives_no_lease(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)
    token = vault_setup.token(vault_setup.policy(made.creds()), ttl="1h", num_uses=1)

    reply = vault_place.ask("GET", made.creds(), token=token)

    assert (reply.status, reply.errors) == (
        400,
        ["Secret cannot be returned; token had one use left, so leased credentials were immediately revoked."],
    )
    assert eventually(lambda: not users(database))


# -- what ends with them ---------------------------------------------------------------------------------------------


def test_a_token_that_is_revoked_takes_its_leases_along(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    token = vault_setup.token(vault_setup.policy(made.creds()), ttl="1h")
    lease = vault_place.ask("GET", made.creds(), token=token).body["lease_id"]

    reply = vault_place.ask("POST", "auth/token/revoke-self", {}, token=token)

    assert (reply.status, reply.body) == (204, {})
    assert eventually(lambda: not users(database))
    gone = vault_place.ask("POST", "sys/leases/renew", {"lease_id": lease}, token=vault_place.root)
    assert (gone.status, gone.errors) == (400, ["lease not found"])


def test_a_token_that_ends_takes_its_leases_along_however_long_they_are(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    token = vault_setup.token(vault_setup.policy(made.creds()), ttl="3s")
    issued = vault_place.ask("GET", made.creds(), token=token)

    assert issued.body["lease_duration"] == 3600
    assert eventually(lambda: not users(database))


def test_a_lease_is_renewed_with_another_token_than_its_own(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    """A new login may look after the old one's leases, and they end with the old one all the same."""
    made = vault_setup.database(database)
    policy = vault_setup.policy(made.creds())
    first, second = (vault_setup.token(policy, ttl="1h") for _ in range(2))
    issued = vault_place.ask("GET", made.creds(), token=first)

    renewed = vault_place.ask("POST", "sys/leases/renew", {"lease_id": issued.body["lease_id"]}, token=second)
    vault_place.ask("POST", "auth/token/revoke-self", {}, token=first)

    assert renewed.status == 200
    assert eventually(lambda: not lets_in(database, issued.data))


def test_children_end_with_their_parent_and_orphans_do_not(vault_place: VaultPlace, vault_setup: VaultSetup):
    create = {"auth/token/create": ("update", "sudo"), "auth/token/create-orphan": ("update", "sudo")}
    policy = vault_setup.policy(more=create)
    parent = vault_setup.token(policy, ttl="1h")
    body = {"policies": [policy], "ttl": "1h"}
    child = vault_place.admin("POST", "auth/token/create", body, token=parent)["auth"]
    orphan = vault_place.admin("POST", "auth/token/create-orphan", body, token=parent)["auth"]
    free = vault_place.admin("POST", "auth/token/create", {**body, "no_parent": True}, token=parent)["auth"]

    vault_place.ask("POST", "auth/token/revoke-self", {}, token=parent)

    assert (child["orphan"], orphan["orphan"], free["orphan"]) == (False, True, True)
    assert eventually(lambda: not alive(vault_place, child["client_token"]))
    assert alive(vault_place, orphan["client_token"])
    assert alive(vault_place, free["client_token"])


def test_a_token_is_looked_up_and_revoked_by_its_accessor(vault_place: VaultPlace, vault_setup: VaultSetup):
    token = vault_setup.token(vault_setup.policy(), ttl="1h")
    accessor = look_up(vault_place, token).data["accessor"]

    told = vault_place.admin("POST", "auth/token/lookup-accessor", {"accessor": accessor})["data"]
    vault_place.admin("POST", "auth/token/revoke-accessor", {"accessor": accessor})

    assert (told["accessor"], told["id"]) == (accessor, "")
    assert not alive(vault_place, token)


# -- refusals --------------------------------------------------------------------------------------------------------


def test_a_token_of_no_use_is_told_apart_from_a_policy(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    policy = vault_setup.policy(made.creds())
    ended = vault_setup.token(policy, ttl="1s")
    revoked = vault_setup.token(policy, ttl="1h")
    vault_place.admin("POST", "auth/token/revoke", {"token": revoked})
    good = vault_setup.token(vault_setup.policy(), ttl="1h")
    assert eventually(lambda: not alive(vault_place, ended))

    for token in ("s.nosuchtokenatall00000000", "garbage", None, ended, revoked):
        for method, path in (("GET", made.creds()), ("POST", "sys/leases/renew"), ("GET", "auth/token/lookup-self")):
            reply = vault_place.ask(method, path, {} if method == "POST" else None, token=token)
            assert (reply.status, reply.errors) == (403, DENIED_TOKEN), (token, path)
    for method, path in (("GET", made.creds()), ("GET", "nosuch/creds/app"), ("POST", "sys/leases/revoke-force/x")):
        reply = vault_place.ask(method, path, token=good)
        assert (reply.status, reply.errors) == (403, DENIED_POLICY), path
