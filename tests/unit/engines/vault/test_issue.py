"""VaultEngine.issue over a scripted wire: what is asked, what comes of each answer, and what never goes on."""

import asyncio

import pytest
import structlog

from agent.config.model import Duration, Role
from agent.engines.vault.answers import Request, ServerFault
from agent.engines.vault.values import LONGEST
from agent.errors import (
    BadResponse,
    NotFound,
    NotLoggedIn,
    NotRenewable,
    Unavailable,
    Unfit,
)
from agent.leases.lease import Secret
from tests.unit.engines.vault.scripted import (
    NOTHING,
    REVOKE,
    bad,
    good,
)
from tests.unit.engines.vault.worlds import APP, DATA, ID, ROLE, WRITE, World, issued, lease, plain

# -- issue ------------------------------------------------------------------------------------------------------------


async def test_a_leased_path_is_read_with_the_login_that_the_lease_then_hangs_on():
    """R002-004, R002-012: a lease id with slashes survives; values come from `data`."""
    world = World({APP: issued()})

    grant = await world.issue()

    assert [(each.call, each.token, each.body, each.query) for each in world.wire.sent] == [
        (f"GET {APP}", "hvs.login", None, None)
    ]
    assert (grant.id, grant.ttl, grant.renewable, grant.parent) == (ID, 60.0, True, "login-1")
    assert plain(grant) == DATA
    assert world.logins.good == ["login-1"]


async def test_any_mount_gives_all_its_fields():
    """R002-016."""
    data = {"access_key": "AKIA", "secret_key": "s/+", "security_token": None, "ttl": 3599, "arn": ["a", {"b": True}]}
    role = Role(upstream="vault", path="aws/creds/ci-deploy-role", parameters={"ttl": "1h"})
    world = World(
        {"aws/creds/ci-deploy-role": issued(data, id_="aws/creds/ci-deploy-role/x", renewable=False)}, role=role
    )

    grant = await world.issue()

    assert plain(grant) == {
        "access_key": "AKIA",
        "secret_key": "s/+",
        "security_token": "",
        "ttl": "3599",
        "arn": '["a",{"b":true}]',
    }
    assert not grant.renewable
    assert world.wire.sent[0].query == {"ttl": "1h"}


async def test_a_user_name_of_any_form_up_to_63_characters_is_taken():
    """R002-005."""
    world = World({APP: issued(DATA | {"username": "ü" * 63})})

    assert plain(await world.issue())["username"] == "ü" * 63


async def test_a_certificate_that_is_not_leased_ends_by_its_expiration_and_with_nobodys_login():
    data = {"certificate": "-----BEGIN\nx", "expiration": 1_795_247_558}
    answer = good(data, server_time=1_795_247_258.0, renewable=True)
    world = World({"pki/issue/r": answer}, role=WRITE)

    grant = await world.issue()

    assert [(each.call, each.body, each.query) for each in world.wire.sent] == [
        ("POST pki/issue/r", {"common_name": "a.b"}, None)
    ]
    assert (grant.id, grant.ttl, grant.renewable, grant.parent) == ("proposed", 299.0, False, "")
    await world.engine.revoke(grant.id)
    assert len(world.wire.sent) == 1
    with pytest.raises(NotRenewable):
        await world.engine.renew(lease("proposed"), 60.0)


async def test_an_expiration_is_read_by_our_clock_where_the_server_does_not_tell_its_own():
    world = World({"pki/issue/r": good({"certificate": "x", "expiration": 1_800_000_600})}, role=WRITE)

    assert (await world.issue()).ttl == 600.0


@pytest.mark.parametrize(("ttl", "granted"), [("30m", 1800.0), ("300", 300.0), ("1h30m", 5400.0)])
async def test_an_ssh_certificate_lives_as_long_as_was_asked_for(ttl, granted):
    role = Role(upstream="vault", path="ssh/sign/s", kind="write", parameters={"public_key": "k", "ttl": ttl})
    world = World({"ssh/sign/s": good({"serial_number": "1", "signed_key": "ssh-ed25519-cert"})}, role=role)

    assert (await world.issue()).ttl == granted


@pytest.mark.parametrize(("ttl", "why"), [("0s", "a TTL of 0"), ("100000h", "more than ten years"), ("soon", "no end")])
async def test_an_ssh_certificate_without_a_usable_end_is_refused(ttl, why):
    """D-27."""
    role = Role(upstream="vault", path="ssh/sign/s", kind="write", parameters={"public_key": "k", "ttl": ttl})

    with pytest.raises(BadResponse, match=why):
        await World({"ssh/sign/s": good({"signed_key": "x"})}, role=role).issue()


@pytest.mark.parametrize(
    ("role", "data", "remedy"),
    [
        (WRITE, {"certificate": "x"}, "a ttl among its parameters"),
        (ROLE, {"k": "v"}, 'set kind = "kv" or "static"'),
        (WRITE, {"certificate": "x", "expiration": 5}, "negative TTL"),
        (WRITE, {"certificate": "x", "expiration": "soon"}, "a ttl among its parameters"),
        (WRITE, None, "holds no data"),
        (ROLE, {}, "holds no data"),
    ],
)
async def test_what_is_not_leased_and_has_no_end_is_refused(role, data, remedy):
    world = World({role.path or APP: good(data, server_time=100.0)}, role=role)

    with pytest.raises(BadResponse, match=remedy):
        await world.issue()


@pytest.mark.parametrize(
    ("ttl", "why"),
    [
        (0, "a TTL of 0"),
        (-1, "a negative TTL"),
        (None, "no whole number"),
        (1.5, "no whole number"),
        ("60", "no whole number"),
        (True, "no whole number"),
        (LONGEST + 1, "more than ten years"),
        (10**400, "more than ten years"),
    ],
)
async def test_a_lease_without_a_usable_end_is_revoked_and_refused(ttl, why):
    """D-27."""
    world = World({APP: issued(ttl=ttl), REVOKE: NOTHING})

    with pytest.raises(BadResponse, match=why) as caught:
        await world.issue()

    assert [(each.call, each.body, each.token) for each in world.wire.sent[1:]] == [
        (f"POST {REVOKE}", {"lease_id": ID, "sync": True}, "hvs.login")
    ]
    assert not caught.value.outcome_unknown


async def test_ten_years_are_a_usable_end():
    """D-27."""
    assert (await World({APP: issued(ttl=LONGEST)}).issue()).ttl == LONGEST


@pytest.mark.parametrize("id_", ["no-slash", 5, ["a/b"], "a/b\n", "a/" + "b" * 3000])
async def test_a_lease_id_that_is_none_is_refused(id_):
    world = World({APP: issued(id_=id_)})

    with pytest.raises(BadResponse):
        await world.issue()

    assert len(world.wire.sent) == 1


@pytest.mark.parametrize(
    "id_",
    [
        "database/creds/superadmin/x1",
        "database/creds/app2/x1",
        "other-database/creds/app/x1",
        "database/creds/app/other/x1",
        "database/creds/app/",
        "creds/app/x1",
        "auth/token/create/x1",
        "/x1",
        "/x1.ns",
    ],
)
async def test_the_lease_of_another_path_is_refused_and_not_revoked(id_):
    """A cache in front of the server mixes answers up: it is somebody else's, who goes on using it."""
    world = World({APP: issued(id_=id_), REVOKE: NOTHING})

    with pytest.raises(BadResponse, match="a lease of another path: does a cache stand in front of it") as caught:
        await world.issue()
    await world.engine.revoke("proposed")
    late = world.wire.sent[0].late

    assert world.wire.revoked == []
    assert not caught.value.outcome_unknown
    assert id_ not in str(caught.value)
    assert late is not None
    assert late(issued(id_=id_)) is None


@pytest.mark.parametrize(
    ("path", "id_"),
    [
        (APP, f"{APP}/x1.VOEksk"),
        (APP, f"team/{APP}/x1"),
        (f"team/{APP}", f"{APP}/x1.VOEksk"),
        (f"team/a/{APP}", f"{APP}/x1.VOEksk"),
    ],
)
async def test_a_namespace_may_stand_before_the_path_or_behind_the_id(path, id_):
    """OpenBao 2.6 with the namespace in the path, or in its header: the id ends in the namespace's own."""
    world = World({path: issued(id_=id_)}, role=Role(upstream="vault", path=path))

    assert (await world.issue()).id == id_


async def test_one_time_passwords_are_revoked_and_refused():
    world = World({APP: issued({"key_type": "otp", "key": "8b9e1a6e", "username": "u"}), REVOKE: NOTHING})

    with pytest.raises(Unfit, match="one-time SSH passwords"):
        await world.issue()

    assert [each.body for each in world.wire.to(REVOKE)] == [{"lease_id": ID, "sync": True}]


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\x00b", "a\x1b[31mb", "a\x85b", "a\u2028b"])
async def test_control_characters_are_refused_unless_the_role_allows_them(value):
    world = World({APP: issued(DATA | {"password": value}), REVOKE: NOTHING})

    with pytest.raises(Unfit, match="multiline = true") as caught:
        await world.issue()

    assert value not in str(caught.value)
    assert len(world.wire.to(REVOKE)) == 1


async def test_a_role_that_allows_them_gets_line_ends_and_no_nul():
    role = Role(upstream="vault", multiline=True)

    assert plain(await World({APP: issued(DATA | {"key": "a\nb"})}, role=role).issue())["key"] == "a\nb"
    with pytest.raises(Unfit):
        await World({APP: issued(DATA | {"key": "a\x00b"}), REVOKE: NOTHING}, role=role).issue()


@pytest.mark.parametrize("data", [{"a\nb": "c"}, {"": "c"}, {"n" * 300: "c"}, {f"f{i}": "c" for i in range(300)}])
async def test_fields_that_cannot_be_any_are_refused(data):
    world = World({APP: issued(data), REVOKE: NOTHING})

    with pytest.raises(BadResponse):
        await world.issue()

    assert len(world.wire.to(REVOKE)) == 1


async def test_what_could_not_be_revoked_when_it_was_refused_is_revoked_by_the_proposed_id():
    world = World({APP: issued(ttl=0), REVOKE: [Unavailable("down"), NOTHING]})

    with pytest.raises(BadResponse) as caught:
        await world.issue()
    await world.engine.revoke("proposed")

    assert caught.value.outcome_unknown
    assert [each.body for each in world.wire.to(REVOKE)] == [{"lease_id": ID, "sync": True}] * 2


async def test_an_issue_that_is_cancelled_while_it_is_undone_is_revoked_by_the_proposed_id():
    world = World({APP: issued(ttl=0), REVOKE: [asyncio.CancelledError(), NOTHING]})

    with pytest.raises(asyncio.CancelledError):
        await world.issue()
    await world.engine.revoke("proposed")

    assert world.wire.revoked == [ID, ID]


async def test_a_grant_that_its_caller_never_saw_is_revoked_by_the_proposed_id():
    """The caller's deadline may pass in the very moment in which the grant is there."""
    world = World({APP: issued(), REVOKE: NOTHING})
    await world.issue()

    await world.engine.revoke("proposed")

    assert world.wire.revoked == [ID]


async def test_an_issue_whose_answer_comes_too_late_is_revoked_with_the_same_token():
    world = World({APP: issued()})
    await world.issue()
    late = world.wire.sent[0].late
    assert late is not None

    request = late(issued())

    assert request == Request(
        method="POST", path=REVOKE, token=Secret("hvs.login"), body={"lease_id": ID, "sync": True}
    )
    assert late(good({"certificate": "x"})) is None
    assert late(issued(id_=["odd"])) is None


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (bad(400, "unknown role: app"), NotFound, "does not know that role"),
        (bad(404, 'no handler for route "database/creds/app". route entry not found.'), NotFound, "check the mount"),
        (bad(405, "1 error occurred:\n\t* unsupported operation\n\n"), Unfit, 'kind = "write"'),
        (bad(400, "Secret cannot be returned; token had one use left"), BadResponse, "audit log"),
    ],
)
async def test_a_refused_issue_says_what_to_look_at(answer, error, text):
    world = World({APP: answer})

    with pytest.raises(error, match=text) as caught:
        await world.issue()

    assert not any(said in str(caught.value) for said in answer.errors)


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (bad(400, "unknown role: none"), NotFound, "does not know that role"),
        (bad(400, "common name evil not allowed by this role"), Unfit, "parameters"),
        (bad(405, "1 error occurred:\n\t* unsupported operation\n\n"), Unfit, 'kind = "lease"'),
    ],
)
async def test_a_refused_write_says_what_to_look_at(answer, error, text):
    world = World({"pki/issue/r": answer}, role=WRITE)

    with pytest.raises(error, match=text):
        await world.issue()


async def test_without_a_login_nothing_is_sent():
    world = World({APP: issued()}, none=NotLoggedIn("vault: not logged in"))

    with pytest.raises(NotLoggedIn):
        await world.issue()

    assert world.wire.sent == []


async def test_less_than_asked_for_is_said_once_per_role():
    role = Role(upstream="vault", default_ttl=Duration(3600.0))
    world = World({APP: issued()}, role=role)

    with structlog.testing.capture_logs() as lines:
        await world.issue()
        await world.issue()

    assert [(line["event"], line["role"], line["ttl"]) for line in lines] == [("granted-less", APP, 60.0)]


async def test_what_was_asked_for_is_not_worth_a_line():
    world = World({APP: issued(ttl=3600)}, role=Role(upstream="vault", default_ttl=Duration(3600.0)))

    with structlog.testing.capture_logs() as lines:
        await world.issue()

    assert lines == []


async def test_a_role_that_its_connection_does_not_allow_is_told_from_a_database_that_is_down():
    fault = ServerFault("vault: the server failed (500)")
    fault.errors = ('1 error occurred:\n\t* "app" is not an allowed role\n\n',)
    down = ServerFault("vault: the server failed (500)")
    down.errors = ("1 error occurred:\n\t* connection refused\n\n",)

    with pytest.raises(NotFound, match="allowed_roles"):
        await World({APP: fault}).issue()
    with pytest.raises(Unavailable, match="failed"):
        await World({APP: down}).issue()
