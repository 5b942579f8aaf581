"""The part of HCL that policies are written in: blocks with labels, attributes, strings, numbers, booleans, lists."""

import json
import re
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*|//[^\n]*|/\*.*?\*/)|(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<word>[A-Za-z_][\w.-]*)|(?P<number>-?\d+(?:\.\d+)?)|(?P<mark>[{}\[\]=,:])""",
    re.DOTALL,
)


class Malformed(ValueError):
    """Not of this language."""


def parse(source: str) -> dict[str, Any]:
    """A document as {name: value}; a block `path "x" {…}` becomes {"path": {"x": {…}}}; JSON is read as JSON."""
    if source.lstrip().startswith("{"):
        try:
            found = json.loads(source)
        except json.JSONDecodeError as exc:
            raise Malformed(str(exc)) from exc
        if not isinstance(found, dict):
            raise Malformed("not an object")
        return found
    reader = _Reader(_tokens(source))
    found = reader.body(end=None)
    return found


def _tokens(source: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(source):
        match = _TOKEN.match(source, at)
        if match is None:
            line = source.count("\n", 0, at) + 1
            column = at - source.rfind("\n", 0, at)
            raise Malformed(f"At {line}:{column}: illegal character")
        at = match.end()
        if match.lastgroup != "space":
            found.append((str(match.lastgroup), match.group()))
    return found


class _Reader:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self._at = 0

    def body(self, end: str | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while (token := self._next()) != ("mark", end):
            if token == ("mark", ","):
                continue
            if token[0] == "end":
                if end is None:
                    return found
                raise Malformed("object expected closing RBRACE got: EOF")
            if token[0] not in ("word", "text"):
                raise Malformed(f"unexpected {token[1]}")
            self._entry(found, _plain(token))
        return found

    def _entry(self, found: dict[str, Any], name: str) -> None:
        token = self._next()
        if token in (("mark", "="), ("mark", ":")):
            found[name] = self._value()
            return
        labels = []
        while token[0] in ("text", "word"):
            labels.append(_plain(token))
            token = self._next()
        if token != ("mark", "{"):
            raise Malformed(
                "object expected closing RBRACE got: EOF" if token[0] == "end" else f"unexpected {token[1]}"
            )
        into = found
        for label in (name, *labels[:-1]) if labels else ():
            into = into.setdefault(label, {})
        into.setdefault(labels[-1] if labels else name, {}).update(self.body("}"))

    def _value(self) -> Any:
        kind, text = token = self._next()
        if token == ("mark", "["):
            return self._list()
        if token == ("mark", "{"):
            return self.body("}")
        if kind == "text":
            return _plain(token)
        if kind == "number":
            return float(text) if "." in text else int(text)
        if text in ("true", "false"):
            return text == "true"
        raise Malformed("object expected closing RBRACE got: EOF" if kind == "end" else f"unexpected {text}")

    def _list(self) -> list[Any]:
        found = []
        while self._peek() != ("mark", "]"):
            if self._peek() == ("mark", ","):
                self._next()
                continue
            found.append(self._value())
        self._next()
        return found

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at] if self._at < len(self._tokens) else ("end", "")

    def _next(self) -> tuple[str, str]:
        token = self._peek()
        self._at += 1
        return token


def _plain(token: tuple[str, str]) -> str:
    return str(json.loads(token[1])) if token[0] == "text" else token[1]
