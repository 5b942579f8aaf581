"""The pages cannot lie: the example loads and has every key, and the reference has every key with its default."""

import itertools
import re
from typing import Any

import attrs
import pytest

from agent.config import check, model
from agent.config.durations import parse_duration
from agent.config.load import load, load_file
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
    model.Role: ('## `[role."MOUNT/creds/NAME"]`', ("role",)),
    model.Connection: ("### `connection`", ("role", "database/creds/app-readonly", "connection")),
    model.VerifyTarget: ('### `[[role."MOUNT/creds/NAME".verify]]`', ("role", "database/creds/app-readonly", "verify")),
    model.Template: ("## `[[template]]`", ("template",)),
    model.TemplateConfig: ("## `[template_config]`", ("template_config",)),
}
HOLDERS = {model.Config, model.Listener}
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

    assert said == {field.name for field in attrs.fields(table)}


def test_the_example_loads_without_a_warning() -> None:
    config = load_file(EXAMPLE, environ={})

    assert check.warnings(config) == []
    assert len(check.advice(config)) == 2


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
