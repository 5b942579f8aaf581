r"""Texts made safe for the syntax they are put into. Pure functions: a text in, a text out.

Each is exact for the syntax it names: what its reader gets back is the very text. Where a syntax cannot hold a text,
RenderError says so without showing it.

`dotenv` has no standard. A value stands bare where its characters allow it, which every parser reads alike; so do all
values that Leasehold mints itself. Otherwise it gets the quoting that most parsers agree on, and `sh` reads each of
them exactly:

    value holds                     written              read alike by
    only A-Za-z0-9 _./:@%+,=-       bare                 all
    none of \ " $ `                 "double quotes"      all
    no '                            'single quotes'      sh, Docker Compose, Node, Ruby; python-dotenv unless it holds
                                                         \\ or ends with \; dotenv-java keeps the quotes
    anything                        "double quotes",     sh, Docker Compose; python-dotenv unless it holds $ or `
                                    \ before \ " $ `

python-dotenv also replaces ``${NAME}`` in any kind of quotes. Who needs such passwords exact everywhere uses `json`.
"""

import json
import re
import shlex
from typing import Any
from urllib.parse import quote

from agent.errors import RenderError

_BARE = re.compile(r"[A-Za-z0-9_./:@%+,=-]*", re.ASCII)
_SPECIAL = re.compile(r'[\\"$`]')
_YAML_UNPRINTABLE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
_LINE_ENDS = re.compile("[\r\n\0]")


def dotenv(text: str) -> str:
    """The value of `NAME=value` in an .env file."""
    if _BARE.fullmatch(text):
        return text
    if not _SPECIAL.search(text):
        return f'"{text}"'
    if "'" not in text:
        return f"'{text}'"
    return '"' + _SPECIAL.sub(r"\\\g<0>", text) + '"'


def shell(text: str) -> str:
    """One word of a POSIX shell."""
    return shlex.quote(text)


def json_text(value: Any) -> str:
    """JSON, which is YAML as well: any scalar, list or mapping, without HTML escapes."""
    plain = json.dumps(value, ensure_ascii=False)
    return _YAML_UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", plain)


def url(text: str) -> str:
    """Any part of a URL: user, password, host, path segment or query value."""
    return quote(text, safe="")


def conninfo(text: str) -> str:
    """A value of libpq's `keyword=value` connection string."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def pgpass(text: str) -> str:
    """A field of libpq's password file."""
    _one_line(text, "a password file")
    # Bare, a star would stand for anything, and a hash at the beginning of the line make a comment of it.
    first = "\\" if text == "*" or text.startswith("#") else ""
    return first + text.replace("\\", "\\\\").replace(":", "\\:")


def pg_service(text: str) -> str:
    """The value of `keyword=value` in libpq's connection service file, which knows no quoting."""
    _one_line(text, "a connection service file")
    if text != text.rstrip(" \t\v\f"):
        raise RenderError("a connection service file cannot hold a value that ends with a blank")
    return text


def _one_line(text: str, where: str) -> None:
    if _LINE_ENDS.search(text):
        raise RenderError(f"{where} cannot hold a value of several lines")
