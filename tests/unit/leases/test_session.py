"""The login as a lease of its own: what hangs on it, what becomes of that, and how often is logged in."""

import math

import pytest
import structlog.testing

from agent.errors import AuthExpired, Forbidden, NoIdentity, NotLoggedIn, Unavailable
from agent.log import Event
from tests.unit.leases.sessions import ROLES, Anything, Scene


async def test_a_login_comes_before_the_first_lease_and_once_for_all() -> None:
    async with Scene().running() as scene:
        assert scene.login.count("issue") == 1
        assert scene.vault.count("issue") == len(ROLES)
        assert all(scene.cache.read(role, scene.clock.now()) for role in ROLES)


async def test_leases_are_replaced_before_their_login_reaches_its_end() -> None:
    """D-01: a lease dies with the token that made it, however recently it was renewed."""
    async with Scene(token_ttl=45, token_max=150, lease_ttl=20).running() as scene:
        wrong = await scene.live_through(900)

        assert wrong == []
        assert 6 <= scene.login.count("issue") <= 10, "a login per max TTL less its overlap"


async def test_a_lease_longer_than_its_login_says_what_its_login_leaves_it() -> None:
    """Promise 1: what is told is what it lives."""
    async with Scene(token_ttl=60, lease_ttl=3600).running() as scene:
        first = scene.cache.read(ROLES[0], scene.clock.now())
        assert first is not None
        assert first.remaining(scene.clock.now()) == pytest.approx(60)

        wrong = await scene.live_through(600)
        found = scene.cache.read(ROLES[0], scene.clock.now())

        assert wrong == []
        assert found is not None
        assert found.lease.id == first.lease.id, "the login was renewed, and the lease lived on"
        assert found.remaining(scene.clock.now()) <= 60


async def test_what_is_told_of_the_end_never_falls() -> None:
    async with Scene(token_ttl=45, token_max=150, lease_ttl=20).running() as scene:
        told: dict[tuple[str, int], float] = {}
        for _ in range(1200):
            await scene.clock.advance(0.25)
            for role in ROLES:
                found = scene.cache.read(role, scene.clock.now())
                assert found is not None
                key = (role, found.generation)
                assert found.lease.expires_at >= told.get(key, -math.inf)
                told[key] = found.lease.expires_at


async def test_an_old_login_is_revoked_once_nothing_hangs_on_it_any_more() -> None:
    async with Scene(token_ttl=600, lease_ttl=60).running() as scene:
        (first,) = scene.login.live
        scene.session.renewer.replace()
        await scene.clock.advance(1)
        assert len(scene.login.live) == 2, "its leases live on"

        for renewer in scene.roles.values():
            renewer.replace(revoke_after=5.0)
        await scene.clock.advance(40)

        assert first not in scene.login.live
        assert first in scene.login.revoked
        assert all(parent != first for parent in (scene.vault.parent[each] for each in scene.vault.live))


async def test_a_new_login_takes_no_lease_away() -> None:
    """Promise 6."""
    async with Scene(token_ttl=600, lease_ttl=60).running() as scene:
        before = {role: scene.cache.read(role, scene.clock.now()) for role in ROLES}
        scene.session.renewer.replace()

        wrong = await scene.live_through(100)
        after = {role: scene.cache.read(role, scene.clock.now()) for role in ROLES}

        assert wrong == []
        assert [each and each.lease.id for each in before.values()] == [
            each and each.lease.id for each in after.values()
        ]


async def test_a_login_that_was_revoked_leads_to_one_new_login_and_new_leases() -> None:
    async with Scene(lease_ttl=60).running() as scene:
        await scene.clock.advance(30)
        (first,) = scene.login.live
        scene.login.revoked[first] = scene.clock.now()

        await scene.clock.advance(30)

        assert scene.login.count("issue") == 2, "exactly one"
        assert scene.vault.count("issue") == 2 * len(ROLES)
        for role in ROLES:
            found = scene.cache.read(role, scene.clock.now())
            assert found is not None
            assert found.lease.id in scene.vault.live


async def test_a_refusal_right_after_a_login_is_a_lagging_standby() -> None:
    scene = Scene()
    scene.login.on_login = scene.vault.unknown.add

    async with scene.running():
        await scene.clock.advance(3)
        assert scene.cache.read(ROLES[0], scene.clock.now()) is None, "nobody knows the login yet"
        scene.vault.unknown.clear()
        await scene.clock.advance(5)

        assert scene.login.count("issue") == 1
        assert all(scene.cache.read(role, scene.clock.now()) for role in ROLES)


async def test_logins_that_are_never_accepted_are_made_ever_more_rarely() -> None:
    """A server that hands out tokens and knows none of them draws no storm (promise 7)."""
    scene = Scene()
    scene.vault.unknown = Anything()

    async with scene.running():
        await scene.clock.advance(600)

    at = [when for when, operation, _ in scene.login.calls if operation == "issue"]
    assert len(at) <= 16
    assert all(len([each for each in at if begin <= each < begin + 60]) <= 5 for begin in at)


async def test_roles_wait_for_the_login_and_make_no_call_without_it() -> None:
    failing = [True]

    def script(operation: str, n: int) -> Exception | float | None:
        return NoIdentity("/var/run/token: no such file") if failing[0] and operation == "issue" else None

    async with Scene(login_script=script).running() as scene:
        await scene.clock.advance(120)

        assert scene.vault.calls == []
        error = scene.cache.status(ROLES[0]).error
        assert "not logged in" in error
        assert "/var/run/token" in error

        failing.clear()
        failing.append(False)
        scene.identity.touched.set()
        await scene.clock.advance(1)

        assert all(scene.cache.read(role, scene.clock.now()) for role in ROLES), (
            "at once, without waiting for a backoff"
        )


async def test_roles_without_a_login_leave_the_telling_to_the_session_and_still_call_for_help() -> None:
    """A failing login with twenty roles is one line per attempt, not twenty-one."""

    def script(operation: str, n: int) -> Exception | float | None:
        return NoIdentity("/var/run/token: no such file") if operation == "issue" else None

    with structlog.testing.capture_logs() as lines:
        async with Scene(login_script=script).running() as scene:
            await scene.clock.advance(300)

    told = [line for line in lines if line["event"] == Event.ISSUE_FAILED and line["log_level"] != "debug"]
    assert {line["role"] for line in told} == {scene.session.key}
    assert sorted(scene.failed) == sorted(ROLES), "once each"
    assert {line["role"] for line in lines if line["event"] == Event.ROLE_FAILED} == {scene.session.key, *ROLES}


async def test_what_cannot_be_revoked_for_lack_of_a_login_is_told_by_the_session_alone() -> None:
    failing = [False]

    def script(operation: str, n: int) -> Exception | float | None:
        return NoIdentity("/var/run/token: no such file") if failing[0] and operation == "issue" else None

    with structlog.testing.capture_logs() as lines:
        async with Scene(login_script=script).running() as scene:
            await scene.clock.advance(30)
            failing[0] = True
            scene.login.revoked[scene.login.live[0]] = scene.clock.now()
            await scene.clock.advance(120)

    waiting = [line for line in lines if line["event"] == Event.REVOKE_FAILED and line["role"] in ROLES]
    assert waiting, "the dead leases are still to be revoked"
    assert {line["log_level"] for line in waiting} == {"debug"}


async def test_a_changed_proof_renews_a_login_that_is_bound_to_it() -> None:
    async with Scene(binding=True).running() as scene:
        scene.identity.touched.set()
        await scene.clock.advance(2)

        assert scene.login.count("issue") == 2


async def test_a_changed_proof_leaves_a_login_alone_that_is_not_bound_to_it() -> None:
    """A kubelet rotates the projected token every hour; the login made with the old one goes on."""
    async with Scene(binding=False).running() as scene:
        scene.identity.touched.set()
        await scene.clock.advance(10)

        assert scene.login.count("issue") == 1


async def test_while_the_upstream_is_away_credentials_are_served_until_they_or_their_login_end() -> None:
    away = [False]

    def script(operation: str, n: int) -> Exception | float | None:
        return Unavailable("refused", unreachable=True) if away[0] else None

    async with Scene(token_ttl=100, lease_ttl=3600, login_script=script, script=script).running() as scene:
        away[0] = True
        served_until = 0.0
        for _ in range(200):
            await scene.clock.advance(1)
            if scene.cache.read(ROLES[0], scene.clock.now()) is not None:
                served_until = scene.clock.now()
                assert scene.vault.live, "never a dead one"

        assert served_until == pytest.approx(1000 + 100 - 10, abs=6), "to the login's end, less the margin"
        away[0] = False
        await scene.clock.advance(61)
        assert scene.cache.read(ROLES[0], scene.clock.now()) is not None


async def test_at_the_stop_logins_end_and_whatever_hung_on_them_is_named() -> None:
    async with Scene().running() as scene:
        logins = set(scene.login.live)

    left, ended = await scene.session.close(5.0)

    assert left == []
    assert ended == logins
    assert scene.login.live == []


async def test_a_login_that_cannot_be_revoked_takes_nothing_with_it() -> None:
    """A batch token: whatever was leased with it has to be revoked by itself, or is left and named."""
    scene = Scene()
    scene.login.keyed = False
    async with scene.running():
        pass

    left, ended = await scene.session.close(5.0)

    assert (left, ended) == ([], frozenset())


async def test_a_token_is_only_handed_out_while_there_is_one() -> None:
    scene = Scene()
    with pytest.raises(NotLoggedIn, match="under way"):
        scene.session.token()

    async with scene.running():
        assert scene.session.token().secret.reveal().startswith("token of")
        assert isinstance(scene.session.refused("another"), AuthExpired)
        assert scene.login.count("issue") == 1


async def test_leases_that_we_may_not_revoke_are_left_to_their_end_and_then_forgotten() -> None:
    """The default policy lets nobody revoke a lease (D-06): no storm of refusals, and no list that grows for ever."""

    def script(operation: str, n: int) -> Exception | float | None:
        return Forbidden("vault: needs update on sys/leases/revoke") if operation == "revoke" else None

    async with Scene(lease_ttl=60, script=script).running() as scene:
        for _ in range(40):
            for renewer in scene.roles.values():
                renewer.replace(revoke_after=1.0)
            await scene.clock.advance(60)

        assert all(len(renewer.held()) <= 4 for renewer in scene.roles.values())
        assert scene.vault.count("revoke") <= 2 * 2 * 40, "each was tried when due, and once more at its end"


async def test_at_the_stop_a_forbidden_revocation_is_not_insisted_on() -> None:
    def script(operation: str, n: int) -> Exception | float | None:
        return Forbidden("vault: needs update on sys/leases/revoke") if operation == "revoke" else None

    async with Scene(script=script).running() as scene:
        pass

    left = [line for renewer in scene.roles.values() for line in await renewer.close(5.0)]

    assert len(left) == len(ROLES)
    assert scene.vault.count("revoke") == len(ROLES)
