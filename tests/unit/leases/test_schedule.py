import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.leases import schedule
from agent.leases.schedule import Issue, Policy, Release, Renew, Retired, RoleView, Wait, next_step
from tests.unit.leases.builders import grant, lease

POLICY = Policy()
ttls = st.floats(5, 86400 * 30)
units = st.floats(0, 1, exclude_max=True)


def test_an_unwanted_role_releases_its_lease() -> None:
    assert next_step(RoleView(current=lease(), wanted=False), POLICY, 1.0) == Release()


def test_an_unwanted_role_without_a_lease_waits() -> None:
    assert next_step(RoleView(wanted=False), POLICY, 1.0) == Wait(until=math.inf, then="issue")


def test_nothing_is_called_before_not_before() -> None:
    assert next_step(RoleView(not_before=5.0), POLICY, 1.0) == Wait(until=5.0, then="retry")


def test_a_role_without_a_lease_obtains_one() -> None:
    assert isinstance(next_step(RoleView(), POLICY, 1.0), Issue)


@pytest.mark.parametrize(("jitter", "at"), [(0.0, 40.2), (0.5, 37.2), (0.999999, 34.200006)])
def test_a_lease_is_renewed_at_two_thirds_less_its_jitter(jitter: float, at: float) -> None:
    """R003-013: 33 % remaining, up to a tenth earlier."""
    view = RoleView(current=lease(ttl=60, jitter=jitter))

    before, then = next_step(view, POLICY, at - 0.01), next_step(view, POLICY, at + 0.01)

    assert isinstance(before, Wait)
    assert before.until == pytest.approx(at)
    assert isinstance(then, Renew)


def test_a_critical_role_is_renewed_at_half() -> None:
    """R003-079: threshold 0.5 of 20 s: between 8 and 10 s."""
    view = RoleView(current=lease(ttl=20, jitter=0.999))

    step = next_step(view, Policy(threshold=0.5), 0.0)

    assert isinstance(step, Wait)
    assert 8 <= step.until <= 10


def test_a_lease_near_its_hard_end_is_replaced_with_the_overlap_in_hand() -> None:
    view = RoleView(current=lease(ttl=60, max_ttl=60))
    edge = 60 - 3 - 15

    assert not isinstance(next_step(view, POLICY, edge - 0.01), Issue)
    assert next_step(view, POLICY, edge) == Issue(publish_by=57.0)


@pytest.mark.parametrize(
    "view",
    [
        RoleView(current=lease(ttl=60, max_ttl=600), session_until=60.0),
        RoleView(current=lease(ttl=60, renewable=False)),
        RoleView(current=lease(ttl=60), failures=3),
    ],
    ids=["session ends", "not renewable", "renewing fails"],
)
def test_other_ends_count_like_the_max_ttl(view: RoleView) -> None:
    assert isinstance(next_step(view, POLICY, 42.1), Issue)


def test_our_own_ceiling_counts() -> None:
    """D-11: an upstream that renews for ever does not."""
    view = RoleView(current=lease(ttl=60, max_ttl=math.inf))

    assert isinstance(next_step(view, Policy(max_lifetime=60), 42.1), Issue)


def test_a_replacement_that_was_asked_for_comes_at_once() -> None:
    assert isinstance(next_step(RoleView(current=lease(), replace=True), POLICY, 1.0), Issue)


def test_a_replacement_that_fails_does_not_cost_the_lease_we_hold() -> None:
    view = RoleView(current=lease(ttl=60), replace=True, failures=2)

    assert isinstance(next_step(view, POLICY, 1.0), Issue)
    assert isinstance(next_step(view, POLICY, 40.5), Renew)


@given(ttl=ttls, jitter=units, overlap=st.none() | st.floats(0, 1e6), margin=st.none() | st.floats(0, 1e6))
def test_renewal_always_leaves_margin_and_overlap(
    ttl: float, jitter: float, overlap: float | None, margin: float | None
) -> None:
    policy = Policy(overlap=overlap, margin=margin)
    held = lease(ttl=ttl, jitter=jitter)

    at = schedule.renew_edge(held, policy)

    assert 0.19 * ttl <= at <= held.expires_at - policy.margin_of(held) - policy.overlap_of(held)
    assert policy.overlap_of(held) <= ttl / 2
    assert 0 <= policy.margin_of(held) <= ttl / 2


@given(
    ttl=ttls,
    max_ttl=st.floats(0.001, 1e7),
    session=st.floats(0, 1e7),
    now=st.floats(0, 1e7),
    failures=st.integers(0, 1000),
    wanted=st.booleans(),
    replace=st.booleans(),
    renewable=st.booleans(),
    not_before=st.floats(0, 1e7),
)
def test_every_view_has_a_step_and_every_wait_moves_on(
    ttl, max_ttl, session, now, failures, wanted, replace, renewable, not_before
) -> None:
    view = RoleView(
        current=lease(ttl=ttl, max_ttl=max_ttl, renewable=renewable),
        session_until=session,
        failures=failures,
        wanted=wanted,
        replace=replace,
        not_before=not_before,
    )

    step = next_step(view, POLICY, now)

    if isinstance(step, Wait):
        assert step.until > now
    if isinstance(step, Issue) and not replace:
        # Of the life, that is, which the login leaves it: a lease ends with its login (design.md section 3).
        life = min(ttl, session)
        assert now >= 0.19 * life, "an issue for the sake of the schedule comes no sooner than a fifth of the lease"


def test_a_lease_is_replaced_with_overlap_before_the_login_it_hangs_on_ends() -> None:
    """However long it could live by itself (D-01)."""
    view = RoleView(current=lease(ttl=3600), session_until=2000.0)
    overlap, margin = POLICY.overlap_of(lease(ttl=3600)), POLICY.margin_of(lease(ttl=3600))

    assert schedule.issue_edge(view, POLICY) == pytest.approx(2000.0 - overlap - margin)


def test_a_login_about_to_end_leaves_no_time_to_lose() -> None:
    view = RoleView(current=lease(ttl=3600), session_until=150.0)

    assert schedule.issue_edge(view, POLICY) == pytest.approx(30.0), "a fifth of what it has left to live"


@given(failures=st.integers(1, 10**6), u=units, slow=st.booleans())
def test_every_backoff_keeps_floor_and_cap(failures: int, u: float, slow: bool) -> None:
    """A delay that is computed and then not slept is the worst bug of the incumbents; this is the computing half."""
    delay = schedule.backoff(failures, u, slow=slow)

    assert 0.5 <= delay <= 60


@pytest.mark.parametrize(("failures", "top"), [(1, 1), (2, 2), (3, 4), (4, 8), (5, 16), (6, 32), (7, 60), (8, 60)])
def test_backoff_doubles_from_one_second_to_sixty(failures: int, top: float) -> None:
    """R003-058."""
    assert schedule.backoff(failures, 0.0) == max(0.5, top / 2)
    assert schedule.backoff(failures, 1.0) == top


def test_a_backoff_never_sleeps_over_the_issue_edge() -> None:
    view = RoleView(current=lease(ttl=60), failures=5)

    assert schedule.retry_at(view, POLICY, 40.0, 30.0) == pytest.approx(42.0)


def test_retry_after_is_a_lower_bound_beyond_the_cap() -> None:
    assert schedule.retry_at(RoleView(), POLICY, 0.0, 1.0, retry_after=300.0) == 300.0


def test_retry_after_leaves_one_try_before_the_end() -> None:
    view = RoleView(current=lease(ttl=60), failures=1)

    assert schedule.retry_at(view, POLICY, 40.0, 1.0, retry_after=300.0) == pytest.approx(60 - 3 - 7.5)


@given(
    ttl=ttls,
    now=st.floats(0, 1e6),
    delay=st.floats(0.5, 60),
    after=st.floats(0, 1e5),
    failures=st.integers(1, 100),
)
def test_every_retry_is_at_least_the_floor_away(ttl, now, delay, after, failures) -> None:
    view = RoleView(current=lease(ttl=ttl), failures=failures)

    at = schedule.retry_at(view, POLICY, now, delay, after)

    assert at >= now + 0.5
    assert at <= now + max(60.0, after)


@given(st.lists(st.integers(0, 600).map(float), max_size=30), st.integers(1, 10))
def test_the_window_admits_no_more_than_its_budget(times: list[float], budget: int) -> None:
    """However failures and successes alternate: each attempt waits for the window, and every one fails."""
    failed: list[float] = []
    for at in sorted(times):
        failed.append(schedule.within_budget(failed, max(at, failed[-1] if failed else 0.0), budget))

    for end in failed:
        assert sum(1 for at in failed if end - 60 < at <= end) <= budget


@given(ttl=ttls, given_ttl=st.floats(0.001, 86400 * 31))
def test_a_renewal_is_short_only_beyond_rounding(ttl: float, given_ttl: float) -> None:
    held = lease(ttl=ttl)

    if schedule.shortened(held, grant(ttl=given_ttl)):
        assert given_ttl < ttl
    else:
        assert given_ttl >= ttl - 2.0


@given(ttl=ttls, cut=st.floats(0, 1), took=st.floats(0, 10))
def test_rounding_never_takes_back_what_readers_were_told(ttl: float, cut: float, took: float) -> None:
    held = lease(ttl=ttl)

    renewed = held.renewed(grant(ttl=max(0.1, ttl - cut - took)), granted_at=0.0, answered_at=took, jitter=0.0)

    assert renewed.expires_at >= held.expires_at


def test_an_end_that_is_truly_earlier_is_believed() -> None:
    renewed = lease(ttl=60).renewed(grant(ttl=20), granted_at=1.0, answered_at=1.5, jitter=0.0)

    assert renewed.expires_at == 21.0


def test_unseen_leases_are_revoked_before_drained_ones() -> None:
    drained = Retired(lease_id="a", revoke_at=1.0, ends_at=9.0, published=True)
    doomed = Retired(lease_id="b", revoke_at=2.0, ends_at=9.0, published=False)
    later = Retired(lease_id="c", revoke_at=5.0, ends_at=9.0, published=True)
    view = RoleView(draining=(drained, doomed, later))

    assert schedule.due_revocations(view, 3.0) == (doomed, drained)


def test_revocations_keep_their_backoff() -> None:
    doomed = Retired(lease_id="b", revoke_at=2.0, ends_at=9.0, published=False)

    assert schedule.due_revocations(RoleView(draining=(doomed,), revoke_not_before=4.0), 3.0) == ()


@given(ttl=ttls, now=st.floats(0, 1e6), publish_by=st.floats(-1, 1e6))
def test_verification_ends_in_time_to_publish(ttl: float, now: float, publish_by: float) -> None:
    fresh = lease(ttl=ttl, at=now)
    assume(publish_by > now)

    until = schedule.verify_until(RoleView(current=lease(ttl=ttl)), POLICY, now, fresh, publish_by)

    assert now < until <= publish_by
