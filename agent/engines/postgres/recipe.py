"""A role's statements, parsed once: what the engine runs, and what `leasehold check` complains about."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.config.model import Role
from agent.engines.postgres.names import name_mistake
from agent.engines.postgres.statements import Statement, StatementMistake, Value, parse

_ALLOWED = {
    "creation_statements": frozenset(Value),
    "renewal_statements": frozenset({Value.NAME, Value.EXPIRATION}),
    "revocation_statements": frozenset({Value.NAME}),
    "rollback_statements": frozenset({Value.NAME}),
}
_NEEDED = {
    "creation_statements": (Value.NAME, Value.PASSWORD, Value.EXPIRATION),
    "renewal_statements": (Value.NAME, Value.EXPIRATION),
    "revocation_statements": (),
    "rollback_statements": (),
}
_WHY = {
    Value.NAME: "no user would be made or renewed",
    Value.PASSWORD: "nobody could log in with the password that is handed out",
    Value.EXPIRATION: "the user would not end with its lease",
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to make, renew and end the users of one role.

    Attributes:
        name: the role's name, as in the configuration.
        role: its configuration.
        creation, renewal, revocation, rollback: its own statements; empty where the engine's default serves.
    """

    name: str
    role: Role
    creation: tuple[Statement, ...]
    renewal: tuple[Statement, ...]
    revocation: tuple[Statement, ...]
    rollback: tuple[Statement, ...]

    @property
    def grants(self) -> bool:
        """Whether privileges are granted to each user instead of a group: such roles are made one at a time."""
        return any(statement.grants for statement in self.creation)


def check_statements(role_name: str, role: Role) -> list[str]:
    """Mistakes in the SQL of a role, one line each, beginning with the key; pure."""
    mistakes: list[str] = []
    for key in _ALLOWED:
        mistakes.extend(_list_mistakes(key, getattr(role, key)))
    if role.group is not None and (wrong := name_mistake(role.group)):
        mistakes.append(f"group {wrong}")
    if role.group is None and not role.creation_statements:
        mistakes.append("group or creation_statements is missing: its users could do nothing")
    if "\0" in role_name:
        mistakes.append("the role's name contains a NUL character")
    return mistakes


def recipe(name: str, role: Role) -> Recipe:
    """The role's statements, parsed.

    Raises:
        StatementMistake: `check_statements` says which.
    """
    parsed = {
        key: tuple(parse(text, allowed=allowed) for text in getattr(role, key)) for key, allowed in _ALLOWED.items()
    }
    return Recipe(
        name=name,
        role=role,
        creation=parsed["creation_statements"],
        renewal=parsed["renewal_statements"],
        revocation=parsed["revocation_statements"],
        rollback=parsed["rollback_statements"],
    )


def _list_mistakes(key: str, texts: Sequence[str]) -> Iterator[str]:
    used: set[Value] = set()
    sound = True
    for index, text in enumerate(texts):
        try:
            used |= parse(text, allowed=_ALLOWED[key]).values
        except StatementMistake as exc:
            sound = False
            yield from (f"{key}[{index}]: {mistake}" for mistake in exc.mistakes)
    if not texts or not sound:
        return
    for value in _NEEDED[key]:
        if value not in used:
            yield f"{key} never use {{{{{value}}}}}: {_WHY[value]}"
