"""Files, and what in them is no TOML."""

import errno
from pathlib import Path, PosixPath
from typing import Any, NoReturn

import pytest

from agent.config.load import MAX_SIZE, load_file
from agent.errors import ConfigError
from tests.unit.config.documents import ROLE_PATH, document, wrong

# -- TOML ------------------------------------------------------------------------------------------------------------

SYNTAX = {
    "no quotes": ("group = readers", "agent.toml: line 1, column 9: not a value; strings stand in quotes"),
    "a role twice": (
        '[role."a/creds/b"]\n[role."a/creds/b"]',
        "agent.toml: line 2, column 18: this table is declared twice",
    ),
    "a key twice": ("a = 1\na = 2\n", "agent.toml: line 2, column 6: this key is set twice"),
    "a key twice, inline": ("a = { b = 1, b = 2 }", "agent.toml: line 1, column 19: this key is set twice"),
    "a table redefined": (
        "a = { b = 1 }\na.c = 2\n",
        "agent.toml: line 2, column 8: this table or array is complete and takes no more keys",
    ),
    "a dotted table redefined": ("a.b = 1\n[a]\n", "agent.toml: line 2, column 3: this table is declared twice"),
    "no equals sign": ("a", "agent.toml: end of document: a key without `=` after it"),
    "two on one line": (
        'a = "b" c',
        "agent.toml: line 1, column 9: more text after a complete value; strings stand in quotes",
    ),
    "an open string": ('a = "b', "agent.toml: end of document: unterminated string"),
    "a control character": ('a = "\x01"', "agent.toml: line 1, column 6: illegal character"),
    "a bad escape": ('a = "\\q"', "agent.toml: line 1, column 8: unescaped"),
    "an open array": ("a = [1", "agent.toml: end of document: unclosed array"),
    "nested without end": ("a = " + "[" * 5000, "agent.toml: is nested too deeply, or has a number beyond all bounds"),
    "a number without end": (
        f"a = {'9' * 5000}",
        "agent.toml: is nested too deeply, or has a number beyond all bounds",
    ),
    "tables below tables": ("a." * 50 + "a = 1", "agent.toml: more than 20000 values, or tables 20 deep; split it"),
    "too many values": (f"a = [{'1,' * 20001}]", "agent.toml: more than 20000 values, or tables 20 deep; split it"),
    "no UTF-8": (b"a = '\xff'", "agent.toml: is not UTF-8; save it as UTF-8"),
    "half a character": ("a = '\ud800'", "agent.toml: is not UTF-8; save it as UTF-8"),
    "more than a mebibyte": (b"#" * (MAX_SIZE + 1), "agent.toml: longer than 1 MiB; that is no configuration file"),
}


@pytest.mark.parametrize(("text", "expected"), SYNTAX.values(), ids=SYNTAX.keys())
def test_what_is_no_toml_is_named_by_line(text: str | bytes, expected: str) -> None:
    assert wrong(text) == [expected]


# -- files -----------------------------------------------------------------------------------------------------------


def load_mistakes(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_file(path, environ={})
    return caught.value.mistakes


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(document(more_server='port = 5433\n# ${NO_VARIABLE}\nschema = "${S}"'))

    assert load_file(path, environ={"S": "mine"}).postgresql["postgresql"].schema == "mine"


def test_short_leases_can_be_allowed_in_a_file_too(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(document(more_role='default_ttl = "2s"'))

    assert load_file(path, environ={}, allow_short=True).role["database/creds/app"].ttl == 2.0
    assert load_mistakes(path) == (f'{ROLE_PATH}.default_ttl: "2s" is too short; at least "5s"',)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"

    assert load_mistakes(path) == (f"{path}: no such file; name the configuration file, or make one",)


def test_a_directory_is_named(tmp_path: Path) -> None:
    assert load_mistakes(tmp_path) == (f"{tmp_path}: is a directory; name the file in it",)


def test_a_file_below_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").touch()

    assert load_mistakes(tmp_path / "a" / "b") == (f"{tmp_path}/a/b: cannot be read: Not a directory",)


def test_a_path_with_nul_is_named() -> None:
    assert load_mistakes(Path("a\0b"))[0].endswith(": cannot be read: not a usable path")


class Closed(PosixPath):
    """A file that this user may not read, whoever runs the test."""

    def open(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))


def test_an_unreadable_file_is_named() -> None:
    mistake = "/etc/agent.toml: may not be read by this user; change its owner or its mode"

    assert load_mistakes(Closed("/etc/agent.toml")) == (mistake,)


def test_a_file_that_is_too_large_is_not_read_whole() -> None:
    assert load_mistakes(Path("/dev/zero")) == ("/dev/zero: longer than 1 MiB; that is no configuration file",)


def test_a_mistake_of_syntax_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.toml"
    path.write_text("a = b")

    assert load_mistakes(path) == (f"{path}: line 1, column 5: not a value; strings stand in quotes",)
