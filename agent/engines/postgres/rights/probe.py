"""The GRANT that a refused probe asks for. Pure: it has the probe's text, and what the server said it may not touch."""

import re
from collections.abc import Sequence

from agent.engines.postgres.rights.finding import identifier
from agent.engines.postgres.tokens import Kind, Token, Unterminated, tokens

_KINDS = {
    "schema": "USAGE ON SCHEMA",
    "sequence": "USAGE ON SEQUENCE",
    "function": "EXECUTE ON FUNCTION",
    "procedure": "EXECUTE ON PROCEDURE",
    "type": "USAGE ON TYPE",
}
"""What it takes to use a thing of that kind; everything else is read and written as a table is."""

_KIND = re.compile(r"(foreign table|materialized view|[a-z]+) (.+)", re.DOTALL)
_VERBS = {"select", "insert", "update", "delete", "truncate"}


def missing_grants(lacking: str, probes: Sequence[str], group: str | None) -> tuple[str, ...]:
    """What a superuser would run; empty where that cannot be told.

    Args:
        lacking: an object's kind and name, such as "table reports", as the server named it.
        probes: the role's, in which the object's schema may stand.
        group: the NOLOGIN role that holds the privileges; None where a role's users have their own.
    """
    told = _KIND.fullmatch(lacking)
    if group is None or told is None:
        return ()
    kind, name = told.groups()
    found = [list(_meaning(probe)) for probe in probes]
    right = _KINDS.get(kind) or f"{_verb(found).upper()} ON"
    thing = identifier(name) if kind == "schema" else identifier(*_schema(found, name), name)
    return (f"GRANT {right} {thing} TO {identifier(group)}",)


def _meaning(probe: str) -> list[Token]:
    """The probe's tokens that mean something; none where it is no SQL."""
    try:
        return [token for token in tokens(probe) if token.kind not in (Kind.SPACE, Kind.COMMENT)]
    except Unterminated:
        return []


def _verb(probes: Sequence[Sequence[Token]]) -> str:
    """The privilege that the probe needs: its first verb, SELECT where it has none."""
    words = (token.text.lower() for probe in probes for token in probe if token.kind is Kind.WORD)
    return next((word for word in words if word in _VERBS), "select")


def _schema(probes: Sequence[Sequence[Token]], name: str) -> tuple[str, ...]:
    """The schema written before `name`; nothing where there is none."""
    for probe in probes:
        for schema, dot, thing in zip(probe, probe[1:], probe[2:], strict=False):
            if dot.text == "." and _name(schema) and _name(thing) == name:
                return (_name(schema),)
    return ()


def _name(token: Token) -> str:
    """What a token names, as the server reads it; "" for anything that is no name."""
    if token.kind is Kind.WORD:
        return token.text.lower()
    return token.text[1:-1].replace('""', '"') if token.kind is Kind.QUOTED else ""
