"""The pages cannot lie: the example loads and has every key, and the reference has every key with its default."""

import itertools
import re
import tomllib
from typing import Any, get_args

import attrs
import pytest

from agent.config import check, model
from agent.config.durations import parse_duration
from agent.config.load import load, load_file
from agent.config.upstreams import MethodType
from tests.unit.config.trees import EXAMPLE, uncommented, whole

ROOT = EXAMPLE.parent
REFERENCE = (ROOT / "docs" / "configuration.md").read_text()

# The heading of each class in the reference, and where an instance of it stands in the example.
TABLES: dict[type, tuple[str, tuple[str | int, ...]]] = {
    model.Agent: ("## `[agent]`", ("agent",)),
    model.Audit: ("## `[audit]`", ("audit",)),
    model.UnixListener: ("## `[listener.unix]`", ("listener", "unix")),
    model.HealthListener: ("## `[listener.health]`", ("listener", "health")),
    model.PostgreSQL: ("## `[postgresql]`", ("postgresql", "main")),
    model.Vault: ("## `[vault]`", ("vault",)),
    model.Method: ("## `[auto_auth.method]`", ("auto_auth", "method")),
    model.MethodConfig: ("### `[auto_auth.method.config]`", ("auto_auth", "method", "config")),
    model.TokenSink: ("## `[[auto_auth.sink]]`", ("auto_auth", "sink")),
    model.TokenSinkConfig: ("### `[auto_auth.sink.config]`", ("auto_auth", "sink", 0, "config")),
    model.Role: ('## `[role."MOUNT/creds/NAME"]`', ("role",)),
    model.Connection: ("### `connection`", ("role", "database/creds/app-readonly", "connection")),
    model.VerifyTarget: ('### `[[role."MOUNT/creds/NAME".verify]]`', ("role", "database/creds/app-readonly", "verify")),
    model.Template: ("## `[[template]]`", ("template",)),
    model.TemplateConfig: ("## `[template_config]`", ("template_config",)),
}
METHODS = {
    kind: re.sub(r"(?m)^# *", "", keys)
    for kind, keys in re.findall(r'(?m)^#   type = "(\w+)"\n((?:^#     .*\n)+)', EXAMPLE.read_text())
}
"""Type to keys, of the methods that stand in the example as comments."""

HOLDERS = {model.Config, model.Listener, model.AutoAuth}
"""Classes that only hold tables."""


def rows(heading: str) -> dict[str, str]:
    """Key to default of the table below `heading`."""
    _, _, below = REFERENCE.partition(f"\n{heading}")
    section = re.split(r"\n#", below)[0]
    return dict(re.findall(r"(?m)^\| `([a-z_]+)` \| (.+?) \|", section))


def instances(path: tuple[str | int, ...]) -> list[dict[str, Any]]:
    """What the example says at `path`, one table or several."""
    node: Any = whole()
    for part in path:
        node = node[part]
    if isinstance(node, list):
        return node
    return list(node.values()) if path == ("role",) else [node]


def default(field: "attrs.Attribute[Any]") -> object:
    """The default of a field as the reference must say it."""
    if field.default is attrs.NOTHING:
        return "required"
    if field.default is None:
        return "–"
    if field.type is model.Mode:
        return f'`"{field.default:04o}"`'
    if field.type is model.Duration:
        return field.default
    if hasattr(field.default, "factory"):
        return "`{}`"
    if field.default == ():
        return "`[]`"
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


def test_every_class_of_the_model_has_its_place_in_the_pages() -> None:
    classes = {value for value in vars(model).values() if isinstance(value, type) and attrs.has(value)}

    assert classes - HOLDERS == set(TABLES)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_the_reference_has_exactly_the_keys_with_their_defaults(table: type) -> None:
    found: dict[str, object] = dict(rows(TABLES[table][0]))
    for field in attrs.fields(table):
        if field.type is model.Duration:
            found[field.name] = parse_duration(str(found[field.name]).strip('`"'))

    assert found == {field.name: default(field) for field in attrs.fields(table)}


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_the_example_has_every_key(table: type) -> None:
    said = {key for instance in instances(TABLES[table][1]) for key in instance}
    if table is model.MethodConfig:
        said |= {key for method in METHODS.values() for key in tomllib.loads(method)}
    if table is model.Vault:
        said |= {"method"}  # its heading is told in a comment

    assert said == {field.name for field in attrs.fields(table)}


@pytest.mark.parametrize("kind", METHODS)
def test_the_examples_other_methods_are_sound(kind: str) -> None:
    text = uncommented(EXAMPLE.read_text())
    method = re.compile(r"(?ms)^\[auto_auth\.method\]$.*?^token_path = .*?$")
    assert "[vault.method]" in text

    config = load(
        method.sub(f'[auto_auth.method]\ntype = "{kind}"\n[auto_auth.method.config]\n{METHODS[kind]}', text), environ={}
    )

    assert config.auto_auth.method is not None
    assert config.auto_auth.method.type == kind


def test_every_method_stands_in_the_example() -> None:
    assert {"kubernetes", *METHODS} == set(get_args(MethodType))


def test_the_references_example_loads_without_a_warning() -> None:
    text = re.search(r"(?s)```toml\n(.*?)```", REFERENCE)
    assert text is not None

    config = load(text[1], environ={"POD_UID": "u", "POD_IP": "10.0.0.7"})

    assert check.warnings(config) == []


def test_the_example_loads_without_a_warning() -> None:
    config = load_file(EXAMPLE, environ={})

    assert check.warnings(config) == []
    assert len(check.advice(config)) == len(config.role) + len(config.vault)


def test_the_example_loads_with_every_option_set() -> None:
    config = load(uncommented(EXAMPLE.read_text()), environ={})

    assert check.warnings(config) == ['role."database/creds/app-readonly".profile: has no effect beside default_ttl']


def test_every_option_of_the_example_that_is_not_set_has_a_comment_above() -> None:
    option = re.compile(r"#?[a-z_]+ = ")
    lines = EXAMPLE.read_text().splitlines()
    pairs = itertools.pairwise(lines)

    bare = [
        line for before, line in pairs if line.startswith("#") and option.match(line) and not before.startswith("#")
    ]

    assert bare == []


@pytest.mark.parametrize("variable", ["LEASE_CLEANUP_INTERVAL", "LEASE_RENEWAL_THRESHOLD", "LEASE_RENEWAL_RETRIES"])
def test_the_pages_name_the_variables(variable: str) -> None:
    assert variable in REFERENCE
    assert variable in EXAMPLE.read_text()


@pytest.mark.parametrize(
    "word",
    [
        *("Role", "Lease", "Upstream", "Engine", "Session", "Renewer"),
        *("Generation", "Draining", "Holder", "Incarnation", "Sink", "Listener"),
    ],
)
def test_the_glossary_has_the_word(word: str) -> None:
    assert f"\n**{word}**: " in (ROOT / "docs" / "glossary.md").read_text()
