"""What a look at an upstream found, whichever its engine. Pure; it knows no server."""

from dataclasses import asdict, dataclass
from enum import StrEnum


class Level(StrEnum):
    """How much a finding matters, the gravest first."""

    MISSING = "missing"
    TOO_MUCH = "too-much"
    WARNING = "warning"
    OK = "ok"


_ORDER = list(Level)


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        level: MISSING where the agent cannot do its work, TOO_MUCH where its login can do more than that.
        subject: what was looked at, such as "group app_readers".
        text: what was found, and what follows from it; one line.
        remedy: for PostgreSQL statements for a superuser, in the database of `[postgresql]`; for Vault the policy's
            lines. Empty where neither can mend it.
    """

    level: Level
    subject: str
    text: str
    remedy: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"level": self.level.value, "subject": self.subject, "text": self.text, "remedy": list(self.remedy)}


@dataclass(frozen=True, kw_only=True)
class Inspection:
    """What one look found.

    Attributes:
        upstream: "postgresql" or "vault.NAME".
        place: the server: `host:port/dbname`, or `https://host:port`.
        user: the agent's login there.
        reached: the login succeeded; otherwise little else is known.
        findings: the gravest first.
    """

    upstream: str
    place: str
    user: str
    reached: bool
    findings: tuple[Finding, ...]

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {**asdict(self), "findings": [one.as_dict() for one in self.findings]}

    @property
    def sound(self) -> bool:
        """Whether nothing is missing."""
        return all(one.level is not Level.MISSING for one in self.findings)


def sorted_by_level(findings: list[Finding]) -> tuple[Finding, ...]:
    """The gravest first, else as they came."""
    return tuple(sorted(findings, key=lambda one: _ORDER.index(one.level)))


def plain(text: str) -> str:
    """A name in running text: at most 80 characters, all of them visible."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
