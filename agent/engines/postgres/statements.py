"""A role's own SQL: where its placeholders may stand, and how their values are put in.

A placeholder is a whole token: bare, or alone in quotes as Vault's roles write it, and the quotes go with it. What
replaces it is an identifier or a literal made by psycopg.sql, so no value can change the statement around it. Anywhere
else (inside a longer string, a dollar quote, a comment, glued to a word) it is refused.

Nothing here talks to a server.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, auto

from psycopg import sql
from psycopg.abc import AdaptContext

from agent.engines.postgres.tokens import Kind, Token, Unterminated, tokens


class Value(StrEnum):
    """What a placeholder stands for."""

    NAME = auto()
    PASSWORD = auto()
    EXPIRATION = auto()


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a value goes, as an identifier or as a literal."""

    value: Value
    identifier: bool


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One configured string of SQL, ready for values; it may hold several statements.

    Attributes:
        parts: verbatim SQL and places, in order.
        grants: whether it grants privileges on objects to the user itself, not through a group.
    """

    parts: tuple[str | Place, ...]
    grants: bool

    @property
    def values(self) -> frozenset[Value]:
        """The values it uses."""
        return frozenset(part.value for part in self.parts if isinstance(part, Place))


@dataclass(frozen=True, kw_only=True)
class Values:
    """What the places of a statement get. `password` is a SCRAM verifier, `expiration` is ISO 8601 in UTC."""

    name: str
    password: str = ""
    expiration: str = ""


class StatementMistake(ValueError):
    """A configured statement cannot be used; `mistakes` says why, one line each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("; ".join(self.mistakes))


_VALUES = {
    "{{name}}": Value.NAME,
    "{{username}}": Value.NAME,
    "{{password}}": Value.PASSWORD,
    "{{expiration}}": Value.EXPIRATION,
}
_BRACES = re.compile(r"\{\{[^{}]*\}\}")
# Two string constants with nothing but white space and comments between them can be one constant to the server.
_STRINGS = {Kind.STRING, Kind.ESCAPED, Kind.DOLLAR}
_IGNORED = {Kind.SPACE, Kind.COMMENT}
_GLUE = {Kind.WORD, Kind.NUMBER, Kind.QUOTED, Kind.PLACE, Kind.STRING, Kind.ESCAPED, Kind.DOLLAR}
_TRANSACTION_WORDS = {"abort", "begin", "commit", "end", "release", "rollback", "savepoint", "start"}
_ELSEWHERE = {
    Kind.COMMENT: "inside a comment",
    Kind.STRING: "inside a longer string",
    Kind.ESCAPED: "inside an E'…', B'…', N'…', X'…' or U&'…' constant",
    Kind.DOLLAR: "inside a dollar quote",
    Kind.QUOTED: "inside a longer quoted name",
}


def parse(text: str, *, allowed: frozenset[Value]) -> Statement:
    """Read one configured string.

    Args:
        allowed: the values that exist where this statement runs.

    Raises:
        StatementMistake: with every mistake found.
    """
    found = list(_tokens(text))
    parts: list[str | Place] = []
    mistakes = list(_control_mistakes(found))
    for index, token in enumerate(found):
        place = _place(token)
        if place is None:
            mistakes.extend(_stray(token))
            parts.append(token.text)
            continue
        mistakes.extend(_place_mistakes(found, index, place, allowed))
        parts.append(place)
    if all(token.kind in _IGNORED for token in found):
        mistakes.append("is empty")
    if mistakes:
        raise StatementMistake(mistakes)
    return Statement(parts=tuple(parts), grants=_grants(found))


def render(statement: Statement, values: Values, context: AdaptContext | None) -> bytes:
    """The SQL with `values` in their places, quoted for the connection `context`."""
    composed = [_composable(part, values) for part in statement.parts]
    return b"".join(part if isinstance(part, bytes) else part.as_bytes(context) for part in composed)


def words_of(text: str) -> list[list[str]]:
    """The words of each statement in `text`, in lower case; names in quotes and strings are none.

    Raises:
        StatementMistake: it is no SQL.
    """
    return list(_words(list(_tokens(text))))


def _composable(part: str | Place, values: Values) -> bytes | sql.Composable:
    if isinstance(part, str):
        return part.encode()
    text = getattr(values, part.value.value)
    return sql.Identifier(text) if part.identifier else sql.Literal(text)


def _tokens(text: str) -> Iterator[Token]:
    if "\0" in text:
        raise StatementMistake(["contains a NUL character"])
    try:
        yield from tokens(text)
    except Unterminated as exc:
        raise StatementMistake([str(exc)]) from exc


def _place(token: Token) -> Place | None:
    """The place that `token` is, if it is one as a whole."""
    bare = token.text if token.kind is Kind.PLACE else token.text[1:-1]
    value = _VALUES.get(bare)
    if value is None:
        return None
    match token.kind:
        case Kind.PLACE:
            return Place(value=value, identifier=value is Value.NAME)
        case Kind.STRING:
            return Place(value=value, identifier=False)
        case Kind.QUOTED if value is Value.NAME:
            return Place(value=value, identifier=True)
        case _:
            return None


def _stray(token: Token) -> Iterator[str]:
    """Placeholders inside a token that is not one."""
    for braces in _BRACES.findall(token.text):
        if braces not in _VALUES:
            yield f"{_short(braces)} is unknown: there are {{{{name}}}}, {{{{password}}}} and {{{{expiration}}}}"
        elif token.kind is Kind.QUOTED and token.text == f'"{braces}"':
            yield f"{braces} is not a name: write '{braces}'"
        else:
            yield f"{braces} stands {_ELSEWHERE[token.kind]}: it must be a token of its own"


def _place_mistakes(found: Sequence[Token], index: int, place: Place, allowed: frozenset[Value]) -> Iterator[str]:
    text = found[index].text
    if place.value not in allowed:
        yield f"{text} has no value here"
    neighbours = [*found[max(0, index - 1) : index], *found[index + 1 : index + 2]]
    if any(token.kind in _GLUE for token in neighbours):
        yield f"{text} is glued to what stands beside it: it must be a token of its own"
    elif not place.identifier and any(_stringy(token) for token in _significant(found, index)):
        yield f"{text} stands beside another string, which would make it a part of that"


def _stringy(token: Token) -> bool:
    return token.kind in _STRINGS or token.kind is Kind.PLACE


def _significant(found: Sequence[Token], index: int) -> Iterator[Token]:
    """The nearest tokens before and after that mean something."""
    for side in (reversed(found[:index]), iter(found[index + 1 :])):
        yield from [token for token in side if token.kind not in _IGNORED][:1]


def _words(found: Sequence[Token]) -> Iterator[list[str]]:
    """Per statement of the text, its words in lower case; a `;` inside parentheses does not end one."""
    words: list[str] = []
    depth = 0
    for token in found:
        depth += (token.text == "(") - (token.text == ")")
        if token.kind is Kind.WORD:
            words.append(token.text.lower())
        elif token.text == ";" and depth == 0:
            yield words
            words = []
    yield words


def _control_mistakes(found: Sequence[Token]) -> Iterator[str]:
    """Words that would end the transaction in which row and user are made together."""
    statements = list(_words(found))
    if any("atomic" in words for words in statements):  # a SQL-standard function body has an END of its own
        return
    for words in statements:
        if words[:1] and (words[0] in _TRANSACTION_WORDS or words[:2] == ["prepare", "transaction"]):
            yield f"{words[0].upper()} is refused: the engine begins and ends the transaction"


def _grants(found: Sequence[Token]) -> bool:
    for words in _words(found):
        if words[:1] == ["grant"] and "on" in words:
            return True
        if words[:3] == ["alter", "default", "privileges"]:
            return True
    return False


def _short(braces: str) -> str:
    cleaned = "".join(letter if letter.isprintable() else "?" for letter in braces)
    return cleaned if len(cleaned) <= 40 else f"{cleaned[:37]}…}}"
