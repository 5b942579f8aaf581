"""Any document at all: a Config that its own rules accept, or a complete list of one-line mistakes; nothing else."""

import time
from typing import Any, get_args, get_origin

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.config import check, model
from agent.config.load import load
from agent.errors import ConfigError
from tests.unit.config.trees import leaves, replaced, to_toml, whole

QUICK = 2.0
"""Seconds that no document may take, on a busy machine too."""

NAMES = [
    "a",
    "db",
    "/a",
    "/a/b",
    "a/creds/b",
    "database/creds/app",
    "postgresql",
    "postgresql.b",
    "vault",
    "vault.b",
    "https://a:1",
    "auth/token/a",
    "uid:1",
    "any",
    "json",
]
ODD = ["", "${A}", "${B}", "$$", "\0", "\n", "é" * 40, "x" * 300, "localhost", "public", "password=x", "sys", "\u2028"]
WORDS = st.sampled_from(NAMES + ODD)
DURATIONS = st.sampled_from(
    ["0", "1s", "5s", "1m", "5m", "30m", "1h", "24h", "8d", "5 minutes", "-1s", "99999999d", "1e9s"]
)
MODES = st.sampled_from(["0440", "0660", "600", "4777", "0o400", "999999", "077777777", "rw"])
NUMBERS = st.integers() | st.sampled_from([0, 1, 16, 5432, 65536, 10**30]) | st.floats()
SCALARS = WORDS | DURATIONS | MODES | NUMBERS | st.booleans() | st.dates() | st.text(max_size=20)
KEYS = st.sampled_from(
    ["host", "password", "unix", "a/creds/b", "upstream", "x", "", "token", "é", "a\nb", "__class__"]
)
JUNK = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)


def of_kind(kind: Any) -> st.SearchStrategy[Any]:
    """Values for a field of type `kind`: mostly of its shape, good and bad."""
    args = [arg for arg in get_args(kind) if arg not in (type(None), Ellipsis)]
    if kind is model.Duration:
        return DURATIONS
    if kind is model.Mode:
        return MODES
    if attrs.has(kind):
        return table(kind)
    if get_origin(kind) is dict:
        return st.dictionaries(WORDS | st.just("a/creds/b"), of_kind(args[1]), max_size=3)
    if get_origin(kind) is tuple:
        return st.lists(of_kind(args[0]), max_size=3)
    if get_origin(kind) is get_origin(model.SslMode):
        return st.sampled_from(args)
    if args:
        return st.one_of([of_kind(arg) for arg in args])
    return {str: WORDS | st.text(max_size=20), bool: st.booleans()}.get(kind, NUMBERS)


@st.composite
def table(draw: st.DrawFn, kind: Any) -> Any:
    """A table for `kind`: required keys nearly always, others now and then, a stranger rarely."""
    tree: dict[str, Any] = {}
    for field in attrs.fields(kind):
        needed = field.default is attrs.NOTHING
        if draw(st.integers(0, 30)) > (0 if needed else 22):
            tree[field.name] = draw(of_kind(field.type) if draw(st.integers(0, 40)) else JUNK)
    if not draw(st.integers(0, 15)):
        tree[draw(KEYS)] = draw(JUNK)
    return tree


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Any]:
    """A whole configuration, sound in its outline."""
    tree: dict[str, Any] = draw(table(model.Config))
    if draw(st.booleans()):
        tree["postgresql"] = draw(table(model.PostgreSQL) | st.dictionaries(KEYS, table(model.PostgreSQL), max_size=2))
    if draw(st.booleans()):
        tree["vault"] = draw(table(model.Vault) | st.dictionaries(KEYS, table(model.Vault), max_size=2))
    if draw(st.booleans()):
        tree["auto_auth"] = draw(table(model.AutoAuth))
    if draw(st.booleans()):
        names = st.just("a/creds/b") | WORDS
        tree["role"] = draw(st.dictionaries(names, table(model.Role), min_size=1, max_size=2))
    return tree


@st.composite
def changed(draw: st.DrawFn) -> dict[str, Any]:
    """The example with every option set, and up to three values replaced."""
    tree = whole()
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(leaves(tree))))
        tree = replaced(tree, path, draw(st.just("x") | DURATIONS | WORDS | NUMBERS | JUNK))
    return tree


ENVIRON = st.fixed_dictionaries(
    {},
    optional={
        "A": st.text(max_size=10),
        "LEASE_CLEANUP_INTERVAL": st.sampled_from(["1000", "1", "x", "9" * 40]),
        "LEASE_RENEWAL_THRESHOLD": st.sampled_from(["0.3", "1", "0.99", "nan", "0.000000000001"]),
        "LEASE_RENEWAL_RETRIES": st.sampled_from(["5", "0", "", "-1"]),
    },
)


def told(text: str | bytes, environ: dict[str, str]) -> list[str]:
    """What is said of a document: its mistakes, or else nothing of the kind."""
    try:
        config = load(text, environ=environ)
    except ConfigError as error:
        return list(error.mistakes) or ["nothing"]
    assert check.mistakes(config) == []
    return [*check.warnings(config), *check.advice(config)]


def judge(text: str | bytes, environ: dict[str, str]) -> None:
    began = time.thread_time()  # not the wall's: others use the machine too

    lines = told(text, environ)

    assert time.thread_time() - began < QUICK
    assert all(line.isprintable() and ": " in line for line in lines), "each is one line with its place"
    assert len(set(lines)) == len(lines)


FUZZ = settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@FUZZ
@given(trees(), ENVIRON)
def test_a_document_of_the_right_outline_is_a_config_or_a_list(tree: dict[str, Any], environ: dict[str, str]) -> None:
    judge(to_toml(tree), environ)


@FUZZ
@given(changed())
def test_a_sound_document_changed_in_a_few_places_is_a_config_or_a_list(tree: dict[str, Any]) -> None:
    judge(to_toml(tree), {"A": "1"})


@FUZZ
@given(st.dictionaries(KEYS | st.sampled_from([f.name for f in attrs.fields(model.Config)]), JUNK, max_size=5))
def test_any_tree_is_a_config_or_a_list(tree: dict[str, Any]) -> None:
    judge(to_toml(tree), {})


@FUZZ
@given(st.binary(max_size=200) | st.text(max_size=200) | st.text(alphabet="[]{}=\"'.,#\n a1\\", max_size=60))
def test_any_bytes_and_any_text_are_a_config_or_a_list(text: str | bytes) -> None:
    judge(text, {})


@pytest.mark.parametrize(
    "text",
    [
        "x = [" + "1," * 20_000 + "]",
        "\n".join(f"[role.r{n}]" for n in range(9_000)),
        "\n".join(f"k{n} = 1" for n in range(19_000)),
        "[role.r]\n" + "\n".join(f"default_tt{n} = 1" for n in range(19_000)),
        "[role.r]\nupstream = 'x'\ngroup = 'g'\n[[template]]\ndestination = '/a'\nsource = '/b'\nroles = ["
        + ",".join(f"'n{n}'" for n in range(19_000))
        + "]",
        f"[agent]\nlog_level = '{'://' * 300_000}'",
        f"[agent]\nlog_level = '{'${' * 400_000}'",
        f"[role.r]\ndefault_ttl = '{'1' * 900_000}'",
        f"[role.r]\nallow = ['uid:{'1' * 900_000}']",
        f"[role.{'r' * 900_000}]",
    ],
    ids=[
        "a long array",
        "many roles",
        "many keys",
        "many near keys",
        "many names",
        "slashes",
        "dollars",
        "digits",
        "a long id",
        "a long name",
    ],
)
def test_a_large_document_is_judged_quickly(text: str) -> None:
    judge(text, {})
