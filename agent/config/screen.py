"""What no string of a configuration file may be, whatever its key: a secret, or a text that nobody can read."""

import re
from typing import Any

from agent.config.confidential import REMEDY, gives_away, secret_key
from agent.config.environment import RAW
from agent.config.places import Faults, Path
from agent.config.structure import KEYS

_COMMAND = "on_failed"
_UNREADABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def screen(node: Any, faults: Faults, path: Path = ()) -> None:
    """Note every such string below `node`; what is a secret by its key is taken out, and nothing more said of it."""
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        place = (*path, key)
        if isinstance(key, str) and secret_key(key) and key not in KEYS and not isinstance(value, dict | bool):
            faults.add(place, REMEDY, broken=False)
            del node[key]
        elif isinstance(value, dict | list):
            screen(value, faults, place)
        elif isinstance(value, str):
            mistake = _mistake(value, next((part for part in reversed(place) if isinstance(part, str)), ""))
            if mistake:
                faults.add(place, mistake)


def _mistake(text: str, key: str) -> str | None:
    if "\0" in text:
        return "contains NUL, which nothing accepts"
    if key in RAW and key != _COMMAND:
        return None  # SQL and templates speak of passwords as a matter of course
    if gives_away(text):
        return f"carries a password, a token or a key; {REMEDY}"
    if key != _COMMAND and _UNREADABLE.search(text):
        return "contains a control character; leave it out"
    return None
