"""Any text through every filter and format, and back by the rules of its reader: the very text, or a refusal.

The readers are others' where Python has them (json, yaml, shlex, libpq through psycopg), and otherwise their rules
written down from their sources: sh's double quotes (POSIX 2.2.3), libpq's passwordFromFile and parseServiceFile.
"""

import json
import shlex
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import unquote

import psycopg
from psycopg.conninfo import conninfo_to_dict

from agent.errors import RenderError
from agent.files import formats, quoting
from agent.files.credential import Credential
from tests.fuzz.inputs import Input
from tests.unit.files.builders import credential, role

# Comes with the fuzzer's requirements; JSON is read back in any case.
_yaml: Any = import_module("yaml") if find_spec("yaml") else None

_FIELDS = ("username", "password", "host", "port", "dbname", "sslmode", "extra", "ca_pem")
_PLACE = "PATH"


def run(data: bytes) -> None:
    """One text through the filters; a credential of several through the formats."""
    given = Input(data)
    multiline = given.number() % 2 == 1
    text = given.text()
    for quote, read in _READERS.items():
        written = _tried(quote, text)
        if written is not None and _readable(text):
            assert read(written) == text, f"{quote.__name__} of {text!r} reads back as {read(written)!r}"
    fields = {}
    while not given.empty:
        fields[given.choice(_FIELDS)] = given.text()
    _check_formats(fields or {"username": text, "password": text}, multiline)


def _tried(quote: Callable[[str], str], text: str) -> str | None:
    try:
        return quote(text)
    except RenderError as error:
        _check_refusal(error, text)
    except UnicodeEncodeError:
        assert not _readable(text), "only a lone surrogate cannot be encoded"
    return None


def _readable(text: str) -> bool:
    """Whether a file can hold it: Credential refuses NUL and lone surrogates before any of this."""
    return "\0" not in text and text.isprintable() | (text.encode("utf-8", "replace").decode() == text)


def _check_refusal(error: RenderError, text: str) -> None:
    assert str(error).isprintable(), f"not one printable line: {error}"
    assert len(text) < 8 or text not in str(error), "a refusal repeats the value"


# -- readers ---------------------------------------------------------------------------------------------------------


def read_word(written: str) -> str:
    """One word of a POSIX shell, with its rules for quotes (2.2); anything that would be expanded or split fails."""
    out, at = "", 0
    while at < len(written):
        char = written[at]
        if char == "'":
            end = written.index("'", at + 1)
            out += written[at + 1 : end]
            at = end + 1
        elif char == '"':
            more, at = _read_double_quoted(written, at + 1)
            out += more
        elif char == "\\":
            out += written[at + 1]
            at += 2
        else:
            assert char not in " \t\n|&;<>()$`*?[#~!{}", f"a bare {char!r}"
            out += char
            at += 1
    return out


def _read_double_quoted(written: str, at: int) -> tuple[str, int]:
    """From behind the opening quote: what it holds, and where it ends."""
    out = ""
    while written[at] != '"':
        assert written[at] not in "$`", "an expansion in double quotes"
        if written[at] == "\\" and written[at + 1] in '$`"\\\n':
            at += 1
            out += "" if written[at] == "\n" else written[at]
        else:
            out += written[at]
        at += 1
    return out, at + 1


def _read_shlex(written: str) -> str:
    (word,) = shlex.split(written)
    assert read_word(written) == word
    return word


def _read_json(written: str) -> str:
    value: str = json.loads(written)
    if _yaml is not None:
        assert _yaml.safe_load(written) == value, "YAML reads it differently"
    return value


def _read_url(written: str) -> str:
    assert not set(written) & set("/?#[]@:&= "), "a separator"
    return unquote(written, errors="strict")


def _read_conninfo(written: str) -> str:
    return str(conninfo_to_dict(f"dbname=x application_name={written} user=y").get("application_name", ""))


def read_pgpass(text: str) -> list[list[str]]:
    """Lines and fields as libpq's passwordFromFile takes them: `#` begins a comment, `\\` quotes the next."""
    lines = []
    for line in text.split("\n"):
        if not line or line.startswith("#"):
            continue
        fields: list[str] = []
        field, at = "", 0
        while at < len(line):
            if line[at] == "\\" and at + 1 < len(line):
                at += 1
            elif line[at] == ":" and len(fields) < 4:
                fields.append(field)
                field, at = "", at + 1
                continue
            field += line[at]
            at += 1
        lines.append([*fields, field])
    return lines


def _read_pgpass_field(written: str) -> str:
    assert "\n" not in written
    ((found, *_),) = read_pgpass(f"{written}:1:2:3:4") if not written.startswith("#") else [[written]]
    assert written != "*", "a wildcard"
    return found


def read_service(text: str) -> dict[str, str]:
    """The one service of a file, as libpq's parseServiceFile reads it: blanks go at both ends of a line."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        line = line.strip(" \t\n\v\f\r")
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            assert "" not in found, "a second service"
            found[""] = line[1 : line.index("]")]
            continue
        keyword, equals, value = line.partition("=")
        assert equals, "a line without ="
        assert keyword not in found, "a keyword twice"
        found[keyword] = value
    return found


def _read_service_value(written: str) -> str:
    return read_service(f"[x]\npassword={written}\n").get("password", "")


_READERS: dict[Callable[[str], str], Callable[[str], str]] = {
    quoting.dotenv: read_word,
    quoting.shell: _read_shlex,
    quoting.json_text: _read_json,
    quoting.url: _read_url,
    quoting.conninfo: _read_conninfo,
    quoting.pgpass: _read_pgpass_field,
    quoting.pg_service: _read_service_value,
}


# -- formats ---------------------------------------------------------------------------------------------------------


def _check_formats(fields: dict[str, str], multiline: bool) -> None:
    try:
        held = credential(fields, of=role(multiline=multiline))
    except RenderError as error:
        _check_refusal(error, max(fields.values(), key=len))
        return
    for name, check in _CHECKS.items():
        try:
            written = formats.FORMATS[name](held, "DB_")
        except RenderError as error:
            _check_refusal(error, max(fields.values(), key=len))
            continue
        check(written, held)


def _check_pairs(written: str, held: Credential, export: str = "") -> None:
    pairs = {}
    rest = written
    while rest:
        # A value may hold line ends: it ends where its quotes are closed.
        name, _, rest = rest.partition("=")
        value, rest = _one_value(rest)
        assert name.startswith(export)
        pairs[name.removeprefix(export)] = value
    assert pairs["DB_LEASE_ID"] == held.lease_id
    assert _PLACE not in pairs
    keys = {"username": "DB_USER", "password": "DB_PASS", "dbname": "DB_NAME"}
    for name, text in held.data.items():
        assert pairs[keys.get(name, f"DB_{name.upper()}")] == text, name


def _one_value(rest: str) -> tuple[str, str]:
    for end in [at for at, char in enumerate(rest) if char == "\n"]:
        try:
            return read_word(rest[:end]), rest[end + 1 :]
        except (ValueError, IndexError):
            continue  # within quotes
    raise AssertionError("no end of a value")


def _check_export(written: str, held: Credential) -> None:
    _check_pairs(written, held, "export ")


def _check_json(written: str, held: Credential) -> None:
    data: dict[str, Any] = json.loads(written)["data"]
    assert {name: str(value) for name, value in data.items()} == held.data


def _check_pgpass(written: str, held: Credential) -> None:
    """libpq finds the password for this very place, and for no other."""
    wanted = [*(held.data[name] or "*" for name in ("host", "port", "dbname")), held.data["username"]]
    first, *others = read_pgpass(written)
    assert first == [*wanted, held.data["password"]]
    assert others == ([["localhost", *wanted[1:], held.data["password"]]] if wanted[0].startswith("/") else [])


def _check_service(written: str, held: Credential) -> None:
    found = read_service(written)
    names = {"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname"}
    assert {keyword: found[keyword] for keyword in names} == {key: held.data[name] for key, name in names.items()}
    assert set(found) == {"", "sslmode", *names}


def _check_url(written: str, held: Credential) -> None:
    """libpq takes it apart into what went in."""
    assert "\n" not in written
    try:
        found = conninfo_to_dict(written)
    except psycopg.ProgrammingError as error:
        raise AssertionError(f"libpq cannot read {written!r}: {error}") from None
    names = {"user": "username", "password": "password", "host": "host", "port": "port", "dbname": "dbname"}
    for keyword, name in names.items():
        assert str(found.get(keyword, "")) == held.data[name], f"{keyword} of {written!r}"
    assert set(found) <= {"sslmode", *names}, f"more than was meant: {set(found)}"


_CHECKS: dict[str, Callable[[str, Credential], None]] = {
    "dotenv": _check_pairs,
    "shell-export": _check_export,
    "json": _check_json,
    "pgpass": _check_pgpass,
    "pg_service": _check_service,
    "url": _check_url,
}
