"""What is seen of a token before it is sent."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.jwt import fault_of
from tests.unit.identity.builders import WALL, jwt


def _with_claims(text: str) -> str:
    return f"e30.{base64.urlsafe_b64encode(text.encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("over", "said"),
    [
        (61, "ended 1 min ago"),
        (300, "ended 5 min ago"),
        (7200, "ended 2 h ago"),
        (50 * 3600, "ended 2 days ago"),
    ],
)
def test_a_token_that_has_ended_says_how_long_ago(over: float, said: str) -> None:
    assert fault_of(jwt(exp=WALL - over), WALL) == said


@pytest.mark.parametrize("left", [3600, 1, 0, -59, -60])
def test_a_wall_clock_that_is_a_minute_wrong_refuses_no_token(left: float) -> None:
    assert fault_of(jwt(exp=WALL + left), WALL) == ""


@pytest.mark.parametrize(
    "exp", ["soon", None, True, [1], 10**400, -(10**400)], ids=lambda value: f"{type(value).__name__}"
)
def test_an_end_that_says_nothing_of_use_is_the_servers_to_judge(exp: object) -> None:
    """Service account tokens of old have none."""
    assert fault_of(jwt(exp=exp), WALL) == ""


@pytest.mark.parametrize(
    "text", ["hvs.token", "a.b", "a.b.c.d", "a..c", ".e30.", "a.e30.c ", "a.e3 0.c", "ä.e30.c", ""]
)
def test_what_has_not_three_parts_of_base64url_is_no_jwt(text: str) -> None:
    assert fault_of(text, WALL) == "does not hold a JWT (three parts of base64url, with dots between)"


@pytest.mark.parametrize(
    "token",
    ["a.a.c", "a.bm90anNvbg.c", _with_claims("[1]"), _with_claims("[" * 40_000), _with_claims("1" * 5000)],
    ids=["base64", "text", "list", "deep", "long number"],
)
def test_what_holds_no_json_object_is_no_jwt(token: str) -> None:
    assert fault_of(token, WALL) == "does not hold a JWT: its middle part is no JSON object"


@given(st.text(max_size=60), st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_no_text_and_no_claim_breaks_the_look(text: str, claim: object) -> None:
    assert isinstance(fault_of(text, WALL), str)
    assert isinstance(fault_of(jwt(exp=claim), WALL), str)
