"""plan: the decision's table, row by row, and what holds for any view."""

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from agent.files.plan import Remove, Render, View, Wait, next_step
from agent.leases.cache import Snapshot
from tests.unit.files.builders import OTHER, ROLE, lease

NOW = 100.0


def snapshot(*, generation: int = 1, request_id: str = "a", ends: float = 160.0, margin: float = 3.0) -> Snapshot:
    return Snapshot(
        role=ROLE,
        lease=lease({}, ttl=ends, now=0.0),
        generation=generation,
        request_id=request_id,
        until=ends - margin,
        expires_wall=0.0,
        verified=True,
    )


SERVED = snapshot()
WRITTEN = View(
    roles=(ROLE,),
    published={ROLE: SERVED},
    shown={ROLE: SERVED},
    rendered={},
    look_at=150.0,
    good_until=math.inf,
    not_before=-math.inf,
    remove_after=-math.inf,
)
RENDER, REMOVE = Render(snapshots={ROLE: SERVED}), Remove()


def test_a_written_file_waits_for_its_next_look() -> None:
    assert next_step(WRITTEN, NOW) == Wait(until=150.0)


def test_a_file_without_anything_of_this_run_is_rendered() -> None:
    assert next_step(replace(WRITTEN, shown=None), NOW) == RENDER


def test_a_file_that_waits_for_one_of_its_roles_waits_for_the_cache() -> None:
    assert next_step(replace(WRITTEN, shown=None, roles=(ROLE, OTHER)), NOW) == Wait(until=math.inf)


def test_a_replaced_credential_is_rendered() -> None:
    assert next_step(replace(WRITTEN, shown={ROLE: snapshot(generation=0)}), NOW) == RENDER


def test_a_renewal_is_rendered_only_where_it_shows() -> None:
    assert next_step(replace(WRITTEN, rendered={ROLE: "before"}), NOW) == RENDER
    assert next_step(replace(WRITTEN, rendered={ROLE: "a"}), NOW) == Wait(until=150.0)
    assert next_step(replace(WRITTEN, rendered={}), NOW) == Wait(until=150.0)


def test_a_file_is_looked_at_again_when_due() -> None:
    assert next_step(WRITTEN, 150.0) == RENDER


def test_within_the_margin_nothing_is_rendered_and_the_file_stays_to_its_end() -> None:
    assert next_step(WRITTEN, 157.0) == Wait(until=160.0)
    assert next_step(WRITTEN, 160.0) == REMOVE


def test_a_withdrawn_credential_goes_at_once() -> None:
    assert next_step(replace(WRITTEN, published={}), NOW) == REMOVE


def test_one_withdrawn_role_of_two_takes_the_file_with_it() -> None:
    two = replace(WRITTEN, roles=(ROLE, OTHER), shown={ROLE: SERVED, OTHER: SERVED})

    assert next_step(two, NOW) == REMOVE


def test_while_rendering_fails_the_old_credential_stays_to_its_own_end() -> None:
    failing = replace(WRITTEN, shown={ROLE: snapshot(generation=0, ends=120.0)}, not_before=130.0)

    assert next_step(failing, NOW) == Wait(until=120.0)
    assert next_step(failing, 120.0) == REMOVE
    assert next_step(replace(failing, shown=None), 125.0) == Wait(until=130.0)
    assert next_step(failing, 130.0) == RENDER


def test_a_removal_that_failed_waits_before_it_is_tried_again() -> None:
    stuck = replace(WRITTEN, published={}, remove_after=110.0)

    assert next_step(stuck, NOW) == Wait(until=110.0)
    assert next_step(stuck, 110.0) == REMOVE


def test_a_template_without_roles_is_rendered_when_due_and_never_removed() -> None:
    static = replace(WRITTEN, roles=(), published={}, shown={})

    assert next_step(static, NOW) == Wait(until=150.0)
    assert next_step(static, 150.0) == Render(snapshots={})


def test_a_file_that_is_of_no_use_any_more_is_written_anew_or_removed() -> None:
    spent = replace(WRITTEN, look_at=50.0, good_until=90.0)

    assert next_step(spent, NOW) == RENDER
    assert next_step(replace(spent, not_before=120.0), NOW) == REMOVE
    assert next_step(replace(spent, good_until=110.0, not_before=120.0), NOW) == Wait(until=110.0)


instants = st.floats(0, 300) | st.just(-math.inf)
snapshots = st.builds(
    snapshot,
    generation=st.integers(0, 2),
    request_id=st.sampled_from("ab"),
    ends=st.floats(10, 300),
    margin=st.floats(1, 10),
)


@st.composite
def views(draw: st.DrawFn) -> View:
    roles = draw(st.sampled_from([(ROLE,), (ROLE, OTHER)]))
    whole = st.fixed_dictionaries(dict.fromkeys(roles, snapshots))
    return View(
        roles=roles,
        published=draw(st.dictionaries(st.sampled_from(roles), snapshots)),
        shown=draw(st.none() | whole),
        rendered=draw(st.just({}) | st.fixed_dictionaries(dict.fromkeys(roles, st.sampled_from("ab")))),
        look_at=draw(instants),
        good_until=draw(st.just(math.inf) | st.floats(0, 300)),
        not_before=draw(instants),
        remove_after=draw(instants),
    )


@given(view=views(), now=st.floats(0, 300))
def test_whatever_the_view_the_step_makes_sense(view: View, now: float) -> None:
    step = next_step(view, now)

    gone = bool(view.shown) and (
        view.good_until <= now
        or any(role not in view.published or old.lease.expires_at <= now for role, old in (view.shown or {}).items())
    )
    match step:
        case Render(snapshots=chosen):
            assert set(chosen) == set(view.roles)
            assert all(now < one.until for one in chosen.values())
            assert now >= view.not_before
        case Remove():
            assert gone
            assert now >= view.remove_after
        case Wait(until=until):
            assert until > now
            assert not gone or now < view.remove_after
