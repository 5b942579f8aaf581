"""Wrapping tokens: looked at, opened once, and an alarm where somebody else was there before us."""

import asyncio

import pytest
import structlog

from agent.config.model import Method
from agent.config.upstreams import Vault
from agent.engines.vault import VaultLogin
from agent.engines.vault.answers import Answer, ServerFault
from agent.errors import BadResponse, Forbidden, NoIdentity, Unavailable
from agent.leases.lease import Secret
from tests.fakes import FakeClock
from tests.unit.engines.vault.scripted import NO_POLICY, NOTHING, FakeWire, Reply, bad, good

LOOKUP, UNWRAP, WRAP = "sys/wrapping/lookup", "sys/wrapping/unwrap", "sys/wrapping/wrap"
MADE_AT = "auth/approle/role/app/secret-id"
USED = bad(400, "wrapping token is not valid or does not exist")
LOOKED = good({"creation_path": MADE_AT, "creation_ttl": 60})


def engine(wire: FakeWire) -> VaultLogin:
    server = Vault(address="https://v:8200", method=Method(type="approle", namespace="team"))
    return VaultLogin("vault", server, wire, clock=FakeClock())


async def test_a_wrapping_token_is_looked_at_and_then_opened_by_itself():
    wire = FakeWire({LOOKUP: LOOKED, UNWRAP: good({"secret_id": "sid", "secret_id_ttl": 0})})

    found = await engine(wire).unwrap(Secret("hvs.wrap"), f"/v1/{MADE_AT}")

    assert found["secret_id"] == Secret("sid")
    assert [(each.call, each.token, each.body, each.namespace) for each in wire.sent] == [
        (f"POST {LOOKUP}", None, {"token": "hvs.wrap"}, "team"),
        (f"POST {UNWRAP}", "hvs.wrap", None, "team"),
    ]


@pytest.mark.parametrize(
    ("replies", "calls", "why"),
    [
        ({LOOKUP: USED}, 1, "opened it"),
        ({LOOKUP: good({"creation_path": "sys/wrapping/wrap"})}, 1, f"not made at {MADE_AT}"),
        ({LOOKUP: LOOKED, UNWRAP: USED}, 2, "at this very moment"),
    ],
    ids=["used", "made elsewhere", "overtaken"],
)
async def test_a_wrapping_token_that_somebody_else_may_have_had_is_an_alarm_and_not_tried_again(
    replies: dict[str, Reply | list[Reply]], calls: int, why: str
):
    """D-31."""
    wire = FakeWire(replies)

    with structlog.testing.capture_logs() as lines, pytest.raises(NoIdentity, match=why) as caught:
        await engine(wire).unwrap(Secret("hvs.wrap"), MADE_AT)

    assert [(line["event"], line["log_level"]) for line in lines] == [("wrapping-token-reused", "error")]
    assert len(wire.sent) == calls
    assert "hvs.wrap" not in str(caught.value)


LOST = Unavailable("vault: the connection was cut", unreachable=True, outcome_unknown=True)
FAULT = ServerFault("vault: it failed (500)")


@pytest.mark.parametrize("lost", [LOST, FAULT, asyncio.CancelledError()], ids=["cut", "a fault", "left"])
@pytest.mark.parametrize(
    "then",
    [{LOOKUP: [LOOKED, USED]}, {LOOKUP: LOOKED, UNWRAP: USED}],
    ids=["gone by then", "gone a moment later"],
)
async def test_a_token_that_our_own_opening_used_up_is_no_alarm(
    lost: BaseException, then: dict[str, Reply | list[Reply]]
):
    """Its answer was lost: nobody has taken anything, and who is on call should not hunt for a thief."""
    wire = FakeWire({LOOKUP: then[LOOKUP], UNWRAP: [lost, USED]})
    login = engine(wire)

    with pytest.raises(type(lost)):
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)
    with structlog.testing.capture_logs() as lines, pytest.raises(NoIdentity, match="our own opening") as caught:
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)

    assert [(line["event"], line["log_level"]) for line in lines] == [("identity", "warning")]
    assert str(caught.value).endswith("put a new one in its file")
    assert "hvs.wrap" not in str(caught.value) + str(lines)


async def test_what_was_not_opened_by_us_is_an_alarm_even_after_another_answer_was_lost():
    wire = FakeWire({LOOKUP: [LOOKED, USED], UNWRAP: LOST})
    login = engine(wire)

    with pytest.raises(Unavailable):
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)
    with structlog.testing.capture_logs() as lines, pytest.raises(NoIdentity, match="somebody else"):
        await login.unwrap(Secret("hvs.another"), MADE_AT)

    assert [line["event"] for line in lines] == ["wrapping-token-reused"]


async def test_an_opening_that_was_never_sent_excuses_nobody():
    unsent = Unavailable("vault: cannot be reached", unreachable=True)
    login = engine(FakeWire({LOOKUP: [LOOKED, USED], UNWRAP: unsent}))

    with pytest.raises(Unavailable):
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)
    with structlog.testing.capture_logs() as lines, pytest.raises(NoIdentity, match="somebody else"):
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)

    assert [line["event"] for line in lines] == ["wrapping-token-reused"]


@pytest.mark.parametrize("status", [403, 404, 405])
@pytest.mark.parametrize("first", [LOOKUP, UNWRAP])
async def test_only_the_servers_no_to_the_token_itself_is_an_alarm(status: int, first: str):
    """A path that is not there, or is closed to us, says nothing of the token: it may be tried again."""
    login = engine(FakeWire({LOOKUP: LOOKED, UNWRAP: USED} | {first: bad(status)}))

    with structlog.testing.capture_logs() as lines, pytest.raises(BadResponse, match=str(status)):
        await login.unwrap(Secret("hvs.wrap"), MADE_AT)

    assert lines == []


async def test_what_cannot_be_a_wrapping_token_is_not_sent():
    wire = FakeWire({})

    with pytest.raises(NoIdentity):
        await engine(wire).unwrap(Secret("a b"), MADE_AT)

    assert wire.sent == []


@pytest.mark.parametrize(
    "replies",
    [
        {LOOKUP: good(None)},
        {LOOKUP: good({"creation_path": 5})},
        {LOOKUP: LOOKED, UNWRAP: good(None)},
        {LOOKUP: LOOKED, UNWRAP: good({"": "x"})},
    ],
)
async def test_odd_answers_are_bad_responses(replies: dict[str, Reply | list[Reply]]):
    with pytest.raises(BadResponse):
        await engine(FakeWire(replies)).unwrap(Secret("hvs.wrap"), MADE_AT)


async def test_a_login_can_be_wrapped():
    wire = FakeWire({WRAP: good(None, wrap_info={"token": "hvs.single", "ttl": 60})})

    assert await engine(wire).wrap(Secret("hvs.login"), 60.0) == Secret("hvs.single")
    assert [(each.call, each.token, each.body, each.wrap_ttl) for each in wire.sent] == [
        (f"POST {WRAP}", "hvs.login", {"token": "hvs.login"}, 60.0)
    ]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (bad(403, *NO_POLICY), Forbidden),
        (good(None), BadResponse),
        (good(None, wrap_info={"token": "a b"}), BadResponse),
        (bad(400, "odd"), BadResponse),
        (NOTHING, BadResponse),
    ],
)
async def test_a_login_that_cannot_be_wrapped_says_why(answer: Answer, error: type[Exception]):
    with pytest.raises(error):
        await engine(FakeWire({WRAP: answer})).wrap(Secret("hvs.login"), 60.0)
