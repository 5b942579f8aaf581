import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.durations import LONGEST, format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5m", 300.0),
        ("30m", 1800.0),
        ("2h", 7200.0),
        ("4h", 14400.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        (".5h", 1800.0),
        ("1.h", 3600.0),
        ("500ms", 0.5),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("250μs", 0.00025),
        ("7d", 604800.0),
        ("1d12h", 129600.0),
        ("0s", 0.0),
        ("0", 0.0),
        ("36525d", LONGEST),
    ],
)
def test_go_style_durations_are_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "5",
        "5 m",
        " 5m",
        "5m ",
        "-5m",
        "+5m",
        "5M",
        "m",
        ".m",
        "1e3s",
        "nan",
        "nans",
        "inf",
        "5m5",
        "٥m",
        "5minutes",
        "1" * 65 + "s",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^not a duration$"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["36526d", "9" * 63 + "s", "99999999999h1ns"])
def test_more_than_a_hundred_years_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^longer than a hundred years$"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.5, "500ms"),
        (0.0005, "0.5ms"),
        (1.25, "1.25s"),
        (60, "1m"),
        (5400, "1h30m"),
        (2412, "40m12s"),
        (86400, "1d"),
        (90061.5, "1d1h1m1.5s"),
        (-90, "-1m30s"),
        (59.9999999, "1m"),
    ],
)
def test_seconds_are_shown_as_people_write_them(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.floats(min_value=0, max_value=LONGEST))
def test_what_is_shown_can_be_read_again(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=1e-9, abs=1e-6)


@given(st.text(max_size=70))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return

    assert 0 <= seconds <= LONGEST
