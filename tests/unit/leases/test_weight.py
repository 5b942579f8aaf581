from bench.many import BOUND, per_lease


def test_leases_by_the_thousand_stay_under_the_stated_bound() -> None:
    """R003-082: `python -m bench.many` weighs ten thousand; the weight of one does not depend on their number."""
    assert 1.0 < per_lease(2000) < BOUND
