"""The lexical structure of PostgreSQL's SQL, as far as quoting goes: where strings, names and comments begin and end.

Pure, and strict where the server is: white space and identifier characters are the server's, not Unicode's (a no-break
space is a letter to PostgreSQL). Assumes `standard_conforming_strings = on`, which our connections set.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto


class Kind(Enum):
    """What a token is."""

    SPACE = auto()
    COMMENT = auto()
    STRING = auto()  # '…'
    ESCAPED = auto()  # E'…', B'…', X'…', N'…', U&'…', U&"…"
    DOLLAR = auto()  # $tag$…$tag$
    QUOTED = auto()  # "…"
    PLACE = auto()  # {{…}}
    WORD = auto()
    NUMBER = auto()
    OTHER = auto()


@dataclass(frozen=True, kw_only=True)
class Token:
    """A piece of SQL; the tokens of a text, joined, are the text."""

    kind: Kind
    text: str


class Unterminated(ValueError):
    """A string, name or comment does not end; the text says which."""


# Possessive quantifiers (*+) keep '' and "" together: a doubled quote never ends a string.
_LEXEMES = re.compile(
    r"""
      (?P<SPACE>[ \t\n\r\f\v]+)
    | (?P<COMMENT>--[^\n\r]*)
    | (?P<BLOCK>/\*)
    | (?P<PLACE>\{\{[^{}]*\}\})
    | (?P<ESCAPED>[eE]'(?:[^'\\]|''|\\[\s\S])*+' | (?:[uU]&|[bBxXnN])'(?:[^']|'')*+' | [uU]&"(?:[^"]|"")*+")
    | (?P<STRING>'(?:[^']|'')*+')
    | (?P<QUOTED>"(?:[^"]|"")*+")
    | (?P<TAG>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<OPEN>(?:[eEbBxXnN]|[uU]&)?'|(?:[uU]&)?")
    | (?P<WORD>[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_$\x80-\U0010ffff]*)
    | (?P<NUMBER>[0-9][A-Za-z0-9_.]*)
    | (?P<OTHER>[\s\S])
    """,
    re.VERBOSE,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


def tokens(text: str) -> Iterator[Token]:
    """The tokens of `text`, in order.

    Raises:
        Unterminated: a quote, dollar quote or comment is left open.
    """
    at = 0
    while at < len(text):
        match = _LEXEMES.match(text, at)
        if match is None:  # the last alternative takes anything
            raise AssertionError("every character is a lexeme")
        name, end = str(match.lastgroup), match.end()
        if name == "OPEN":
            raise Unterminated("a quote is not closed")
        if name == "BLOCK":
            name, end = "COMMENT", _block_end(text, end)
        elif name == "TAG":
            name, end = "DOLLAR", _dollar_end(text, match.group(), end)
        yield Token(kind=Kind[name], text=text[at:end])
        at = end


def _block_end(text: str, at: int) -> int:
    depth = 1
    for edge in _COMMENT_EDGE.finditer(text, at):
        depth += 1 if edge.group() == "/*" else -1
        if depth == 0:
            return edge.end()
    raise Unterminated("a /* comment is not closed")


def _dollar_end(text: str, tag: str, at: int) -> int:
    end = text.find(tag, at)
    if end < 0:
        raise Unterminated(f"a dollar quote {tag} is not closed")
    return end + len(tag)
