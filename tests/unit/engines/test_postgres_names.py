"""User names and passwords of minted roles."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.postgres.names import name_mistake, password, prefix_mistake, role_part, username

V = re.compile(r"^v_[a-z0-9_]{1,20}_[a-z0-9]{8,}$")
SHUB = re.compile(r"^shub_[a-z0-9_]{1,20}_[a-z2-7]{8}_[0-9]{10}$")
HOSTILE = ["x", "database/creds/app-readonly", 'x"; drop table t; --', "a\0b", "ü" * 80, "/", "", "../..", "UPPER" * 9]


@pytest.mark.parametrize("role", HOSTILE)
@pytest.mark.parametrize(("style", "form"), [("v", V), ("shub", SHUB)])
def test_a_user_name_has_the_form_of_its_style_whatever_the_role_is_called(role, style, form):
    name = username(role, style=style, prefix=None, wall=1_763_000_000.9)

    assert form.fullmatch(name)
    assert name_mistake(name) is None


@given(role=st.text(), wall=st.floats(min_value=1e9, max_value=9e9))
def test_any_text_as_a_role_gives_a_sound_user_name(role, wall):
    for style, form in (("v", V), ("shub", SHUB)):
        assert form.fullmatch(username(role, style=style, prefix=None, wall=wall))  # type: ignore[arg-type]


def test_the_longest_user_name_fits_an_identifier():
    for style in ("v", "shub"):
        assert len(username("r" * 90, style=style, prefix="p" * 20, wall=9e9)) <= 63


def test_the_role_part_is_the_last_segment_sanitised():
    assert role_part("database/creds/Read-Only Analytics!!") == "read_only_analytics"
    assert role_part("database/creds/app-readonly/") == "app_readonly"
    assert role_part("database/creds/" + "ab-" * 30) == "ab_ab_ab_ab_ab_ab_ab"
    assert role_part("§§") == "role"


def test_a_shub_name_ends_with_the_unix_second_it_was_drawn_in():
    assert username("r", style="shub", prefix=None, wall=1_763_000_000.9).endswith("_1763000000")


def test_a_configured_prefix_replaces_the_style_s_own():
    assert username("r", style="v", prefix="team7", wall=0.0).startswith("team7_r_")


def test_ten_thousand_names_are_all_different():
    assert len({username("r", style="shub", prefix=None, wall=1.7e9) for _ in range(10_000)}) == 10_000


@pytest.mark.parametrize("prefix", ["", "pg_x", "Ä", "a b", "1a", "a" * 21, "a\0", 'a"'])
def test_a_prefix_that_makes_unfit_names_is_a_mistake(prefix):
    assert prefix_mistake(prefix) is not None


@pytest.mark.parametrize("prefix", [None, "v", "shub", "team_7"])
def test_a_plain_prefix_is_none(prefix):
    assert prefix_mistake(prefix) is None


@pytest.mark.parametrize(("name", "wrong"), [("", "empty"), ("a\0", "NUL"), ("ü" * 32, "longer than 63 bytes")])
def test_a_name_that_cannot_be_an_identifier_is_a_mistake(name, wrong):
    assert wrong in (name_mistake(name) or "")


def test_a_password_has_32_characters_of_62_by_default():
    drawn = [password(length=32, alphabet="alnum", bits=None) for _ in range(200)]

    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", text) for text in drawn)
    assert len(set("".join(drawn))) == 62


def test_the_base64_alphabet_has_plus_and_slash():
    drawn = "".join(password(length=64, alphabet="base64", bits=None) for _ in range(100))

    assert set("+/") < set(drawn)
    assert re.fullmatch(r"[A-Za-z0-9+/]+", drawn)


@pytest.mark.parametrize(("alphabet", "bits", "length"), [("base64", 256, 43), ("alnum", 256, 43), ("alnum", 100, 32)])
def test_a_password_is_as_long_as_its_entropy_needs(alphabet, bits, length):
    assert len(password(length=32, alphabet=alphabet, bits=bits)) == length
