"""A database whose admin has exactly the rights of docs/engine.md, and looks at it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.clock import SystemClock
from agent.config.model import Role
from agent.engines.postgres.rights import Finding, Inspection, Level, inspect
from tests.fix_postgres import Database
from tests.integration.postgres.site import ROLE, Site

PAGE = Path(__file__).parents[3] / "docs" / "engine.md"
_OLD = ("PostgreSQL 12 is no longer", "may, before PostgreSQL 16", "max_prepared_transactions is above 0")


def statements(heading: str) -> list[str]:
    """What docs/engine.md has to copy below a line."""
    _, _, below = PAGE.read_text().partition(f"\n{heading}\n")
    block = below.partition("```sql\n")[2].partition("```")[0]
    found = [statement.strip() for statement in block.split(";") if statement.strip()]
    assert found, f"docs/engine.md has no SQL below {heading!r}"
    return found


def needed(major: int) -> Iterator[str]:
    """All of it that a server of this version needs."""
    yield from statements("On every version:")
    if major >= 16:
        yield from statements("On PostgreSQL 16 and later also:")
    if major < 15:
        yield from statements(
            "On PostgreSQL 12, 13 and 14, and in databases that were made there and moved, everybody may create in "
            "`public` until:"
        )


@dataclass(kw_only=True)
class Least:
    """A site whose admin has the least rights there are.

    Attributes:
        words: what the page's names are called here.
    """

    site: Site
    words: dict[str, str]

    @property
    def database(self) -> Database:
        """Of the site."""
        return self.site.database

    @property
    def major(self) -> int:
        """Of the server."""
        return self.database.cluster.major

    def named(self, statement: str) -> str:
        """A statement with this database's names: {admin}, {group}, {db}."""
        return statement.format(admin=self.site.user, group=self.database.group, db=self.database.dbname)

    def run(self, *wanted: str) -> None:
        """As a superuser, in the database."""
        for statement in wanted:
            self.database.execute(statement)

    async def look(self, role: dict[str, Any] | None = None, **changes: Any) -> Inspection:
        """What an inspection finds; `role` changes the role, the rest the server's configuration."""
        roles: dict[str, Role] = {ROLE: self.site.role(**(role or {}))}
        return await inspect("postgresql", self.site.config(**changes), roles, SystemClock())

    async def found(self, role: dict[str, Any] | None = None, **changes: Any) -> list[Finding]:
        """All that is not in order, but for what these servers always have."""
        inspection = await self.look(role, **changes)
        return [
            one
            for one in inspection.findings
            if one.level is not Level.OK and not one.text.startswith(_OLD)
        ]  # fmt: skip


def least(site: Site) -> Least:
    """Take from the site's admin whatever the page does not give it."""
    database = site.database
    words = {
        "leasehold_admin": site.user,
        "app_readers": database.group,
        "app_owner": database.cluster.superuser,
        "DATABASE app ": f"DATABASE {database.dbname} ",
    }
    one = Least(site=site, words=words)
    one.run(
        f'ALTER DATABASE "{database.dbname}" OWNER TO postgres', f'REVOKE "{database.group}" FROM "{site.user}"'
    )  # fmt: skip
    for statement in needed(database.cluster.major):
        if not statement.startswith("CREATE ROLE"):  # the fixture made them, with a password
            one.run(translated(statement, words))
    return one


def translated(statement: str, words: dict[str, str]) -> str:
    """A statement of the page with other names."""
    for name, here in words.items():
        statement = statement.replace(name, here)
    return statement


def subjects(found: Sequence[Finding]) -> list[tuple[Level, str]]:
    """Level and subject of each."""
    return [(one.level, one.subject) for one in found]
