import ast
import io
import json
from pathlib import Path
from typing import TypeGuard

import pytest

import agent
from agent import log
from agent.leases.lease import Secret
from agent.log import Event

SOURCES = sorted(Path(agent.__file__).parent.rglob("*.py"))


def is_log_call(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("debug", "info", "warning", "error")
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in ("_log", "logger")
    )


def calls() -> list[tuple[str, ast.Call]]:
    trees = [(path, ast.parse(path.read_text())) for path in SOURCES]
    return [(f"{p.name}:{node.lineno}", node) for p, tree in trees for node in ast.walk(tree) if is_log_call(node)]


def test_every_log_call_keeps_to_the_vocabulary() -> None:
    """A field that is not in the list is dropped at run time: here it fails, so that nobody misses it at 3 a.m."""
    assert len(calls()) > 20

    for where, call in calls():
        for keyword in call.keywords:
            assert keyword.arg is None or keyword.arg in log._FIELDS, f"{where}: {keyword.arg}"
        assert len(call.args) == 1, f"{where}: an event and fields, nothing else"
        assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), f"{where}: events come from Event"


def test_every_event_is_said_somewhere() -> None:
    text = "".join(path.read_text() for path in SOURCES if path.name != "log.py")

    unused = [event.name for event in Event if f"Event.{event.name}" not in text]

    assert unused == []


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    log.configure(level="debug", json=True, stream=stream)
    return stream


def test_a_line_carries_event_level_time_and_place(lines: io.StringIO) -> None:
    """R003-124."""
    log.get("agent.leases.renewer").info(Event.RENEWED, role="r", remaining=5.0)

    line = json.loads(lines.getvalue())
    assert line["event"] == "renewed"
    assert line["role"] == "r"
    assert line["level"] == "info"
    assert {"timestamp", "module", "func_name", "lineno", "part"} <= set(line)


def test_nothing_but_plain_scalars_is_written(lines: io.StringIO) -> None:
    log.get("x").warning(Event.RENEWED, role=Secret("hunter2"), error={"password": "hunter2"})

    assert "hunter2" not in lines.getvalue()
    assert json.loads(lines.getvalue())["role"] == "<Secret>"


def test_unknown_fields_and_events_say_nothing(lines: io.StringIO) -> None:
    log.get("x").warning("password is hunter2", password="hunter2")

    assert "hunter2" not in lines.getvalue()


def test_a_filter_shows_one_part_only() -> None:
    stream = io.StringIO()
    log.configure(level="info", json=True, only="leases", stream=stream)

    log.get("agent.leases.renewer").info(Event.RENEWED)
    log.get("agent.api.server").info(Event.LISTENING)

    assert len(stream.getvalue().splitlines()) == 1


def test_levels_are_kept() -> None:
    stream = io.StringIO()
    log.configure(level="warning", json=True, stream=stream)

    log.get("x").info(Event.RENEWED)

    assert stream.getvalue() == ""


def test_a_lease_has_the_same_name_throughout_a_run_and_the_id_is_not_in_it() -> None:
    assert log.lease_ref("database/creds/a/1234") == log.lease_ref("database/creds/a/1234")
    assert log.lease_ref("a") != log.lease_ref("b")
    assert len(log.lease_ref("a")) == 8


def test_a_crash_is_named_by_its_place_and_never_by_what_it_says() -> None:
    """R004-034: the text of an exception may quote a secret."""

    def fail() -> None:
        raise ValueError("invalid literal: 'S3cret'")

    try:
        fail()
    except ValueError as error:
        place = log.place_of(error)

    assert place.startswith("test_log.py:")
    assert place.count("test_log.py") == 2
    assert "S3cret" not in place
