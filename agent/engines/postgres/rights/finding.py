"""How SQL for a finding's remedy is written. Pure."""

import re
from collections.abc import Mapping

from agent.engines.finding import Finding as Finding
from agent.engines.finding import Level as Level
from agent.engines.finding import plain as plain

PUBLIC = ""
"""Stands for everybody where a grantee is named."""

_PLAIN = re.compile(r"[\x20-\x7e\u00a1-\U0010ffff]*")


def identifier(*parts: str) -> str:
    """A name as SQL, quoted always: somebody else may have chosen it. Nothing in it acts on a terminal."""
    return ".".join(_quoted(part) for part in parts)


def grantee(name: str) -> str:
    """Whom a GRANT names: a role, or PUBLIC."""
    return "PUBLIC" if name == PUBLIC else identifier(name)


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
