import copy
import pickle

import pytest

from agent.leases.lease import Secret
from tests.unit.leases.builders import grant, lease


def test_a_secret_shows_itself_nowhere() -> None:
    secret = Secret("hunter2")

    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>20}", "%s" % secret, repr({"password": secret})]  # noqa: UP031

    assert not any("hunter2" in text for text in shown)
    assert secret.reveal() == "hunter2"


def test_a_secret_is_not_pickled() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hunter2"))


def test_secrets_compare_by_value() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert len({Secret("a"), Secret("a")}) == 1
    assert copy.deepcopy([Secret("a")]) == [copy.copy(Secret("a"))]


def test_grants_and_leases_hide_ids_and_data() -> None:
    shown = repr(lease(id="the-lease-id")) + repr(grant(id="the-lease-id"))

    assert "the-lease-id" not in shown
    assert "username" not in shown


def test_a_frozen_lease_is_renewed_no_more_and_keeps_its_end() -> None:
    held = lease(ttl=60)

    assert held.renewable
    assert not held.frozen().renewable
    assert held.frozen().expires_at == held.expires_at
