"""A configuration file of any bytes: a Config that the whole program can use, or mistakes of one line; never a secret.

The first byte chooses: the rest is the file; or it says what to put into which places of a sound one.
"""

import tomllib
from collections.abc import Iterator
from typing import Any

from agent.api.access import AllowList
from agent.config import check
from agent.config.confidential import secret_key
from agent.config.durations import LONGEST, format_duration, parse_duration
from agent.config.load import load
from agent.config.model import Config, method_of
from agent.config.structure import KEYS
from agent.errors import ConfigError
from agent.translate import access_of, certificates_of, policy_of
from tests.fuzz.inputs import Input
from tests.unit.config.trees import leaves, replaced, to_toml, whole

CANARY = "hunter2-canary"
"""Whatever of the environment, or under a secret's key, holds this is never repeated."""

_LONGEST_LINE = 2000
_ENVIRONMENT = {
    "A": "a",
    "CANARY": f"x{CANARY}\n",
    "EMPTY": "",
    "LEASE_CLEANUP_INTERVAL": "10000",
    "DB_PASSWORD": CANARY,
}
_SOUND = whole()
_PLACES = list(leaves(_SOUND))
_ODD: list[Any] = [
    *("", "0", "5s", "1h30m", "1e9s", "0440", "7777", "uid:0", "any", "/a", "/", "..", "${A}", "${CANARY}", "$$", "${"),
    *("localhost", "::1", f"postgres://a:{CANARY}@b", f"password={CANARY}", "require", "json", "postgresql", "\u2028"),
    *(0, -1, 1, 65536, 10**20, 0.5, float("nan"), float("inf"), True, False, [], [""], {}, {"a": 1}),
    *("vault", "vault.b", "https://a:1", "http://a", "kv", "static", "write", "cert", "aws", "auth/token/a", "v1/a"),
    *({"password": CANARY}, [CANARY, CANARY], {"host": "h", "dbname": "d", "token": [CANARY]}),
]


def run(data: bytes) -> None:
    """Load it, and use what was loaded."""
    given = Input(data)
    text = _changed(given) if given.number() % 2 else given.rest()
    try:
        config = load(text, environ=_ENVIRONMENT, where="agent.toml", allow_short=bool(len(data) % 2))
    except ConfigError as error:
        _check_mistakes(error, _secrets(text))
    else:
        _use(config, _secrets(text))
    _check_duration(data.decode("utf-8", "replace"))


def _changed(given: Input) -> str:
    tree: Any = _SOUND
    while not given.empty:
        place = _PLACES[(given.number() * 256 + given.number()) % len(_PLACES)]
        value = given.text() if given.number() % 4 == 0 else given.choice(_ODD)
        if given.number() % 8 == 0:
            place = (*place[:-1], given.text())
        try:
            tree = replaced(tree, place, value)
        except (KeyError, TypeError, IndexError, ValueError):
            continue  # a place that an earlier change has taken away
    return to_toml(tree)


# -- what must hold --------------------------------------------------------------------------------------------------


def _check_mistakes(error: ConfigError, secrets: set[str]) -> None:
    assert error.mistakes
    _check_lines(error.mistakes, secrets)


def _check_lines(lines: tuple[str, ...] | list[str], secrets: set[str]) -> None:
    for line in lines:
        assert line.strip() == line != ""
        assert line.isprintable(), f"not one printable line: {line!r}"
        assert len(line) < _LONGEST_LINE, len(line)
        assert not any(secret in line for secret in secrets), f"a secret is repeated: {line!r}"


def _secrets(text: bytes | str) -> set[str]:
    """What no message may hold: texts under keys that name a secret, and what comes from the environment."""
    try:
        tree = tomllib.loads(text.decode() if isinstance(text, bytes) else text)
    except (ValueError, RecursionError):
        return set()
    found = {value for key, value in _strings(tree, "") if secret_key(key) and key not in KEYS}
    # A short word, or one that a message uses anyway, proves nothing.
    return {f"x{CANARY}"} | {value for value in found if CANARY in value}


def _strings(node: Any, key: str) -> Iterator[tuple[str, str]]:
    """Every string with the innermost key above it."""
    if isinstance(node, str):
        yield key, node
    elif isinstance(node, dict):
        for name, value in node.items():
            yield from _strings(value, name)
    elif isinstance(node, list):
        for value in node:
            yield from _strings(value, key)


def _use(config: Config, secrets: set[str]) -> None:
    """What `check` accepts, the parts accept."""
    _check_lines(check.warnings(config), secrets)
    _check_lines(check.advice(config), secrets)
    assert check.mistakes(config, allow_short=True) == []
    for role in config.role.values():
        policy_of(role)
        access_of(role, 0)
        assert role.upstream in config.postgresql or role.upstream in config.vault
    for name in config.vault:
        assert all(path.startswith("/") for path in method_of(config, name).files.values())
    certificates_of(config)
    if config.listener.unix is not None:
        AllowList.parse(config.listener.unix.allow_admin, 0)
        assert 0 <= config.listener.unix.socket_mode <= 0o777
    for template in config.template:
        assert template.destination.startswith("/")
        assert 0 <= template.perms <= 0o777
        assert set(template.roles) <= set(config.role)


def _check_duration(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0.0 <= seconds <= LONGEST
    assert abs(parse_duration(format_duration(seconds)) - seconds) <= 1e-6 + seconds * 1e-12
