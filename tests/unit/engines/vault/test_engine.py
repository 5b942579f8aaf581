"""VaultEngine over a scripted wire: refusals, renewals, revocations, and what is asked beside."""

import pytest

from agent.config.model import Duration, Role
from agent.engines.vault.answers import Answer
from agent.errors import (
    AuthExpired,
    BadResponse,
    Forbidden,
    LeaseGone,
    MaxTtlReached,
    NotRenewable,
    Unavailable,
    UpstreamError,
)
from tests.unit.engines.vault.scripted import (
    BAD_TOKEN,
    LOOKUP,
    NO_POLICY,
    NOTHING,
    RENEW,
    REVOKE,
    bad,
    good,
)
from tests.unit.engines.vault.worlds import APP, DATA, ID, WRITE, World, lease

# -- 403: the token, or the policy ------------------------------------------------------------------------------------


async def test_a_403_for_a_dead_token_is_told_to_the_logins():
    world = World({APP: bad(403, *BAD_TOKEN), LOOKUP: bad(403, *BAD_TOKEN)})

    with pytest.raises(AuthExpired):
        await world.issue()

    assert world.logins.bad == ["login-1"]
    assert world.logins.good == []
    assert [each.call for each in world.wire.sent] == [f"GET {APP}", f"GET {LOOKUP}"]


async def test_a_server_that_names_the_token_is_not_asked_again():
    world = World({APP: bad(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n")})

    with pytest.raises(AuthExpired):
        await world.issue()

    assert [each.call for each in world.wire.sent] == [f"GET {APP}"]


@pytest.mark.parametrize("look", [good({"ttl": 60}), bad(403, *NO_POLICY)], ids=["known", "may not look at itself"])
async def test_a_403_by_policy_names_path_and_capability_and_leads_to_no_login(look):
    world = World({APP: bad(403, *NO_POLICY), LOOKUP: look})

    with pytest.raises(Forbidden, match=f'path "{APP}" {{ capabilities = \\["read"\\] }}'):
        await world.issue()

    assert world.logins.bad == []


async def test_a_403_to_a_write_names_update():
    world = World({"pki/issue/r": bad(403, *NO_POLICY), LOOKUP: good({"ttl": 60})}, role=WRITE)

    with pytest.raises(Forbidden, match=r'"pki/issue/r" \{ capabilities = \["update"\]'):
        await world.issue()


async def test_a_403_that_cannot_be_told_is_neither():
    world = World({APP: bad(403, *BAD_TOKEN), LOOKUP: Unavailable("vault: no answer", unreachable=True)})

    with pytest.raises(Unavailable, match="could not be found out") as caught:
        await world.issue()

    assert caught.value.unreachable
    assert not caught.value.outcome_unknown
    assert world.logins.bad == []


# -- renew ------------------------------------------------------------------------------------------------------------


async def test_a_renewal_asks_for_whole_seconds_and_keeps_the_credential():
    world = World({RENEW: good(None, lease_id=ID, lease_duration=61, renewable=True)})

    grant = await world.engine.renew(lease(), 60.5)

    assert [(each.call, each.body, each.token) for each in world.wire.sent] == [
        (f"POST {RENEW}", {"lease_id": ID, "increment": 61}, "hvs.login")
    ]
    assert (grant.id, dict(grant.data), grant.ttl, grant.renewable, grant.parent) == (ID, {}, 61.0, True, "login-1")


async def test_a_renewal_asks_for_the_roles_own_length_where_it_has_one():
    world = World(
        {RENEW: good(None, lease_id=ID, lease_duration=7200, renewable=True)},
        role=Role(upstream="vault", default_ttl=Duration(7200.0)),
    )

    await world.engine.renew(lease(), 60.0)

    assert world.wire.sent[0].body == {"lease_id": ID, "increment": 7200}


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad(400, "lease not found"), LeaseGone),
        (bad(400, "lease expired"), LeaseGone),
        (bad(400, "lease is expired and has failed previous revocation attempts"), LeaseGone),
        (bad(400, "lease is not renewable"), NotRenewable),
        (bad(400, "past the max TTL, cannot renew"), MaxTtlReached),
        (good(None, lease_id=ID, lease_duration=0, renewable=True), MaxTtlReached),
        (bad(400, 'failed to renew entry: err: error during renew: could not find role with name "app"'), NotRenewable),
        (bad(400, f'failed to renew entry: ERROR: role "{DATA["username"]}" does not exist (42704)'), LeaseGone),
        (bad(400, 'failed to renew entry: ERROR: role "team" does not exist (42704)'), Unavailable),
        (bad(400, "failed to renew entry: dial tcp 127.0.0.1:5432: connect: connection refused"), Unavailable),
        (bad(400, "something new"), BadResponse),
        (bad(404), BadResponse),
        (NOTHING, BadResponse),
        (good(None, lease_id="other/1", lease_duration=60, renewable=True), BadResponse),
        (good(None, lease_id=ID, lease_duration=-5, renewable=True), BadResponse),
        (good(None, lease_id=ID, renewable=True, lease_duration="60"), BadResponse),
    ],
)
async def test_what_a_renewals_answer_means(answer, error):
    world = World({RENEW: answer})

    with pytest.raises(UpstreamError) as caught:
        await world.engine.renew(lease(), 60.0)

    assert type(caught.value) is error
    assert not any(secret in str(caught.value) for secret in (ID, *DATA.values(), *answer.errors))


async def test_a_lease_without_a_user_is_not_gone_for_the_lack_of_one():
    answer = bad(400, 'failed to renew entry: ERROR: role "" does not exist (42704)')

    with pytest.raises(Unavailable):
        await World({RENEW: answer}).engine.renew(lease(data={"access_key": "AKIA"}), 60.0)


async def test_a_renewal_forbidden_by_policy_names_the_path():
    world = World({RENEW: bad(403, *NO_POLICY), LOOKUP: good({"ttl": 60})})

    with pytest.raises(Forbidden, match=r'"sys/leases/renew" \{ capabilities = \["update"\]'):
        await world.engine.renew(lease(), 60.0)


# -- revoke -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [NOTHING, good(None), Answer(status=202, body={}), bad(400, "lease not found")])
async def test_a_revocation_waits_for_the_system_behind_and_forgives_what_is_gone(answer):
    """D-05."""
    world = World({REVOKE: answer})

    await world.engine.revoke(ID)

    assert [(each.call, each.body) for each in world.wire.sent] == [(f"POST {REVOKE}", {"lease_id": ID, "sync": True})]


@pytest.mark.parametrize(
    ("answer", "error"),
    [(bad(400, "failed to revoke entry: connection refused"), Unavailable), (bad(400, "odd"), BadResponse)],
)
async def test_a_revocation_that_fails_says_so(answer, error):
    world = World({REVOKE: answer})

    with pytest.raises(error):
        await world.engine.revoke(ID)


async def test_a_revocation_forbidden_by_policy_names_the_path():
    """D-06: what then helps is the end of our own login."""
    world = World({REVOKE: bad(403, *NO_POLICY), LOOKUP: good({"ttl": 60})})

    with pytest.raises(Forbidden, match=r'"sys/leases/revoke" \{ capabilities = \["update"\]'):
        await world.engine.revoke(ID)


async def test_an_id_that_the_server_never_heard_of_takes_no_call():
    world = World({REVOKE: NOTHING})

    await world.engine.revoke("5f0c7d5e-0000-4000-8000-000000000000")

    assert world.wire.sent == []


# -- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("look", [good({"ttl": 60}), bad(403, *NO_POLICY)], ids=["known", "may not look at itself"])
async def test_a_ping_returns_where_the_login_is_known(look):
    await World({LOOKUP: look}).engine.ping()


async def test_a_ping_fails_where_the_login_is_not_known():
    with pytest.raises(AuthExpired):
        await World({LOOKUP: bad(403, *BAD_TOKEN)}).engine.ping()


async def test_capabilities_are_told_by_path():
    answer = good({"a/b": ["read", "list"], "c": ["deny"], "odd": 5})
    world = World({"sys/capabilities-self": answer})

    assert await world.engine.capabilities(["a/b", "c", "odd", "missing"]) == {
        "a/b": ("read", "list"),
        "c": ("deny",),
        "odd": (),
        "missing": (),
    }
    assert world.wire.sent[0].body == {"paths": ["a/b", "c", "odd", "missing"]}


@pytest.mark.parametrize("answer", [good(None), bad(400, "odd"), NOTHING])
async def test_capabilities_that_are_not_told_are_an_error(answer):
    with pytest.raises(BadResponse):
        await World({"sys/capabilities-self": answer}).engine.capabilities(["a"])


async def test_closing_the_engine_closes_the_wire():
    world = World({})

    await world.engine.close()

    assert world.wire.closed
    assert repr(world.engine) == "VaultEngine(vault, https://v:8200, 1 roles)"
