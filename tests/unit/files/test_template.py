"""template: what a template can do, and what its mistakes are called."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config import model
from agent.files.template import check_template, compiled
from tests.unit.files.builders import OTHER, ROLE, ROLES, SAMPLE, credential, jinja, render, role

SHIPPED = Path(__file__).parents[3] / "templates"


def text(contents: str, **options: str) -> str:
    return render(contents, **options).data.decode()  # type: ignore[arg-type]


# -- what it can do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ("{{ $db.data.username }}", "u"),
        ("{{ $db.data['password'] }}\n", "geheim\n"),
        (
            "{% with s = $db %}{{ s.lease_id }} {{ s.lease_duration }} {{ s.ttl }}{% endwith %}",
            "lease-1 59 59",
        ),
        ("{% set s = $db %}{{ s.expires_at }} {{ s.generation }}", "2027-01-15T08:01:00Z 17"),
        ("{% set s = $db %}{{ s.renewable }} {{ s.verified }} {{ s.role }}", f"True True {ROLE}"),
        ("{{ $db.data.host }}:{{ $db.data.port }}", "db.example.com:5433"),
        ("{{ 'a b'|dotenv }} {{ 'a b'|shell }} {{ 'a b'|url }} {{ '/'|urlencode }}", "\"a b\" 'a b' a%20b %2F"),
        ("{{ 'a:b'|pgpass }} {{ 'a b'|pg_service }} {{ \"a'b\"|conninfo }}", "a\\:b a b 'a\\'b'"),
        ("{{ '<é>'|json }} {{ 'x'|yaml }} {{ [1, none]|tojson }}", '"<é>" "x" [1, null]'),
        ("{% for k, v in {'b': 1, 'a': 2}|dictsort %}{{ loop.index }}{{ k }}{{ v }},{% endfor %}", "1a2,2b1,"),
        ("{% for c in 'ab' %}{{ c }}{% if not loop.last %}-{% endif %}{% else %}none{% endfor %}", "a-b"),
        ("{{ ['a', 'b']|join(', ') }} {{ 'x' ~ 1 ~ 'y' }} {{ 'aXa'|replace('X', 'yy') }}", "a, b x1y ayya"),
        ("{{ 'a\nb'|indent(2) }} {{ 'abc'[1:] }} {{ 7 // 2 + 1 }} {{ 'a' + 'b' }}", "a\n  b bc 4 ab"),
        ("{{ 'A b'.lower().split(' ')|length }} {{ {'a': 1}.get('b', 'c') }}", "2 c"),
        ("{% macro m(a) %}<{{ a }}{{ caller() }}>{% endmacro %}{% call m(1) %}in{% endcall %}", "<1in>"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}{% set x | trim %} y {% endset %}{{ x }}", "ABy"),
        ("{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"),
        (
            "{% if $db.data.nope is defined %}y{% else %}n{% endif %}{{ $db.data.nope|default('-') }}",
            "n-",
        ),
    ],
)
def test_what_a_template_can_do(contents: str, expected: str) -> None:
    assert text(contents) == expected


def test_values_are_not_escaped_for_html() -> None:
    assert text("{{ $db.data.password }}", password="<&>'\"") == "<&>'\""


def test_a_whole_secret_can_be_written_as_json() -> None:
    assert json.loads(text("{{ $db|json }}"))["data"]["password"] == "geheim"


@pytest.mark.parametrize(
    ("expression", "shows"),
    [("data.password", False), ("lease_id", False), ("generation", False), ("verified", False)]
    + [(name, True) for name in ("lease_duration", "ttl", "expires_at", "renewable")],
)
def test_it_notes_whether_a_renewal_changes_what_it_shows(expression: str, shows: bool) -> None:
    assert render("{{ $db." + expression + " }}").shows_life is shows


@given(st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))))
def test_a_password_is_never_read_as_template(password: str) -> None:
    assert text("{{ $db.data.password }}", password=password) == password
    assert text("{{ $db.data.password }}", password="{{ 7 }}{% raw %}") == "{{ 7 }}{% raw %}"


# -- what its mistakes are called -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contents", "mistakes"),
    [
        ("{{ $db.data.password }}", []),
        ("a\n{{ b", ["line 2: unexpected end of template, expected 'end of print statement'."]),
        ("{{ 'x'|attr('y') }}", ["line 1: No filter named 'attr'."]),
        ("\n\n{{ nope }}{{ typo }}", ["line 3: 'nope' is undefined", "line 3: 'typo' is undefined"]),
        ("\n{% set nope.x = 1 %}", ["line 2: 'nope' is undefined"]),
        ("{{ secret('other').ttl }}", ['line 1: role "other" is not among the template\'s roles: add it there']),
        (
            "{{ secret('a\x00\x1b[2Jb').ttl }}",
            ['line 1: role "a??[2Jb" is not among the template\'s roles: add it there'],
        ),
        ("{{ " + "x" * 900 + " }}", [f"line 1: '{'x' * 491}…"]),
        ("{% include 'x' %}", ["line 1: a template stands alone: no include, import or extends"]),
        ("{% import 'x' as y %}", ["line 1: a template stands alone: no include, import or extends"]),
        ("{% extends 'x' %}", ["line 1: a template stands alone: no include, import or extends"]),
        ("{% for a in [1] recursive %}{{ loop([]) }}{% endfor %}", ["line 1: recursive loops are not available"]),
        ("{{ " + "(" * 5000 + " }}", ["not a template: RecursionError"]),
        ("{{ " + "9" * 5000 + " }}", ["not a template: ValueError"]),
    ],
)
def test_mistakes_in_a_template(contents: str, mistakes: list[str]) -> None:
    assert check_template(jinja(contents), ROLES) == mistakes


@pytest.mark.parametrize(
    ("template", "mistakes"),
    [
        (jinja("x", format="json"), ["exactly one of source, contents and format is needed, not contents and format"]),
        (
            model.Template(destination="/x", roles=(ROLE,)),
            ["exactly one of source, contents and format is needed, not none"],
        ),
        (
            model.Template(destination="/x", format="json", roles=(ROLE, OTHER)),
            ['format = "json" needs exactly one role, not 2'],
        ),
        (model.Template(destination="/x", format="json"), ['format = "json" needs exactly one role, not 0']),
        (
            model.Template(destination="/x", format="pgpass", roles=(ROLE,)),
            [
                'perms = "0440": libpq ignores a password file that others may read; '
                'set perms = "0400" and user to the app\'s'
            ],
        ),
        (model.Template(destination="/x", format="pgpass", roles=(ROLE,), perms=model.Mode(0o600)), []),
    ],
)
def test_mistakes_beside_the_template(template: model.Template, mistakes: list[str]) -> None:
    assert check_template(template, ROLES) == mistakes


@pytest.mark.parametrize(("name", "needs"), [("url", True), ("pg_service", True), ("dotenv", False), ("json", False)])
def test_a_format_that_says_where_to_connect_needs_to_know_it(name, needs: bool) -> None:
    found = check_template(model.Template(destination="/x", format=name, roles=(ROLE,)), {ROLE: role(connection=None)})

    assert bool(found) is needs
    assert all("add connection = { host, dbname } to role" in line for line in found)


def test_the_source_file_is_read(tmp_path: Path) -> None:
    source = tmp_path / "t.j2"
    source.write_text("é {{ 1 }}")
    run = compiled(jinja(None, source=str(source)), ROLES, model.TemplateConfig())

    assert run({ROLE: credential()}).data == "é 1".encode()


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (None, "No such file or directory"),
        (b"\xff", "is not UTF-8"),
        (b"x" * 65537, "is longer than 65536"),
    ],
)
def test_a_source_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None, mistake: str) -> None:
    source = tmp_path / "t.j2"
    if content is not None:
        source.write_bytes(content)

    (line,) = check_template(jinja(None, source=str(source)), ROLES)

    assert line.startswith(f"source {source}")
    assert mistake in line


PIECES = [
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "|",
    ".",
    "(",
    ")",
    "'",
    '"',
    "\n",
    " for ",
    " in ",
    "if",
    "secret",
    "set x = ",
    "0",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_any_text_is_a_template_or_a_list_of_one_line_mistakes(contents: str) -> None:
    mistakes = check_template(jinja(contents), ROLES)

    assert all(line and "\n" not in line for line in mistakes)


# -- the shipped ones -----------------------------------------------------------------------------------------------


def shipped(name: str) -> str:
    source = str(SHIPPED / name)
    template = model.Template(destination="/x", source=source, roles=(ROLE, OTHER))
    run = compiled(template, ROLES, model.TemplateConfig())
    data = {"username": "u", "password": SAMPLE}
    return run({ROLE: credential(data), OTHER: credential(data, name=OTHER)}).data.decode()


def test_the_shipped_env_file_equals_the_ready_made_one() -> None:
    from agent.files.formats import FORMATS

    assert shipped("db-creds.env.j2") == FORMATS["dotenv"](credential({"username": "u", "password": SAMPLE}), "DB_")


def test_the_shipped_pgpass_has_a_line_per_role() -> None:
    from agent.files.formats import FORMATS

    assert shipped("pgpass.j2") == 2 * FORMATS["pgpass"](credential({"username": "u", "password": SAMPLE}), "")


def test_the_shipped_service_file_has_a_service_per_role() -> None:
    from agent.files.formats import FORMATS

    ready_made = FORMATS["pg_service"](credential({"username": "u", "password": SAMPLE}), "")
    expected = [ready_made.replace("[app-readonly]", name) for name in ("[readonly]", "[readwrite]")]

    assert shipped("pg_service.conf.j2") == "".join(expected)


def test_the_shipped_yaml_holds_every_value_as_a_json_scalar() -> None:
    lines = dict(line.strip().split(": ", 1) for line in shipped("app.yaml.j2").splitlines() if ": " in line)

    assert json.loads(lines["password"]) == SAMPLE
    assert json.loads(lines["expires_at"]) == "2027-01-15T08:01:00Z"
    assert lines["port"] == "5433"
    assert json.loads(lines["url"]).startswith(
        "postgresql://u:A1a-%2B%2F%3D%40%3A%27%22%20%24%5C%60@db.example.com:5433/"
    )


def test_every_shipped_template_says_how_to_use_it() -> None:
    for path in SHIPPED.glob("*.j2"):
        assert "[[template]]" in path.read_text().split("#}")[0], path


def test_jinja_is_not_imported_before_a_template_needs_it() -> None:
    script = "import sys, agent.files.files; sys.exit('jinja2' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False).returncode == 0
