"""What the environment lends to the file: ${NAME} in strings, and SecretHub's LEASE_* variables as defaults.

The environment is a mapping handed in; nothing here reads the process's own. A variable's value is never repeated in a
message: it may hold anything.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.config.confidential import REMEDY, secret_variable
from agent.config.durations import format_duration
from agent.config.places import SERVER, Faults, Path

RAW = frozenset(
    {
        *("creation_statements", "renewal_statements", "revocation_statements", "rollback_statements"),
        *("probe", "contents", "on_failed"),
    }
)
"""Keys whose strings are another language's (SQL, Jinja, a command) and stay as they are."""

_REFERENCE = re.compile(r"\$(?:\$|\{([^{}]*)(\})?)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)


class Expanded(str):
    """A string that came, in part, from the environment."""

    __slots__ = ()


def expand(table: dict[str, Any], environ: Mapping[str, str], faults: Faults, path: Path = ()) -> None:
    """Put the environment's values in the place of ${NAME} in every string of `table`; "$$" stands for "$"."""
    for key, value in table.items():
        if key not in RAW:
            table[key] = _expanded(value, environ, faults, (*path, key))


def _expanded(value: Any, environ: Mapping[str, str], faults: Faults, path: Path) -> Any:
    if isinstance(value, dict):
        expand(value, environ, faults, path)
    elif isinstance(value, list):
        return [_expanded(item, environ, faults, (*path, n)) for n, item in enumerate(value)]
    elif isinstance(value, str) and "$" in value:
        return _text(value, environ, faults, path)
    return value


def _text(text: str, environ: Mapping[str, str], faults: Faults, path: Path) -> str:
    def put(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        mistake = _refused(match[1], closed=match[2] is not None, environ=environ)
        if mistake is not None:
            faults.add(path, mistake)
            return ""
        return environ[match[1]]

    return Expanded(_REFERENCE.sub(put, text))


def _refused(name: str, *, closed: bool, environ: Mapping[str, str]) -> str | None:
    if not closed or not _NAME.fullmatch(name):
        return 'has a "${" that names no variable; write "${NAME}", or "$$" for a dollar sign'
    if secret_variable(name):
        return f"${{{name}}} looks like a secret; {REMEDY}"
    if name not in environ:
        return f"${{{name}}} is not set in the environment; set it, or write the value here"
    return None


def add_defaults(tree: dict[str, Any], environ: Mapping[str, str], faults: Faults) -> dict[Path, str]:
    """Set what SecretHub's variables say wherever `tree` is silent.

    Returns:
        The variable's name for every place that it set.
    """
    origin: dict[Path, str] = {}
    for variable, table, key, read in _VARIABLES:
        if variable not in environ:
            continue
        places = [name for name, values in _tables(tree, table) if key not in values]
        if not places:
            continue
        value, mistake = read(environ[variable])
        if mistake:
            faults.add((variable,), f"comes from the environment and {mistake}", broken=False)
            continue
        for name in places:
            tree[table][name][key] = value
            origin[table, name, key] = variable
    return origin


def _tables(tree: dict[str, Any], table: str) -> Iterator[tuple[str, dict[str, Any]]]:
    tables = tree.get(table)
    if isinstance(tables, dict):
        yield from ((name, values) for name, values in tables.items() if isinstance(values, dict))


def _milliseconds(text: str) -> tuple[Any, str]:
    if not re.fullmatch(r"[0-9]{1,12}", text):
        return None, "is not a whole number of milliseconds, such as 10000"
    return format_duration(int(text) / 1000), ""


def _share_left(text: str) -> tuple[Any, str]:
    mistake = "is not a share between 0 and 1, such as 0.33: the part of the lease that is left when it is renewed"
    if not re.fullmatch(r"[0-9]{0,3}\.?[0-9]{0,12}", text) or not re.search(r"[0-9]", text):
        return None, mistake
    left = float(text)
    return (round(1.0 - left, 12), "") if 0.0 < left < 1.0 else (None, mistake)


def _count(text: str) -> tuple[Any, str]:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        return None, "is not a whole number, such as 5"
    return int(text), ""


_Read = Callable[[str], tuple[Any, str]]
_VARIABLES: tuple[tuple[str, str, str, _Read], ...] = (
    ("LEASE_CLEANUP_INTERVAL", SERVER, "cleanup_interval", _milliseconds),
    ("LEASE_RENEWAL_THRESHOLD", "role", "lease_renewal_threshold", _share_left),
    ("LEASE_RENEWAL_RETRIES", "role", "retries", _count),
)
