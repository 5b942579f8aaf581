"""quoting: for each syntax, an independent reader gets back the very text."""

import json
import os
import re
import subprocess
from pathlib import Path
from urllib.parse import unquote

import psycopg.conninfo
import pytest
from hypothesis import example, given

from agent.errors import RenderError
from agent.files import quoting
from tests.unit.files.builders import PASSWORDS, SAMPLE, hostile_passwords


def read_like_python_dotenv(text: str) -> str:
    """python-dotenv's grammar of one value, without its replacement of ${NAME}."""
    if match := re.match(r"'((?:\\'|[^'])*)'[ \t]*$", text):
        return re.sub(r"\\([\\'])", r"\1", match[1])
    if match := re.match(r'"((?:\\"|[^"])*)"[ \t]*$', text):
        escapes = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}
        return re.sub(r"\\([\\'\"abfnrtv])", lambda m: escapes.get(m[1], m[1]), match[1])
    return re.sub(r"\s+#.*", "", text).rstrip()


def python_dotenv_differs(text: str) -> bool:
    """What the table in quoting.py says about python-dotenv."""
    if not re.search(r'[\\"$`]', text):
        return False
    if "'" in text:
        return bool(re.search(r"[$`]|\\$", text))
    return "\\\\" in text or text.endswith("\\")


def read_like_libpq_pgpass(field: str) -> str:
    """As libpq reads a field: up to a bare colon, backslashes taken off."""
    out, at = "", 0
    while at < len(field) and field[at] != ":":
        at += field[at] == "\\" and at + 1 < len(field)
        out += field[at]
        at += 1
    assert at == len(field), "a bare colon ends the field early"
    return out


def read_by_sh(directory: Path, assignments: list[str], names: list[str]) -> list[str]:
    """What `sh` finds in the variables of a file that it sources."""
    file = directory / "values"
    file.write_text("\n".join(assignments) + "\n")
    printing = "".join(f"printf '%s\\0' \"${name}\"\n" for name in names)
    environment = {"PATH": os.environ["PATH"]}
    done = subprocess.run(
        ["sh", "-c", f". {file}\n{printing}"], capture_output=True, check=True, env=environment, text=True
    )
    assert done.stderr == ""
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("prefix", ["", "export "])
@pytest.mark.parametrize("quote", [quoting.dotenv, quoting.shell])
def test_sh_reads_a_thousand_hostile_passwords_exactly(tmp_path: Path, prefix: str, quote) -> None:
    passwords = hostile_passwords(1000)
    names = [f"V{n}" for n in range(1000)]
    lines = [f"{prefix}{name}={quote(text)}" for name, text in zip(names, passwords, strict=True)]

    assert read_by_sh(tmp_path, lines, names) == passwords


@given(text=PASSWORDS)
@example(text=SAMPLE)
@example(text="ab\\")
@example(text="")
def test_a_dotenv_parser_reads_what_the_table_promises(text: str) -> None:
    if not python_dotenv_differs(text):
        assert read_like_python_dotenv(quoting.dotenv(text)) == text


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("A1a-+/=@:b,%._", "A1a-+/=@:b,%._"),
        ("", ""),
        ("a b", '"a b"'),
        ("a#b", '"a#b"'),
        ("~root", '"~root"'),
        ("it's", '"it\'s"'),
        ("a$b", "'a$b'"),
        ('a"b', "'a\"b'"),
        ("a'$b", '"a\'\\$b"'),
        ("é", '"é"'),
        ("two\nlines", '"two\nlines"'),
    ],
)
def test_dotenv_quotes_only_where_it_must(text: str, written: str) -> None:
    assert quoting.dotenv(text) == written


@given(text=PASSWORDS)
@example(text=SAMPLE)
def test_json_reads_back(text: str) -> None:
    assert json.loads(quoting.json_text({"p": text})) == {"p": text}


@given(text=PASSWORDS)
@example(text="\u007f\u0085\ufeff\ufffe" + SAMPLE)
def test_json_is_yaml_too_nothing_unprintable_stands_in_it(text: str) -> None:
    printable = re.compile("[\t\n\r\x20-\x7e\xa0-\u2027\u202a-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]*")

    assert printable.fullmatch(quoting.json_text(text))


def test_json_has_no_html_escapes() -> None:
    assert quoting.json_text("<a href='x'>&") == "\"<a href='x'>&\""


@given(text=PASSWORDS)
@example(text=SAMPLE)
def test_a_url_part_reads_back_and_holds_no_separator(text: str) -> None:
    written = quoting.url(text)

    assert unquote(written) == text
    assert not set(written) & set(":/?#[]@!$&'()*+,;= ")


@given(text=PASSWORDS)
@example(text=SAMPLE)
def test_libpq_reads_a_conninfo_value_exactly(text: str) -> None:
    read = psycopg.conninfo.conninfo_to_dict(f"user=u password={quoting.conninfo(text)} dbname=d")

    assert read == {"user": "u", "password": text, "dbname": "d"}


@given(text=PASSWORDS)
@example(text=SAMPLE)
@example(text="*")
def test_a_pgpass_field_reads_back(text: str) -> None:
    assert read_like_libpq_pgpass(quoting.pgpass(text)) == text


def test_a_lone_star_is_no_wildcard_in_pgpass() -> None:
    assert quoting.pgpass("*") == "\\*"


def test_libpq_reads_a_thousand_hostile_passwords_from_a_service_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = [text.rstrip(" ") for text in hostile_passwords(1000)]
    file = tmp_path / "services"
    file.write_text("".join(f"[s{n}]\npassword={quoting.pg_service(text)}\n" for n, text in enumerate(passwords)))
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    read = []

    for n in range(1000):
        monkeypatch.setenv("PGSERVICE", f"s{n}")
        found = {option.keyword: option.val for option in psycopg.pq.Conninfo.get_defaults()}
        read.append((found[b"password"] or b"").decode())

    assert read == passwords


@pytest.mark.parametrize("text", ["a ", "a\t"])
def test_a_service_file_refuses_what_it_would_cut_off(text: str) -> None:
    with pytest.raises(RenderError, match="ends with a blank"):
        quoting.pg_service(text)


@pytest.mark.parametrize("quote", [quoting.pgpass, quoting.pg_service])
@pytest.mark.parametrize("end", ["\n", "\r", "\0"])
def test_formats_of_one_line_refuse_several(quote, end: str) -> None:
    with pytest.raises(RenderError, match="several lines") as caught:
        quote(f"geheim{end}x")

    assert "geheim" not in str(caught.value)
