"""What a look at a server found, and how SQL for its remedy is written. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

PUBLIC = ""
"""Stands for everybody where a grantee is named."""

_PLAIN = re.compile(r"[\x20-\x7e\u00a1-\U0010ffff]*")


class Level(StrEnum):
    """How much a finding matters, the gravest first."""

    MISSING = "missing"
    TOO_MUCH = "too-much"
    WARNING = "warning"
    OK = "ok"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: MISSING where the agent cannot do its work, TOO_MUCH where its login can do more than that.
        subject: what was looked at, such as "group app_readers".
        text: what was found, and what follows from it; one line.
        remedy: statements for a superuser, in the database of `[postgresql]`; empty where SQL cannot mend it.
    """

    level: Level
    subject: str
    text: str
    remedy: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"level": self.level.value, "subject": self.subject, "text": self.text, "remedy": list(self.remedy)}


def identifier(*parts: str) -> str:
    """A name as SQL, quoted always: somebody else may have chosen it. Nothing in it acts on a terminal."""
    return ".".join(_quoted(part) for part in parts)


def grantee(name: str) -> str:
    """Whom a GRANT names: a role, or PUBLIC."""
    return "PUBLIC" if name == PUBLIC else identifier(name)


def plain(text: str) -> str:
    """A name in running text: at most 80 characters, all of them visible."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _quoted(name: str) -> str:
    if name.isprintable() and _PLAIN.fullmatch(name):
        return '"' + name.replace('"', '""') + '"'
    return 'U&"' + "".join(_escaped(letter) for letter in name) + '"'


def _escaped(letter: str) -> str:
    if letter == "\\":
        return "\\\\"
    if letter == '"':
        return '""'
    if letter.isprintable():
        return letter
    code = ord(letter)
    return f"\\{code:04x}" if code < 0x10000 else f"\\+{code:06x}"


def revoke_membership(role: str, member: str, *, version: int, grantors: Mapping[tuple[str, str], str]) -> str:
    """REVOKE one membership. From PostgreSQL 16 on each has its grantor, and only that grant goes."""
    grantor = grantors.get((member, role), "")
    by = f" GRANTED BY {identifier(grantor)}" if version >= 160000 and grantor else ""
    return f"REVOKE {identifier(role)} FROM {identifier(member)}{by}"


def grant_admin(role: str, member: str, *, version: int) -> str:
    """Let `member` grant `role`, and from PostgreSQL 16 on nothing more."""
    least = "ADMIN TRUE, INHERIT FALSE, SET FALSE" if version >= 160000 else "ADMIN OPTION"
    return f"GRANT {identifier(role)} TO {identifier(member)} WITH {least}"
