"""A configuration file's text into a Config, or into the complete list of what is wrong with it.

The order: TOML, bounds, the names of upstreams, the environment, secrets, structure (all of which note and go on),
and then `check` on every table that could be structured.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.config import check, environment
from agent.config.model import Config
from agent.config.places import SERVER, UPSTREAMS, VAULT, Faults, dotted, table_of
from agent.config.places import Path as Place
from agent.config.screen import screen
from agent.config.structure import structure
from agent.errors import ConfigError

MAX_SIZE = 1 << 20
"""Bytes a configuration file may have."""

_REFERRED_TO = {(name,) for name in ("role", "template", "listener", "auto_auth", *UPSTREAMS)}
_OWN_TABLES = {SERVER: frozenset[str](), VAULT: frozenset({"method", "retry"})}
"""Tables that belong to the upstream above them, and are no upstream's name."""

_MAX_VALUES = 20_000
_MAX_DEPTH = 20


def load_file(path: Path, *, environ: Mapping[str, str], allow_short: bool = False) -> Config:
    """The configuration in the file at `path`; arguments and errors as with `load`.

    Blocking: call it before the event loop runs, or in a thread.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except FileNotFoundError:
        raise ConfigError([f"{path}: no such file; name the configuration file, or make one"]) from None
    except IsADirectoryError:
        raise ConfigError([f"{path}: is a directory; name the file in it"]) from None
    except PermissionError:
        raise ConfigError([f"{path}: may not be read by this user; change its owner or its mode"]) from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a usable path"
        raise ConfigError([f"{path}: cannot be read: {why}"]) from None
    return load(data, environ=environ, where=str(path), allow_short=allow_short)


def load(
    text: bytes | str, *, environ: Mapping[str, str], where: str = "agent.toml", allow_short: bool = False
) -> Config:
    """The configuration that `text` (TOML 1.0, UTF-8) describes.

    Args:
        environ: what ${NAME} expands from, and where SecretHub's LEASE_* defaults are looked for.
        where: the file's name in messages about the file as a whole.
        allow_short: accept leases of a few seconds, as tests and `leasehold dev` use them.

    Raises:
        ConfigError: with every mistake, each beginning with its place in the file.
    """
    tree = _parsed(text, where)
    faults = Faults()
    for kind in UPSTREAMS:
        _name_upstreams(tree, kind, faults)
    environment.expand(tree, environ, faults)
    screen(tree, faults)
    origin = environment.add_defaults(tree, environ, faults)
    config = structure(tree, faults)
    problems = faults.lines() + _semantic(config, faults, allow_short=allow_short)
    if problems:
        raise ConfigError([_line(path, text, origin) for path, text in problems])
    return config


def _line(path: Place, text: str, origin: Mapping[Place, str]) -> str:
    source = f" (from {origin[path]} in the environment)" if path in origin else ""
    return f"{dotted(path)}: {text}{source}"


def _semantic(config: Config, faults: Faults, *, allow_short: bool) -> list[tuple[Place, str]]:
    if any(table in faults.broken for table in _REFERRED_TO):
        return []  # whole groups of tables are missing: whatever refers to them would seem wrong
    found = check.problems(config, allow_short=allow_short)
    return [problem for problem in found if table_of(problem[0]) not in faults.broken and problem[0] not in faults]


# -- text to tree ------------------------------------------------------------------------------------------------------


def _parsed(text: bytes | str, where: str) -> dict[str, Any]:
    if len(text) > MAX_SIZE:
        raise ConfigError([f"{where}: longer than 1 MiB; that is no configuration file"])
    try:
        # A str may hold what no file can: encoding it finds that out.
        source = (text.encode() if isinstance(text, str) else text).decode()
    except UnicodeError:
        raise ConfigError([f"{where}: is not UTF-8; save it as UTF-8"]) from None
    try:
        tree = tomllib.loads(source.removeprefix("\ufeff"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{where}: {_syntax(str(error))}"]) from None
    except (RecursionError, ValueError):  # ValueError: a number of more digits than Python reads
        raise ConfigError([f"{where}: is nested too deeply, or has a number beyond all bounds"]) from None
    _bounded(tree, where)
    return tree


# tomllib's messages quote the file; these say the same without.
_SYNTAX = {
    "Cannot declare": "this table is declared twice",
    "Cannot overwrite": "this key is set twice",
    "Duplicate inline": "this key is set twice",
    "Cannot mutate": "this table or array is complete and takes no more keys",
    "Cannot redefine": "this table is defined twice",
    "Invalid value": "not a value; strings stand in quotes",
    "Expected '='": "a key without `=` after it",
    "Expected newline": "more text after a complete value; strings stand in quotes",
}


def _syntax(message: str) -> str:
    place = re.search(r"\(at ([a-z0-9, ]+)\)$", message)
    told = next((text for start, text in _SYNTAX.items() if message.startswith(start)), None)
    if told is None:
        told = re.split(r"""["'(]""", message)[0].strip().lower()
    return f"{place[1]}: {told}" if place else told


def _bounded(tree: dict[str, Any], where: str) -> None:
    """Refuse documents so large or deep that walking them would take long: nobody wrote them by hand."""
    level: list[Any] = [tree]
    values = depth = 0
    while level:
        depth += 1
        children = [c for node in level for c in (node.values() if isinstance(node, dict) else node)]
        values += len(children)
        if depth > _MAX_DEPTH or values > _MAX_VALUES:
            raise ConfigError([f"{where}: more than {_MAX_VALUES} values, or tables {_MAX_DEPTH} deep; split it"])
        level = [child for child in children if isinstance(child, dict | list)]


# -- the tree ----------------------------------------------------------------------------------------------------------


def _name_upstreams(tree: dict[str, Any], kind: str, faults: Faults) -> None:
    """Give every upstream its name: [postgresql] is "postgresql", [postgresql.NAME] "postgresql.NAME"."""
    table = tree.get(kind)
    if not isinstance(table, dict):
        return
    names = {name for name, value in table.items() if isinstance(value, dict)} - _OWN_TABLES[kind]
    several = {f"{kind}.{name}": table[name] for name in table if name in names}
    single = {name: value for name, value in table.items() if name not in names}
    if several and single:
        faults.add(
            (kind,),
            f"has keys of its own and tables below it; write either one [{kind}], or each server as [{kind}.NAME]",
            broken=False,
        )
    tree[kind] = several | ({kind: single} if single or not several else {})
