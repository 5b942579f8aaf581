"""Where in the file something stands, how that is written, and what is wrong there.

A path is a path within `Config`; the upstreams' part differs from the file, where [postgresql] stands alone or is split
into [postgresql.NAME], and [vault] likewise. Only `dotted` knows. Nothing here repeats a value from the file.
"""

import re

from agent.config.confidential import gives_away

Path = tuple[str | int, ...]

Problem = tuple[Path, str]
"""A place, and one line on what is wrong there and what to do."""

SERVER = "postgresql"
VAULT = "vault"
UPSTREAMS = (SERVER, VAULT)
METHOD: Path = ("auto_auth", "method")
SINK: Path = ("auto_auth", "sink")

_BARE = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_LONGEST_KEY = 255


def dotted(path: Path) -> str:
    """`path` in TOML's notation: `role."database/creds/app".verify[0].host`."""
    text = ""
    for part in _in_file(path):
        text += f"[{part}]" if isinstance(part, int) else ("." if text else "") + _key(part)
    return text


def _in_file(path: Path) -> Path:
    if len(path) > 1 and path[0] in UPSTREAMS and isinstance(path[1], str):
        name = () if path[1] == path[0] else (path[1].removeprefix(f"{path[0]}."),)
        return (path[0], *name, *path[2:])
    return path


def _key(key: str) -> str:
    if _BARE.fullmatch(key) and len(key) <= _LONGEST_KEY:
        return key
    if gives_away(key):
        return '"…"'
    shown = "".join(c if c.isprintable() and c not in '"\\' else _escaped(c) for c in key[:_LONGEST_KEY])
    return f'"{shown}…"' if len(key) > _LONGEST_KEY else f'"{shown}"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def table_of(path: Path) -> Path:
    """The table that becomes useless by a mistake at `path`: ("role", NAME), ("template", 0), ("agent",), …"""
    if path[0] in ("agent", "audit", "template_config"):
        return path[:1]
    return path[:3] if path[:2] == SINK else path[:2]


class Faults:
    """What is wrong so far. The first thing said of a place stands: what follows from it would only confuse."""

    def __init__(self) -> None:
        self._said: dict[Path, str] = {}
        self.broken: set[Path] = set()

    def __contains__(self, path: Path) -> bool:
        return path in self._said

    def add(self, path: Path, text: str, *, broken: bool = True) -> None:
        """Note a mistake; `broken` means that the rest of its table cannot be judged without it."""
        self._said.setdefault(path, text)
        if broken:
            self.broken.add(table_of(path))

    def lines(self) -> list[Problem]:
        """Every mistake, in the order found."""
        return list(self._said.items())
