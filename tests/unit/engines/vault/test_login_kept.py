"""VaultLogin over a scripted wire: tokens from files, renewals and ends."""

import pytest

from agent.errors import (
    BadResponse,
    Forbidden,
    LeaseGone,
    MaxTtlReached,
    NoIdentity,
    NotRenewable,
    Unavailable,
    UpstreamError,
)
from agent.identity.proof import Proof
from agent.leases.lease import Secret
from tests.unit.engines.vault.logins import FILE, LOGIN, LOOKED, RENEW_SELF, REVOKE_SELF, World, lease, logged_in, login
from tests.unit.engines.vault.scripted import (
    BAD_TOKEN,
    LOOKUP,
    NO_POLICY,
    NOTHING,
    bad,
    good,
)

# -- a token from a file ----------------------------------------------------------------------------------------------


async def test_a_token_from_a_file_is_looked_at_renewed_by_its_own_length_and_never_revoked():
    world = World({LOOKUP: good(LOOKED), RENEW_SELF: logged_in(lease_duration=3600)}, proof=FILE)

    grant = await world.issue()
    renewed = await world.engine.renew(lease(grant), 50.0)
    await world.engine.revoke(grant.id)

    assert (grant.id, grant.ttl, grant.renewable, grant.key) == ("proposed", 50.0, True, None)
    assert renewed.ttl == 3600.0
    assert [(each.call, each.token, each.body) for each in world.wire.sent] == [
        (f"GET {LOOKUP}", "hvs.file", None),
        (f"POST {RENEW_SELF}", "hvs.file", {}),
    ]


async def test_the_explicit_max_ttl_of_a_token_from_a_file_counts_from_its_making():
    looked = LOOKED | {"explicit_max_ttl": 100}

    assert (await World({LOOKUP: good(looked, server_time=1_800_000_030.0)}, proof=FILE).issue()).max_ttl == 70.0
    assert (await World({LOOKUP: good(looked)}, proof=FILE).issue()).max_ttl == 100.0


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (bad(403, *BAD_TOKEN), "does not know the token"),
        (good(LOOKED | {"ttl": 0}), "ending this second"),
        (good(LOOKED | {"ttl": 0, "expire_time": None}), "accept_endless_token"),
        (good(LOOKED | {"num_uses": 3}), "token_num_uses = 0"),
    ],
)
async def test_a_token_from_a_file_that_is_of_no_use_is_refused_and_left_alone(answer, text):
    world = World({LOOKUP: answer}, proof=FILE)

    with pytest.raises(NoIdentity, match=text):
        await world.issue()

    assert [each.call for each in world.wire.sent] == [f"GET {LOOKUP}"]


async def test_a_token_from_a_file_that_cannot_be_sent_is_not():
    world = World({LOOKUP: good(LOOKED)}, proof=Proof(token=Secret("a\nb")))

    with pytest.raises(NoIdentity, match="cannot be a token"):
        await world.issue()

    assert world.wire.sent == []


# -- keeping it -------------------------------------------------------------------------------------------------------


async def test_a_renewal_uses_the_logins_own_token_and_whole_seconds():
    world = World({RENEW_SELF: logged_in(lease_duration=55, renewable=False)})

    grant = await world.engine.renew(login(), 59.2)

    assert [(each.call, each.token, each.body) for each in world.wire.sent] == [
        (f"POST {RENEW_SELF}", "hvs.new", {"increment": 60})
    ]
    assert (grant.id, grant.ttl, grant.renewable, dict(grant.data)) == ("ILskTfMGB9lV", 55.0, False, {})


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad(400, "lease is not renewable"), NotRenewable),
        (bad(400, "batch tokens cannot be renewed"), NotRenewable),
        (bad(400, "failed to renew entry: err: past the max TTL, cannot renew"), MaxTtlReached),
        (logged_in(lease_duration=0), MaxTtlReached),
        (bad(400, "lease not found"), LeaseGone),
        (bad(403, "2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"), LeaseGone),
        (bad(400, "something new"), BadResponse),
        (good(None), BadResponse),
        (NOTHING, BadResponse),
    ],
)
async def test_what_a_renewals_answer_means(answer, error):
    with pytest.raises(UpstreamError) as caught:
        await World({RENEW_SELF: answer}).engine.renew(login(), 60.0)

    assert type(caught.value) is error


@pytest.mark.parametrize(
    ("look", "error"),
    [(bad(403, *BAD_TOKEN), LeaseGone), (bad(403, *NO_POLICY), Forbidden), (good(LOOKED), Forbidden)],
)
async def test_a_renewal_answered_403_asks_whether_the_login_is_known(look, error):
    with pytest.raises(error):
        await World({RENEW_SELF: bad(403, "permission denied"), LOOKUP: look}).engine.renew(login(), 60.0)


# -- ending it --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [NOTHING, good(None), bad(403, *BAD_TOKEN)], ids=["204", "200", "gone"])
async def test_a_revocation_uses_the_logins_own_token_once(answer):
    world = World({LOGIN: logged_in(), REVOKE_SELF: answer})
    grant = await world.issue()

    await world.engine.revoke(grant.id)
    await world.engine.revoke(grant.id)
    await world.engine.revoke("proposed")

    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new"]


async def test_a_login_that_was_taken_over_can_be_revoked():
    world = World({REVOKE_SELF: NOTHING})
    world.engine.remember("old", Secret("hvs.old"))

    await world.engine.revoke("old")
    await world.engine.revoke("unknown")

    assert [each.token for each in world.wire.sent] == ["hvs.old"]


@pytest.mark.parametrize(
    ("answer", "error"), [(bad(403, *NO_POLICY), Forbidden), (bad(400, "odd"), Unavailable), (bad(404), Unavailable)]
)
async def test_a_revocation_that_fails_says_so_and_is_tried_again(answer, error):
    world = World({LOGIN: logged_in(), REVOKE_SELF: [answer, NOTHING]})
    grant = await world.issue()

    with pytest.raises(error):
        await world.engine.revoke(grant.id)
    await world.engine.revoke(grant.id)

    assert len(world.wire.to(REVOKE_SELF)) == 2


async def test_one_login_is_revoked_and_the_next_lives_on():
    world = World({LOGIN: [logged_in(), logged_in(client_token="hvs.next", accessor="next")], REVOKE_SELF: NOTHING})
    first = await world.issue()
    second = await world.engine.issue("session:vault", "proposed-2")

    await world.engine.revoke(first.id)

    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new"]
    assert repr(world.engine) == "VaultLogin(vault, 1 logins)"
    await world.engine.revoke(second.id)
    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new", "hvs.next"]


async def test_a_ping_asks_for_the_servers_health_in_the_topmost_namespace():
    world = World({"sys/health": good(None)})

    await world.engine.ping()

    assert [(each.call, each.token, each.namespace) for each in world.wire.sent] == [("GET sys/health", None, "")]


async def test_a_ping_fails_where_the_server_does_not_say_how_it_is():
    with pytest.raises(BadResponse):
        await World({"sys/health": bad(400, "odd")}).engine.ping()
