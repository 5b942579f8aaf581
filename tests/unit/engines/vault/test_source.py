"""VaultSource over a scripted wire: static roles and key-value secrets of both versions."""

import math
from collections.abc import Mapping
from typing import Any

import pytest

from agent.config.model import Role
from agent.engines.vault import VaultSource
from agent.engines.vault.answers import Answer
from agent.engines.vault.values import LONGEST
from agent.errors import AuthExpired, BadResponse, NotFound, Unfit
from agent.leases.engine import Fetched
from tests.unit.engines.vault.scripted import (
    BAD_TOKEN,
    LOOKUP,
    NOTHING,
    REVOKE,
    FakeLogins,
    FakeWire,
    Reply,
    bad,
    good,
)

STATIC, KV = "database/static-creds/stat", "secret/data/app"
ROLES = {STATIC: Role(upstream="vault", kind="static"), "app": Role(upstream="vault", kind="kv", path=KV)}
ROTATED = {
    "username": "stat",
    "password": "3rXggWDy7SkMvBXjXk-q",
    "last_vault_rotation": "2026-11-21T07:47:38Z",
    "rotation_period": 60,
    "ttl": 42,
}


def source(replies: Mapping[str, Reply | list[Reply]]) -> tuple[VaultSource, FakeWire]:
    wire = FakeWire(replies)
    return VaultSource("vault", ROLES, wire, FakeLogins()), wire


def plain(found: Fetched) -> dict[str, str]:
    return {key: secret.reveal() for key, secret in found.data.items()}


def versioned(data: Any, version: int = 1) -> Answer:
    return good({"data": data, "metadata": {"version": version, "created_time": "2026-11-21T07:47:38Z"}})


# -- static roles -----------------------------------------------------------------------------------------------------


async def test_a_static_role_tells_its_user_its_password_and_when_that_changes():
    engine, wire = source({STATIC: good(ROTATED)})

    found = await engine.fetch(STATIC)

    assert [(each.call, each.token) for each in wire.sent] == [(f"GET {STATIC}", "hvs.login")]
    assert plain(found) == {"username": "stat", "password": "3rXggWDy7SkMvBXjXk-q", "rotation_period": "60"}
    assert found.changes_in == 42.0


async def test_only_a_changed_credential_is_another_version():
    engine, _ = source(
        {
            STATIC: [
                good(ROTATED),
                good(ROTATED | {"ttl": 60, "last_vault_rotation": "2026-11-21T07:48:38Z"}),
                good(ROTATED | {"password": "new"}),
            ]
        }
    )

    first, second, third = [(await engine.fetch(STATIC)).version for _ in range(3)]

    assert first == second != third
    assert "new" not in third


@pytest.mark.parametrize(
    ("ttl", "changes_in"),
    [(0, 0.0), (-3, 0.0), (None, math.inf), ("42", math.inf), (1.5, math.inf), (10**400, float(LONGEST))],
)
async def test_an_odd_time_until_the_rotation_is_survived(ttl, changes_in):
    """D-27."""
    engine, _ = source({STATIC: good(ROTATED | {"ttl": ttl})})

    assert (await engine.fetch(STATIC)).changes_in == changes_in


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (bad(400, "unknown role: stat"), NotFound, "does not know that role"),
        (bad(404), NotFound, "check the mount"),
        (good({"k": "v"}), BadResponse, 'kind = "kv" or "lease"'),
        (good(None), BadResponse, "no data"),
        (good(ROTATED | {"password": "a\nb"}), Unfit, "multiline = true"),
    ],
)
async def test_a_static_role_that_cannot_be_read_says_what_to_look_at(answer, error, text):
    engine, _ = source({STATIC: answer})

    with pytest.raises(error, match=text):
        await engine.fetch(STATIC)


async def test_a_leased_path_is_no_static_role_and_what_it_leased_is_revoked():
    leased = good({"username": "u"}, lease_id=f"{STATIC}/x", lease_duration=60)
    engine, wire = source({STATIC: leased, REVOKE: NOTHING})

    with pytest.raises(Unfit, match='kind = "lease"'):
        await engine.fetch(STATIC)

    assert [each.body for each in wire.to(REVOKE)] == [{"lease_id": f"{STATIC}/x", "sync": True}]


async def test_the_lease_of_another_path_is_left_alone():
    engine, wire = source({STATIC: good({"username": "u"}, lease_id="database/creds/app/x", lease_duration=60)})

    with pytest.raises(BadResponse, match="a lease of another path"):
        await engine.fetch(STATIC)

    assert wire.revoked == []


# -- key-value --------------------------------------------------------------------------------------------------------


async def test_a_secret_of_version_2_gives_its_fields_as_texts():
    engine, wire = source({KV: versioned({"k": "v", "n": 1, "l": [1, "a\nb"], "z": None, "b": False})})

    found = await engine.fetch("app")

    assert wire.sent[0].call == f"GET {KV}"
    assert plain(found) == {"k": "v", "n": "1", "l": '[1,"a\\nb"]', "z": "", "b": "false"}
    assert found.changes_in == math.inf


@pytest.mark.parametrize(
    "data",
    [
        {"k": "v"},
        {"data": "x", "metadata": "y"},
        {"data": {"k": "v"}},
        {"data": {"k": "v"}, "metadata": {"version": 1}, "more": "z"},
    ],
)
async def test_a_secret_of_version_1_gives_its_fields(data):
    engine, _ = source({KV: good(data, lease_duration=2_764_800)})

    assert set(plain(await engine.fetch("app"))) == set(data)


async def test_the_same_content_is_the_same_version():
    engine, _ = source({KV: [versioned({"a": "1", "b": "2"}), versioned({"b": "2", "a": "1"}, 2), versioned({}, 3)]})

    first, second, third = [(await engine.fetch("app")).version for _ in range(3)]

    assert first == second != third


@pytest.mark.parametrize("answer", [bad(404), versioned(None), Answer(status=404, body={"data": {"data": None}})])
async def test_a_deleted_secret_is_not_found(answer):
    engine, _ = source({KV: answer})

    with pytest.raises(NotFound):
        await engine.fetch("app")


@pytest.mark.parametrize("answer", [versioned("text"), good(["x"]), NOTHING, bad(400, "odd")])
async def test_a_secret_that_is_none_is_a_bad_response(answer):
    engine, _ = source({KV: answer})

    with pytest.raises(BadResponse):
        await engine.fetch("app")


async def test_a_ping_needs_a_login_that_is_known():
    good_one, _ = source({LOOKUP: good({"ttl": 60})})
    bad_one, _ = source({LOOKUP: bad(403, *BAD_TOKEN)})

    await good_one.ping()
    with pytest.raises(AuthExpired):
        await bad_one.ping()
    assert repr(good_one) == "VaultSource(vault, 2 roles)"
