"""Documents as trees of plain values: the example, changes to it, and TOML text of it (all tables inline)."""

import datetime
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).parents[3] / "agent.example.hcl.toml"

_RAW = re.compile(r"[\x7f\ud800-\udfff]")


def to_toml(tree: dict[str, Any]) -> str:
    """A document with the keys of `tree`."""
    return "\n".join(f"{_string(key)} = {_value(value)}" for key, value in tree.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_string(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return repr(value)


def _string(text: str) -> str:
    return _RAW.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(text, ensure_ascii=False))


def uncommented(text: str) -> str:
    """The example's text with every option set: each line that begins with `#key = ` without its `#`."""
    return re.sub(r"(?m)^#([a-z_]+ = )", r"\1", text)


def leaves(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value below `node` that is neither a table nor an array of tables."""
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        yield (*path, key)


def replaced(tree: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """`tree` with `value` at `path`."""
    first, *rest = path
    copy: Any = dict(tree) if isinstance(tree, dict) else list(tree)
    copy[first] = replaced(tree[first], tuple(rest), value) if rest else value
    return copy


def whole() -> dict[str, Any]:
    """The example, with every option set."""
    return tomllib.loads(uncommented(EXAMPLE.read_text()))
