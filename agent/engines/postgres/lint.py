"""What a role's SQL may do and should not: judged on the text alone, without a server. Pure.

Nothing here is a mistake: each line is a warning of `leasehold check`. What the engine refuses is `recipe`'s.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from agent.config.model import Role
from agent.engines.postgres.statements import Statement, words_of

DIRECT = (
    "its statements grant privileges to each user: such users are made one at a time, and near 2,400 of them "
    "PostgreSQL makes no more; grant to a group instead, and set `group`"
)

Words = Sequence[str]
_ATTRIBUTES = ("superuser", "createrole", "createdb", "replication", "bypassrls")
_EVERYTHING = ("pg_read_all_data", "pg_write_all_data")


def lint(role: Role, creation: Sequence[Statement]) -> list[str]:
    """What is worth a second look, one line each, beginning with the key.

    Args:
        creation: the role's creation_statements, parsed.
    """
    found = [] if role.description.strip() else ["description is missing: say what the role is for"]
    if role.group is not None and role.group.startswith("pg_"):
        found.append("group is one of PostgreSQL's own: its members have it on the whole server; make a group")
    for index, text in enumerate(role.creation_statements):
        lines = (said for words in words_of(text) for rule in _RULES for said in rule(words))
        found += [f"creation_statements[{index}] {said}" for said in dict.fromkeys(lines)]
    if any(statement.grants for statement in creation):
        found.append(f"creation_statements: {DIRECT}")
    return found


def _all(words: Words) -> Iterator[str]:
    """R003-066."""
    if words[:2] == ["grant", "all"] and "on" in words:
        yield "grants ALL: name the privileges that its apps use"


def _public(words: Words) -> Iterator[str]:
    """R003-066."""
    if words[:1] == ["grant"] and "to" in words and "public" in _after_last(words, "to"):
        yield "grants to PUBLIC, which is every user of the server: grant to a group"


def _attributes(words: Words) -> Iterator[str]:
    """R003-066; the engine refuses such a user when it is made."""
    if words[:2] not in (["create", "role"], ["create", "user"], ["alter", "role"], ["alter", "user"]):
        return
    # What follows IN ROLE is a name. Behind the verb there is none, where the name stands in quotes.
    named = {after for before, after in pairwise(words[2:]) if before in ("role", "group", "user")}
    for word in _ATTRIBUTES:
        if word in words and word not in named:
            yield f"gives {word.upper()}: the agent makes no such user"


def _database_wide(words: Words) -> Iterator[str]:
    """R003-067."""
    if words[:1] == ["grant"] and _pair(words, "on", "database") and {"all", "create"} & set(_before(words, "on")):
        yield "grants on the whole database: grant on schemas and tables"
    for role in _EVERYTHING:
        if role in words:
            yield f"gives {role}, every table of every database: grant on schemas and tables"


def _handed_on(words: Words) -> Iterator[str]:
    if _pair(words, "grant", "option") or _pair(words, "admin", "option") or _pair(words, "admin", "true"):
        yield "lets its users grant it to others: nothing takes that back from them when their lease ends"


_RULES: tuple[Callable[[Words], Iterator[str]], ...] = (_all, _public, _attributes, _database_wide, _handed_on)


def _pair(words: Words, first: str, second: str) -> bool:
    return (first, second) in pairwise(words)


def _before(words: Words, word: str) -> Words:
    return words[: words.index(word)]


def _after_last(words: Words, word: str) -> Words:
    return words[len(words) - words[::-1].index(word) :]
