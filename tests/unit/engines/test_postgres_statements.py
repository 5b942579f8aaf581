"""Where placeholders may stand in a role's SQL, and that no value can get out of its place."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.config.model import Role
from agent.engines.postgres import check_statements
from agent.engines.postgres.recipe import recipe
from agent.engines.postgres.statements import Place, StatementMistake, Value, Values, parse, render
from agent.engines.postgres.tokens import Kind, tokens

ALL = frozenset(Value)
VALUES = Values(name='v"x', password="SCRAM-SHA-256$1:a'b$c", expiration="2099-01-01T00:00:00Z")
VAULT = (
    """CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; """
    """GRANT SELECT ON ALL TABLES IN SCHEMA public TO "{{name}}";"""
)


def rendered(text: str, values: Values = VALUES) -> str:
    return render(parse(text, allowed=ALL), values, None).decode()


def mistakes(text: str, allowed: frozenset[Value] = ALL) -> str:
    with pytest.raises(StatementMistake) as caught:
        parse(text, allowed=allowed)
    return str(caught.value)


def test_the_spelling_of_vault_s_roles_is_accepted_and_its_quotes_go_with_the_placeholder():
    assert rendered(VAULT) == (
        """CREATE ROLE "v""x" WITH LOGIN PASSWORD 'SCRAM-SHA-256$1:a''b$c' VALID UNTIL '2099-01-01T00:00:00Z'; """
        """GRANT SELECT ON ALL TABLES IN SCHEMA public TO "v""x";"""
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DROP ROLE {{name}}", 'DROP ROLE "v""x"'),
        ("DROP ROLE {{username}};", 'DROP ROLE "v""x";'),
        ('DROP ROLE "{{username}}"', 'DROP ROLE "v""x"'),
        ("SELECT 1 WHERE usename = '{{name}}'", """SELECT 1 WHERE usename = 'v"x'"""),
        ("VALID UNTIL {{expiration}}", "VALID UNTIL '2099-01-01T00:00:00Z'"),
        ("f('{{expiration}}'::timestamptz)", "f('2099-01-01T00:00:00Z'::timestamptz)"),
        ('"{{name}}".t', '"v""x".t'),
        ("ARRAY[{{name}}]", 'ARRAY["v""x"]'),
        ("PASSWORD{{password}}", None),
        ("SELECT '100%' || $1 || '{\"a\": 1}'", "SELECT '100%' || $1 || '{\"a\": 1}'"),
        ("SELECT $f$ ; ' $f$, E'\\'', \"a\"\"b\" /* ' /* nested */ */ -- '", None),
    ],
)
def test_a_placeholder_is_replaced_as_a_whole_token_and_everything_else_is_left(text, expected):
    if expected is None and "{{" not in text:
        assert rendered(text) == text
    elif expected is None:
        assert "glued" in mistakes(text)
    else:
        assert rendered(text) == expected


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("SELECT 'x{{name}}'", "inside a longer string"),
        ("SELECT '{{name}} '", "inside a longer string"),
        ("SELECT '{{name}}''s'", "inside a longer string"),
        ("SELECT '''{{name}}'", "inside a longer string"),
        ('DROP ROLE "x{{name}}"', "inside a longer quoted name"),
        ('DROP ROLE """{{name}}"', "inside a longer quoted name"),
        ("SELECT $${{name}}$$", "inside a dollar quote"),
        ("DO $x$ BEGIN EXECUTE '{{name}}'; END $x$", "inside a dollar quote"),
        ("SELECT 1 -- '{{name}}'", "inside a comment"),
        ("/* /* */ '{{name}}' */ SELECT 1", "inside a comment"),
        ("SELECT E'{{name}}'", "inside an E'…'"),
        ("SELECT e'\\'{{name}}'", "inside an E'…'"),
        ("SELECT U&'{{name}}'", "inside an E'…'"),
        ('SELECT U&"{{name}}"', "inside an E'…'"),
        ("SELECT N'{{name}}'", "inside an E'…'"),
        ("SELECT B'{{name}}'", "inside an E'…'"),
        ("SELECT E{{password}}", "glued"),
        ("DROP ROLE x{{name}}", "glued"),
        ("DROP ROLE {{name}}x", "glued"),
        ("DROP ROLE {{name}}1", "glued"),
        ("DROP ROLE {{name}}{{name}}", "glued"),
        ('DROP ROLE "a""{{name}}"', "inside a longer quoted name"),
        ("DROP ROLE \u00a0{{name}}", "glued"),
        ("SELECT 'a'\n'{{password}}'", "beside another string"),
        ("SELECT {{password}} -- and\n 'a'", "beside another string"),
        ('PASSWORD "{{password}}"', "is not a name"),
        ("DROP ROLE {{role}}", "is unknown"),
        ("DROP ROLE '{{ name }}'", "is unknown"),
        ("DROP ROLE '{{na\nme}}'", "is unknown"),
        ("SELECT 'a", "a quote is not closed"),
        ('SELECT "a', "a quote is not closed"),
        ("SELECT E'a\\'", "a quote is not closed"),
        ("SELECT $a$ $b$", "a dollar quote $a$ is not closed"),
        ("SELECT /* /* */", "a /* comment is not closed"),
        ("SELECT '\0'", "NUL"),
        ("", "is empty"),
        ("  -- nothing\n", "is empty"),
        ("COMMIT", "COMMIT is refused"),
        ("SELECT 1; rollback; SELECT 2", "ROLLBACK is refused"),
        ("SELECT (1); /* x */ Begin", "BEGIN is refused"),
        ("PREPARE TRANSACTION 'x'", "PREPARE is refused"),
        ("END", "END is refused"),
    ],
)
def test_any_other_context_is_refused_with_its_reason(text, why):
    assert why in mistakes(text)


def test_every_mistake_of_a_statement_is_named_on_one_line():
    text = mistakes("COMMIT; SELECT 'x{{name}}', {{na\nme}}")

    assert len(text.split("; ")) == 3
    assert "\n" not in text


def test_a_value_that_does_not_exist_there_is_refused():
    assert "has no value here" in mistakes("SELECT '{{password}}'", frozenset({Value.NAME}))


def test_a_function_body_of_the_sql_standard_may_begin_and_end():
    parse("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; END", allowed=ALL)


@pytest.mark.parametrize(
    ("text", "grants"),
    [
        ("GRANT SELECT ON t TO {{name}}", True),
        ("SELECT 1; ALTER DEFAULT PRIVILEGES IN SCHEMA s GRANT ALL ON TABLES TO {{name}}", True),
        ("GRANT app_readonly TO {{name}}", False),
        ("CREATE ROLE {{name}} IN ROLE app", False),
        ("SELECT 'GRANT SELECT ON t'", False),
    ],
)
def test_direct_grants_are_recognised(text, grants):
    assert parse(text, allowed=ALL).grants is grants


# -- properties

PIECES = st.sampled_from(
    [
        *("{{name}}", '"{{name}}"', "'{{name}}'", "'{{password}}'", "{{expiration}}", "'", '"', "$$", "$a$", "a", "E'"),
        *("--", "\n", "/*", "*/", ";", " ", "\\", "''", "U&'", "(", ")", "1", "\u00a0", "SELECT", "{{x}}", "{", "}"),
    ]
)
ANY = st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(text=st.lists(PIECES, max_size=14).map("".join))
def test_the_tokens_of_a_text_joined_are_the_text(text):
    try:
        found = list(tokens(text))
    except ValueError:
        return

    assert "".join(token.text for token in found) == text


@given(text=st.lists(PIECES, max_size=14).map("".join), name=ANY, password=ANY, expiration=ANY)
def test_no_value_changes_the_statement_around_it(text, name, password, expiration):
    """Rendered, the text has the same tokens as before, and exactly the placeholders differ."""
    try:
        statement = parse(text, allowed=ALL)
    except StatementMistake:
        return
    plain = Values(name="n", password="p", expiration="e")

    hostile = list(
        tokens(render(statement, Values(name=name, password=password, expiration=expiration), None).decode())
    )
    tame = list(tokens(render(statement, plain, None).decode()))

    shape = [token for token in tame if token.kind is not Kind.SPACE]
    other = [token for token in hostile if token.kind is not Kind.SPACE]
    assert len(shape) == len(other)
    same_kind = {Kind.STRING: Kind.STRING, Kind.ESCAPED: Kind.STRING}  # a backslash makes an E'…' of a literal
    for before, after in zip(shape, other, strict=True):
        assert same_kind.get(before.kind, before.kind) == same_kind.get(after.kind, after.kind)
        if before.text not in ("'p'", "'e'", "'n'", '"n"'):
            assert before.text == after.text


@given(text=st.text(alphabet=string.printable + "{}'\"$\\ü\u00a0", max_size=60))
def test_any_text_parses_or_is_a_mistake(text):
    try:
        statement = parse(text, allowed=ALL)
    except StatementMistake:
        return

    assert "{{name}}" not in "".join(part for part in statement.parts if not isinstance(part, Place))


# -- check_statements


def test_a_sound_role_has_no_mistakes():
    role = Role(
        upstream="postgresql",
        creation_statements=(VAULT,),
        renewal_statements=("ALTER ROLE \"{{name}}\" VALID UNTIL '{{expiration}}'",),
        revocation_statements=("SELECT 1",),
        rollback_statements=('DROP ROLE IF EXISTS "{{name}}"',),
    )

    assert check_statements("database/creds/app", role) == []
    assert recipe("database/creds/app", role).grants


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, ["group or creation_statements is missing: its users could do nothing"]),
        ({"group": "x" * 64}, ["group is longer than 63 bytes, where PostgreSQL cuts names"]),
        (
            {"creation_statements": ("CREATE ROLE {{name}} PASSWORD 'x{{password}}'", "COMMIT")},
            [
                "creation_statements[0]: {{password}} stands inside a longer string: it must be a token of its own",
                "creation_statements[1]: COMMIT is refused: the engine begins and ends the transaction",
            ],
        ),
        (
            {"creation_statements": ("CREATE ROLE {{name}} PASSWORD {{password}}",)},
            ["creation_statements never use {{expiration}}: the user would not end with its lease"],
        ),
        (
            {"group": "g", "renewal_statements": ("ALTER ROLE {{name}} PASSWORD {{password}}",)},
            ["renewal_statements[0]: {{password}} has no value here"],
        ),
        (
            {"group": "g", "renewal_statements": ("ALTER ROLE {{name}} LOGIN",)},
            ["renewal_statements never use {{expiration}}: the user would not end with its lease"],
        ),
    ],
)
def test_each_mistake_of_a_role_is_one_line_beginning_with_its_key(change, expected):
    assert check_statements("database/creds/app", Role(upstream="postgresql", **change)) == expected
