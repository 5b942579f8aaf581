"""One database with its users of ours and of others, and all that can be asked of it and of a state directory."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.scenes import ROLE, document
from tests.chaos.plan import Course
from tests.fix_postgres import Database

MARKER = "leasehold_lease"
SWEPT_EVERY = 1.0

_FOREIGN = """
SELECT r.rolname, r.rolcanlogin, r.rolconnlimit, r.rolvaliduntil::text, r.rolconfig,
  (SELECT array_agg(g.rolname::text ORDER BY g.rolname) FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
    WHERE m.member = r.oid),
  (SELECT array_agg(c.relname || ':' || pg_get_userbyid(c.relowner) || coalesce(c.relacl::text, '') ORDER BY c.relname)
    FROM pg_class c WHERE c.relname IN ('foreign_one', 'foreign_two')),
  (SELECT count(*) FROM pg_shdepend d WHERE d.refobjid = r.oid)
FROM pg_roles r WHERE r.rolname = ANY(%s) ORDER BY r.rolname
"""
_OURS = """
SELECT r.rolname, r.rolvaliduntil IS NOT NULL, l.id::text, l.expires > clock_timestamp() - interval '2 seconds'
FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member
LEFT JOIN leasehold.lease l ON l.username = r.rolname AND l.revoked_at IS NULL
WHERE m.roleid = (SELECT oid FROM pg_roles WHERE rolname = %s) AND NOT m.admin_option AND r.rolname <> ALL(%s)
"""


@dataclass(frozen=True, kw_only=True)
class Ours:
    """A user that the agent made.

    Attributes:
        ends: whether the server lets nobody in with it after some instant.
        lease_id: of its living row in the journal; "" where it has none.
        lives: whether that row's end is still to come, or has only just passed.
    """

    username: str
    ends: bool
    lease_id: str
    lives: bool


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a state directory says of the role.

    Attributes:
        current: lease id of what is published, "" without one; `generation` is its.
        draining: lease ids with the dial's instant at which each is revoked, published ones only.
        doomed: lease ids to be revoked that nobody has used, the proposed one included.
    """

    current: str = ""
    generation: int = 0
    draining: Mapping[str, float] = field(default_factory=dict)
    doomed: frozenset[str] = frozenset()


class World:
    """A database in which others have roles too.

    Some look like ours: by name, by the app's group, by the marker group itself. None has a row in the journal.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        tail = database.dbname
        self.foreign = [f"v_app_{tail}", f"shub_app_abcdefgh_{tail}", f"stranger_{tail}", f"v_{tail}", f"alone_{tail}"]
        look_alike, other, stranger, rich, alone = (f'"{name}"' for name in self.foreign)
        group, admin = f'"{database.group}"', f'"{database.admin}"'
        for statement in (
            f"CREATE ROLE {look_alike} LOGIN VALID UNTIL '2001-01-01' IN ROLE {group}",
            f"CREATE ROLE {other} LOGIN PASSWORD 'x'",
            f"ALTER ROLE {other} SET role = {group}",
            f"CREATE ROLE {MARKER} NOLOGIN",
            f"GRANT {MARKER} TO {admin} WITH ADMIN OPTION",
            f"CREATE ROLE {stranger} LOGIN IN ROLE {MARKER}",
            f"CREATE ROLE {rich} LOGIN",
            f"CREATE TABLE foreign_one AS SELECT 1; ALTER TABLE foreign_one OWNER TO {rich}",
            f"CREATE TABLE foreign_two AS SELECT 2; GRANT SELECT ON foreign_two TO {rich}, {look_alike}, {stranger}",
            f"CREATE ROLE {alone} NOLOGIN",
        ):
            database.execute(statement)
        self._before = self._look()

    def _look(self) -> list[tuple[Any, ...]]:
        return self.database.execute(_FOREIGN, self.foreign)

    def touched(self) -> str:
        """What has become of the others' roles, "" while they are as they were."""
        now = self._look()
        return "" if now == self._before else f"{self._before}\nis now\n{now}"

    def ours(self) -> list[Ours]:
        """Every user of ours."""
        if not self.journal_there():
            return []
        rows = self.database.execute(_OURS, MARKER, self.foreign)
        return [
            Ours(username=name, ends=bool(ends), lease_id=lease_id or "", lives=bool(lives))
            for name, ends, lease_id, lives in rows
        ]

    def journal_there(self) -> bool:
        """Whether an agent has made its table."""
        return bool(self.database.execute("SELECT 1 FROM pg_class WHERE oid = to_regclass('leasehold.lease')"))

    def lives(self, lease_id: str) -> bool:
        """Whether the journal has that lease, neither ended nor about to."""
        if not self.journal_there():
            return False
        asked = "SELECT 1 FROM leasehold.lease WHERE id = %s AND revoked_at IS NULL"
        soon = "clock_timestamp() + interval '3 seconds'"
        return bool(self.database.execute(f"{asked} AND expires > {soon}", lease_id))

    def known(self, lease_id: str) -> bool:
        """Whether the journal has a living row under that id, ended or not."""
        asked = "SELECT 1 FROM leasehold.lease WHERE id = %s AND revoked_at IS NULL"
        return self.journal_there() and bool(self.database.execute(asked, lease_id))

    def account(self) -> str:
        """Journal and roles in full."""
        rows = (
            self.database.execute("SELECT row_to_json(l)::text FROM leasehold.lease l ORDER BY issued DESC LIMIT 30")
            if self.journal_there()
            else []
        )
        roles = self.database.execute("SELECT rolname, rolcanlogin, rolvaliduntil::text FROM pg_roles ORDER BY 1")
        mine = [row for row in roles if not str(row[0]).startswith("pg_")]
        return "\n".join(
            ["journal, newest first:", *(row for (row,) in rows), "roles (name, LOGIN, VALID UNTIL):", *map(str, mine)]
        )


def remembering(directory: Path, database: Database, course: Course | None) -> Any:
    """A configuration with a state directory, and leases of the length that the course needs."""
    lengths: dict[str, object] = {"rotate_min_interval": "1s"}
    if course is Course.RENEW:
        lengths |= {"default_ttl": "8s", "lease_renewal_threshold": 0.15}
    elif course is Course.WEAR:
        lengths |= {"default_ttl": "5s", "max_ttl": "5s"}
    text = document(directory, database, **lengths)
    text["postgresql"]["cleanup_interval"] = f"{SWEPT_EVERY:g}s"
    text["agent"] |= {
        "state_dir": str(directory / "state"),
        "state_allow_disk": text["template"][0]["allow_disk"],
        "holder": "web-0",
    }
    return text


def record_in(directory: Path) -> Record:
    """What the state directory of that configuration says of its one role."""
    found = list((directory / "state").glob("role-*.json"))
    if not found:
        return Record()
    try:
        text = json.loads(found[0].read_text())
    except FileNotFoundError:  # an agent that runs has just removed it
        return Record()
    assert text["role"] == ROLE
    retired = text["retired"]
    proposed = {text["proposed"]} if text["proposed"] else set()
    return Record(
        current=text["current"]["first"]["id"] if text["current"] else "",
        generation=text["generation"],
        draining={each["id"]: each["revoke_at"] for each in retired if each["published"]},
        doomed=frozenset({each["id"] for each in retired if not each["published"]} | proposed),
    )
