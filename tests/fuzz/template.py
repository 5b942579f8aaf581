"""Any template at all: one-line mistakes, one line of why it cannot be rendered, or bytes within the limit.

While it compiles and renders nothing is opened, imported or started: Python's own audit says so.
"""

import sys
import time

# Imported late by the program, which is no doing of a template; and the fuzzer instruments what is imported here.
import jinja2.debug  # noqa: F401

import agent.files.sandbox  # noqa: F401
from agent.config import model
from agent.errors import ConfigError, RenderError
from agent.files.template import compiled
from tests.unit.files.builders import ROLE, ROLES, credential, jinja

_PASSWORD = "geheim-canary"
_MAX_SIZE = 20_000
_LONGEST = 5.0  # seconds, on a busy machine and instrumented
_FORBIDDEN = ("open", "import", "os.", "subprocess.", "socket.", "ctypes.", "shutil.")
_watching: list[bool] = []
_seen: list[str] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event.startswith(_FORBIDDEN):
        _seen.append(event)


def run(data: bytes) -> None:
    """Compile it, and render it if it can be."""
    text = data.decode("utf-8", "replace")
    began = time.monotonic()
    try:
        render = compiled(jinja(text), ROLES, model.TemplateConfig(max_size=_MAX_SIZE))
    except ConfigError as error:
        for line in error.mistakes:
            _check_line(line)
        return
    finally:
        assert time.monotonic() - began < _LONGEST, "compiling takes too long"
    held = {ROLE: credential({"username": "u", "password": _PASSWORD})}
    began = time.monotonic()
    _watch(True)
    try:
        assert len(render(held).data) <= _MAX_SIZE
    except RenderError as error:
        _check_line(str(error))
    finally:
        _watch(False)
        assert time.monotonic() - began < _LONGEST, "rendering takes too long"
    assert _seen == [], "a template reaches out of its sandbox"


def _watch(on: bool) -> None:
    if not _hooked:
        sys.addaudithook(_audit)
        _hooked.append(True)
    _watching[:] = [True] if on else []


_hooked: list[bool] = []


def _check_line(line: str) -> None:
    assert line.isprintable(), f"not one printable line: {line!r}"
    assert line
    assert _PASSWORD not in line
