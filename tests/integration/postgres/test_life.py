"""A lease from issue to revocation, on a real server."""

import asyncio
import re
import time

import psycopg
import pytest

from agent.config.model import Duration
from agent.errors import Forbidden, LeaseGone, MaxTtlReached, NotFound
from agent.failpoints import Failpoint, armed
from tests.integration.postgres.site import NEWEST, ROLE, Site, eventually, fresh, lease, username


async def test_a_new_user_logs_in_reads_and_may_do_no_more(any_site: Site):
    """R000-004."""
    grant = await any_site.engine().issue(ROLE, fresh())

    with any_site.log_in(grant) as session:
        assert session.execute("SELECT note FROM reports").fetchall() == [("first",)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("INSERT INTO reports (note) VALUES ('x')")


async def test_the_grant_says_what_the_server_keeps(site: Site):
    """R001-012, R003-009, R003-068."""
    engine = site.engine({ROLE: site.role(default_ttl=Duration(90.7), max_ttl=Duration(300))})
    proposed = fresh()

    before = time.time()
    grant = await engine.issue(ROLE, proposed)

    (row,) = await engine.list()
    ((ends, *attributes),) = site.database.execute(
        "SELECT extract(epoch FROM rolvaliduntil)::float8, rolsuper, rolcreaterole, rolcreatedb, rolreplication,"
        " rolbypassrls FROM pg_roles WHERE rolname = %s",
        username(grant),
    )
    assert (grant.id, grant.ttl, grant.max_ttl, grant.renewable) == (proposed, 90.0, 300.0, True)
    assert re.fullmatch(r"v_app_readonly_[a-z0-9]{8,}", username(grant))
    assert len(grant.data["password"].reveal()) == 32
    assert attributes == [False] * 5
    assert before + 90 <= ends < time.time() + 91.1
    assert ends == int(ends)
    assert (row.id, row.role, row.username, row.expires) == (proposed, ROLE, username(grant), ends)
    assert (row.holder, row.incarnation, row.requested_ttl, row.granted_ttl) == ("pod", 1, 90.7, 90.0)
    assert row.revoked_at is None
    assert before + 300 <= row.max_expires < time.time() + 301.1


@NEWEST
async def test_the_journal_is_nobody_else_s_and_holds_no_password(site: Site):
    grant = await site.engine().issue(ROLE, fresh())

    rows = site.database.execute("SELECT row_to_json(l)::text FROM leasehold.lease l")
    with site.log_in(grant) as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
        session.execute("SELECT * FROM leasehold.lease")

    assert grant.data["password"].reveal() not in str(rows)
    assert "SCRAM" not in str(rows)


async def test_an_application_s_session_begins_as_its_group(site: Site):
    grant = await site.engine().issue(ROLE, fresh())

    with site.log_in(grant) as session:
        found = session.execute("SELECT current_user, session_user").fetchone()

    assert found == (site.database.group, username(grant))


@NEWEST
async def test_names_and_passwords_follow_the_configured_style(site: Site):
    engine = site.engine(
        {ROLE: site.role(password_alphabet="base64", password_bits=256)}, username_style="shub", username_prefix="app7"
    )

    grant = await engine.issue(ROLE, fresh())

    assert re.fullmatch(r"app7_app_readonly_[a-z2-7]{8}_[0-9]{10}", username(grant))
    assert abs(int(username(grant)[-10:]) - time.time()) < 3
    assert len(grant.data["password"].reveal()) == 43
    site.log_in(grant).close()


async def test_after_its_end_a_user_may_log_in_no_more(site: Site):
    grant = await site.engine({ROLE: site.role(default_ttl=Duration(1))}).issue(ROLE, fresh())
    site.log_in(grant).close()

    def refused() -> bool:
        try:
            site.log_in(grant).close()
        except psycopg.OperationalError:
            return True
        return False

    assert await eventually(refused, within=3.0)


async def test_a_renewal_moves_the_end_and_keeps_the_credential(any_site: Site):
    """R003-038: a new login works after the first end."""
    engine = any_site.engine({ROLE: any_site.role(default_ttl=Duration(1))})
    grant = await engine.issue(ROLE, fresh())
    (before,) = await engine.list()

    renewed = await engine.renew(lease(grant), 30.0)

    (after,) = await engine.list()
    ((ends,),) = any_site.database.execute(
        "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s", username(grant)
    )
    assert (renewed.id, renewed.ttl, dict(renewed.data)) == (grant.id, 30.0, {})
    assert after.expires == ends >= before.expires + 28
    assert after.max_expires == before.max_expires
    await asyncio.sleep(max(0.0, before.expires - time.time()) + 0.05)
    any_site.log_in(grant).close()


async def test_a_renewal_never_brings_the_end_forward(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    (before,) = await engine.list()

    renewed = await engine.renew(lease(grant), 5.0)

    (after,) = await engine.list()
    assert after.expires == before.expires
    assert 58 <= renewed.ttl <= 60


async def test_what_a_clock_that_was_set_back_adds_is_not_granted(site: Site):
    """The end stays an hour away by the server's clock; once that is corrected, it would come an hour early."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute("UPDATE leasehold.lease SET expires = expires + interval '1 h'")

    renewed = await engine.renew(lease(grant), 60.0)

    assert renewed.ttl == 60.0


async def test_renewals_end_at_the_longest_life(site: Site):
    engine = site.engine({ROLE: site.role(default_ttl=Duration(60), max_ttl=Duration(90))})
    grant = await engine.issue(ROLE, fresh())
    (row,) = await engine.list()

    renewed = await engine.renew(lease(grant), 2000.0)
    (after,) = await engine.list()
    site.database.execute("UPDATE leasehold.lease SET max_expires = clock_timestamp() + interval '0.9 s'")

    assert 89.0 <= renewed.ttl <= 90.0
    assert after.expires == row.max_expires
    with pytest.raises(MaxTtlReached):
        await engine.renew(lease(grant), 60.0)


async def test_a_renewal_of_what_has_ended_says_that_it_is_gone(site: Site):
    engine = site.engine()
    expired, revoked, dropped, unknown = [await engine.issue(ROLE, fresh()) for _ in range(4)]
    site.expire(expired)
    await engine.revoke(revoked.id)
    site.database.execute(f'DROP ROLE "{username(dropped)}"')
    site.database.execute("DELETE FROM leasehold.lease WHERE id = %s", unknown.id)

    for grant in (expired, revoked, dropped, unknown):
        with pytest.raises(LeaseGone):
            await engine.renew(lease(grant), 60.0)


async def test_a_revoked_user_is_gone_with_its_sessions(any_site: Site):
    """R000-020, R003-040."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = any_site.log_in(grant)

    await engine.revoke(grant.id)
    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    (row,) = await engine.list(live_only=False)
    assert row.revoked_at is not None
    assert await engine.list() == []


async def test_an_id_that_was_revoked_first_is_never_issued(site: Site):
    engine = site.engine()
    proposed = fresh()
    await engine.revoke(proposed)

    with pytest.raises(LeaseGone, match="revoked before it was issued"):
        await engine.issue(ROLE, proposed)

    assert site.users() == set()
    assert await engine.list(live_only=False) == []


@NEWEST
async def test_an_id_is_issued_once(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())

    with pytest.raises(LeaseGone):
        await engine.issue(ROLE, grant.id)

    site.log_in(grant).close()


@NEWEST
async def test_an_unknown_role_is_not_found(site: Site):
    with pytest.raises(NotFound, match="role nobody is not configured"):
        await site.engine().issue("nobody", fresh())


@NEWEST
async def test_an_id_that_is_no_uuid_is_a_bug(site: Site):
    with pytest.raises(ValueError, match="UUID"):
        await site.engine().issue(ROLE, "1; DROP TABLE x")


@NEWEST
async def test_the_journal_can_be_read_by_role(site: Site):
    engine = site.engine({ROLE: site.role(), "other": site.role()})
    first = await engine.issue(ROLE, fresh())
    second = await engine.issue("other", fresh())
    await engine.revoke(first.id)

    assert [row.id for row in await engine.list(role="other")] == [second.id]
    assert [row.id for row in await engine.list(role=ROLE)] == []
    assert [row.id for row in await engine.list(role=ROLE, live_only=False)] == [first.id]
    assert first.id not in repr(await engine.list(live_only=False))
    assert username(second) not in repr(await engine.list())


@pytest.mark.parametrize("point", [Failpoint.ISSUE_INSERTED, Failpoint.ISSUE_CREATED])
async def test_an_issue_that_dies_before_its_commit_leaves_nothing(site: Site, point):
    """R001-015."""
    engine = site.engine()
    await engine.ping()

    def die() -> None:
        raise KeyboardInterrupt

    with armed(point, die), pytest.raises(KeyboardInterrupt):
        await engine.issue(ROLE, fresh())

    assert site.users() == set()
    assert site.rows() == 0
    await engine.issue(ROLE, fresh())


async def test_a_renewal_that_dies_before_its_commit_changes_nothing(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    (before,) = await engine.list()

    def die() -> None:
        raise KeyboardInterrupt

    with armed(Failpoint.RENEW_LOCKED, die), pytest.raises(KeyboardInterrupt):
        await engine.renew(lease(grant), 300.0)

    assert await engine.list() == [before]


# -- whose lease it is


@NEWEST
async def test_a_later_incarnation_of_the_holder_takes_over(site: Site):
    grant = await site.engine(incarnation=1).issue(ROLE, fresh())
    heir = site.engine(incarnation=2)

    await heir.renew(lease(grant), 100.0)
    await heir.revoke(grant.id)

    assert not site.exists(grant)


@pytest.mark.parametrize(("holder", "incarnation"), [("another", 9), ("pod", 4)])
@NEWEST
async def test_nobody_else_touches_a_lease_before_its_end(site: Site, holder, incarnation):
    grant = await site.engine(incarnation=5).issue(ROLE, fresh())
    other = site.engine(holder=holder, incarnation=incarnation)

    with pytest.raises(Forbidden, match="minted by another agent"):
        await other.renew(lease(grant), 100.0)
    with pytest.raises(Forbidden, match="minted by another agent"):
        await other.revoke(grant.id)

    site.log_in(grant).close()


@NEWEST
async def test_anyone_may_end_what_has_expired(site: Site):
    grant = await site.engine(incarnation=5).issue(ROLE, fresh())
    site.expire(grant)

    await site.engine(holder="another").revoke(grant.id)

    assert not site.exists(grant)
