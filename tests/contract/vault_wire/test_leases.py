"""Leased credentials: issue, renew, look up, revoke, and what ends them; refusals with their texts."""

import time

import psycopg
import pytest

from tests.contract.vault_wire.questions import ENVELOPE, connect, eventually, lets_in, users
from tests.fix_postgres import Database
from tests.vault_place import VaultPlace, free_port
from tests.vault_setup import VaultSetup


def test_a_read_mints_a_user_who_logs_in(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database, ttl=60, max_ttl=300)
    token = vault_setup.token(vault_setup.policy(made.creds()))

    reply = vault_place.ask("GET", made.creds(), token=token)

    assert reply.status == 200
    assert set(reply.body) == ENVELOPE
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["cache-control"] == "no-store"
    assert "date" in reply.headers
    assert reply.body["lease_id"].startswith(f"{made.creds()}/")
    assert (reply.body["lease_duration"], reply.body["renewable"]) == (60, True)
    assert (reply.body["wrap_info"], reply.body["warnings"], reply.body["auth"]) == (None, None, None)
    assert set(reply.data) == {"username", "password"}
    assert reply.data["username"].startswith("v-")
    assert lets_in(database, reply.data)
    assert users(database) == {reply.data["username"]}


def test_a_user_ends_at_the_database_shortly_after_its_lease(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database, ttl=60, max_ttl=300)

    name = vault_place.admin("GET", made.creds())["data"]["username"]

    ((left,),) = database.execute(
        "SELECT extract(epoch FROM rolvaliduntil - clock_timestamp())::float FROM pg_roles WHERE rolname = %s", name
    )
    assert 40 < left < 67


def test_every_read_is_another_user(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)

    names = {vault_place.admin("GET", made.creds())["data"]["username"] for _ in range(3)}

    assert len(names) == 3
    assert users(database) == names


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_renewal_grants_what_was_asked_from_now_on(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database, method: str
):
    made = vault_setup.database(database, ttl=60, max_ttl=300)
    lease = vault_place.admin("GET", made.creds())["lease_id"]

    renewed = vault_place.admin(method, "sys/leases/renew", {"lease_id": lease, "increment": 30})
    without = vault_place.admin(method, "sys/leases/renew", {"lease_id": lease})

    assert set(renewed) == ENVELOPE
    assert (renewed["lease_id"], renewed["lease_duration"], renewed["renewable"]) == (lease, 30, True)
    assert renewed["data"] is None
    assert without["lease_duration"] == 60


def test_renewals_shrink_towards_the_longest_life_and_end_there(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database, ttl=4, max_ttl=5)
    issued = vault_place.admin("GET", made.creds())
    body = {"lease_id": issued["lease_id"], "increment": 4}
    assert issued["lease_duration"] == 4

    answers = [vault_place.ask("POST", "sys/leases/renew", body, token=vault_place.root)]
    while answers[-1].status == 200:
        time.sleep(0.2)
        answers.append(vault_place.ask("POST", "sys/leases/renew", body, token=vault_place.root))

    lengths = [one.body["lease_duration"] for one in answers[:-1]]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (4, 1)
    assert answers[0].body["warnings"] is None
    assert answers[-2].body["warnings"] == [
        'TTL of "4s" exceeded the effective max_ttl of "1s"; TTL value is capped accordingly'
    ]
    assert answers[-1].status == 400
    assert "past the max TTL, cannot renew" in answers[-1].errors[0]
    assert eventually(lambda: not users(database))
    ended = vault_place.ask("POST", "sys/leases/renew", body, token=vault_place.root)
    assert (ended.status, ended.errors) == (400, ["lease not found"])


def test_what_is_not_renewed_ends(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database, ttl=1, max_ttl=60)
    issued = vault_place.admin("GET", made.creds())

    assert eventually(lambda: not users(database))
    reply = vault_place.ask("POST", "sys/leases/renew", {"lease_id": issued["lease_id"]}, token=vault_place.root)
    assert (reply.status, reply.errors) == (400, ["lease not found"])


def test_a_requested_length_beyond_the_roles_is_not_granted_at_issue(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    """There is no TTL parameter: the role's length stands, whatever the query says."""
    made = vault_setup.database(database, ttl=60, max_ttl=300)

    assert vault_place.admin("GET", f"{made.creds()}?ttl=120s")["lease_duration"] == 60


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_revoking_in_sync_ends_user_and_sessions_before_the_answer(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database, method: str
):
    made = vault_setup.database(database)
    issued = vault_place.admin("GET", made.creds())
    session = connect(database, issued["data"])

    reply = vault_place.ask(
        method, "sys/leases/revoke", {"lease_id": issued["lease_id"], "sync": True}, token=vault_place.root
    )

    assert (reply.status, reply.body) == (204, {})
    assert users(database) == set()
    with pytest.raises(psycopg.OperationalError):
        session.execute("SELECT 1")
    session.close()
    renewed = vault_place.ask("POST", "sys/leases/renew", {"lease_id": issued["lease_id"]}, token=vault_place.root)
    assert (renewed.status, renewed.errors) == (400, ["lease not found"])


def test_revoking_without_sync_ends_the_user_in_a_while(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    lease = vault_place.admin("GET", made.creds())["lease_id"]

    reply = vault_place.ask("POST", "sys/leases/revoke", {"lease_id": lease, "sync": False}, token=vault_place.root)

    assert (reply.status, reply.body) == (202, {})
    assert eventually(lambda: not users(database))


@pytest.mark.parametrize(("sync", "status"), [({"sync": True}, 204), ({"sync": False}, 202), ({}, 204)])
def test_revoking_an_unknown_lease_succeeds(vault_place: VaultPlace, sync: dict[str, bool], status: int):
    body = {"lease_id": "database/creds/app/nosuch", **sync}

    assert vault_place.ask("POST", "sys/leases/revoke", body, token=vault_place.root).status == status


def test_a_prefix_is_revoked_as_a_whole(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)
    other = vault_setup.database_role(made, "other")
    vault_place.admin("GET", made.creds())
    vault_place.admin("GET", made.creds())
    kept = vault_place.admin("GET", other)["data"]["username"]

    vault_place.admin("POST", f"sys/leases/revoke-prefix/{made.creds()}", {"sync": True})

    assert users(database) == {kept}


def test_a_lease_is_looked_up(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database, ttl=60, max_ttl=300)
    lease = vault_place.admin("GET", made.creds())["lease_id"]

    fresh = vault_place.admin("POST", "sys/leases/lookup", {"lease_id": lease})["data"]
    vault_place.admin("POST", "sys/leases/renew", {"lease_id": lease})
    renewed = vault_place.admin("POST", "sys/leases/lookup", {"lease_id": lease})["data"]

    assert set(fresh) == {"expire_time", "id", "issue_time", "last_renewal", "path", "renewable", "ttl"}
    assert (fresh["id"], fresh["path"], fresh["renewable"]) == (lease, made.creds(), True)
    assert 40 <= fresh["ttl"] <= 60
    assert fresh["last_renewal"] is None
    assert renewed["last_renewal"] > fresh["issue_time"]


@pytest.mark.parametrize(
    ("path", "body", "errors"),
    [
        ("sys/leases/renew", {"lease_id": "database/creds/app/nosuch"}, ["lease not found"]),
        ("sys/leases/lookup", {"lease_id": "database/creds/app/nosuch"}, ["invalid lease"]),
        ("sys/leases/renew", {}, ["lease_id must be specified"]),
    ],
)
def test_what_is_said_of_leases_that_are_not_there(vault_place: VaultPlace, path: str, body: object, errors: list[str]):
    reply = vault_place.ask("POST", path, body, token=vault_place.root)

    assert (reply.status, reply.errors) == (400, errors)


def test_what_is_said_of_roles_and_paths_that_are_not_there(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    asked = [
        ("GET", made.creds("nosuch")),
        ("GET", made.static_creds("nosuch")),
        ("GET", f"{made.mount}/nosuch/app"),
        ("GET", "nosuch/creds/app"),
        ("POST", made.creds()),
        ("DELETE", made.creds()),
        ("GET", "sys/nosuch"),
        ("PATCH", "sys/health"),
    ]

    replies = [vault_place.ask(method, path, token=vault_place.root) for method, path in asked]

    assert [(one.status, one.errors) for one in replies] == [
        (400, ["unknown role: nosuch"]),
        (400, ["unknown role: nosuch"]),
        (404, ["1 error occurred:\n\t* unsupported path\n\n"]),
        (404, ['no handler for route "nosuch/creds/app". route entry not found.']),
        (405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        (405, ["1 error occurred:\n\t* unsupported operation\n\n"]),
        (404, ["1 error occurred:\n\t* unsupported path\n\n"]),
        (405, []),
    ]


def test_a_body_that_is_no_json_object_is_refused(vault_place: VaultPlace):
    replies = [
        vault_place.ask("POST", "sys/leases/renew", content, token=vault_place.root)
        for content in (b'"text"', b"{", b"no")
    ]

    assert [one.status for one in replies] == [400, 400, 400]
    assert all(one.errors[0].startswith("failed to decode JSON input") for one in replies)


def test_a_role_that_the_connection_does_not_allow_fails_at_the_server(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    vault_place.admin("POST", f"{made.mount}/config/{made.config}", {"allowed_roles": ["other"]})

    reply = vault_place.ask("GET", made.creds(), token=vault_place.root)

    assert (reply.status, reply.errors) == (500, ['1 error occurred:\n\t* "app" is not an allowed role\n\n'])


def test_a_database_that_is_down_is_an_error_of_the_server(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    nowhere = {
        "plugin_name": "postgresql-database-plugin",
        "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{free_port()}/x?sslmode=disable",
        "username": "x",
        "password": "x",
        "allowed_roles": ["*"],
        "verify_connection": False,
    }
    vault_place.admin("POST", f"{made.mount}/config/{made.config}", nowhere)

    reply = vault_place.ask("GET", made.creds(), token=vault_place.root)

    assert reply.status == 500
    assert len(reply.errors) == 1


def test_statements_that_fail_leave_nobody(vault_place: VaultPlace, vault_setup: VaultSetup, database: Database):
    made = vault_setup.database(database)
    words = ["CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}'", 'GRANT nosuch TO "{{name}}"']
    path = vault_setup.database_role(made, "broken", creation_statements=words)

    reply = vault_place.ask("GET", path, token=vault_place.root)

    assert reply.status == 500
    assert database.execute("SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%%'") == [(0,)]


def test_a_removed_role_issues_no_more_and_its_leases_stay(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    issued = vault_place.admin("GET", made.creds())

    vault_place.admin("DELETE", f"{made.mount}/roles/app")

    assert vault_place.ask("GET", made.creds(), token=vault_place.root).status == 400
    assert lets_in(database, issued["data"])
    reply = vault_place.ask("POST", "sys/leases/renew", {"lease_id": issued["lease_id"]}, token=vault_place.root)
    assert reply.status == 400
    assert "unknown role" in reply.errors[0] or "could not find role" in reply.errors[0]


def test_a_static_role_has_one_password_that_changes(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    path = vault_setup.static_role(made, period=3600)

    first = vault_place.admin("GET", path)
    again = vault_place.admin("GET", path)
    vault_place.admin("POST", f"{made.mount}/rotate-role/fixed", {})
    rotated = vault_place.admin("GET", path)

    assert (first["lease_id"], first["lease_duration"], first["renewable"]) == ("", 0, False)
    assert set(first["data"]) == {"last_vault_rotation", "password", "rotation_period", "ttl", "username"}
    assert first["data"]["username"] == f"fixed_{database.dbname}"
    assert first["data"]["rotation_period"] == 3600
    assert 3580 <= first["data"]["ttl"] <= 3600
    assert again["data"]["password"] == first["data"]["password"] != rotated["data"]["password"]
    assert not lets_in(database, first["data"])
    assert lets_in(database, rotated["data"])


def test_a_static_role_is_rotated_when_its_period_is_over(
    vault_place: VaultPlace, vault_setup: VaultSetup, database: Database
):
    made = vault_setup.database(database)
    path = vault_setup.static_role(made, period=5)
    first = vault_place.admin("GET", path)["data"]

    assert eventually(lambda: vault_place.admin("GET", path)["data"]["password"] != first["password"], within=40)
    now = vault_place.admin("GET", path)["data"]
    assert now["last_vault_rotation"] > first["last_vault_rotation"]
    assert now["ttl"] <= 5
    assert lets_in(database, now)
