"""Prepared transactions: nobody is logged in, and their locks stay. Who is in the way of ending a user, and its end.

Only the owner of a prepared transaction or a superuser can finish it, in the database it was prepared in. Which are
rolled back and which are only named is decided in docs/adr/0006. Names and ids go through bytes: one from a database in
another encoding need not be UTF-8.
"""

from dataclasses import dataclass

from agent.clock import Clock
from agent.engines.postgres.connections import Connection
from agent.engines.postgres.errors import Refused
from agent.errors import Unavailable

_LOOK_EVERY = 0.02

_OF_USER = """
SELECT textsend(gid), textsend(database::text) FROM pg_prepared_xacts p
WHERE p.owner = %(name)s OR (%(of_roles)s AND EXISTS (
  SELECT FROM pg_locks own JOIN pg_locks l USING (virtualtransaction)
  WHERE own.transactionid = p.transaction AND own.pid IS NULL AND l.pid IS NULL
    AND l.relation = 'pg_authid'::regclass))
"""

_IN_THE_WAY = """
SELECT p.transaction::text, textsend(p.gid), textsend(p.owner::text), textsend(p.database::text)
FROM pg_locks l JOIN pg_prepared_xacts p ON p.transaction = l.transactionid
WHERE l.pid = %s AND l.locktype = 'transactionid' AND NOT l.granted
"""

_SESSIONS_IN_THE_WAY = """
SELECT b.pid, coalesce(textsend(a.datname::text), '') FROM unnest(pg_blocking_pids(%s)) b (pid)
LEFT JOIN pg_stat_activity a ON a.pid = b.pid WHERE b.pid <> 0 ORDER BY 1 LIMIT 5
"""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """One prepared transaction; `owner` and `dbname` are "" where they are not UTF-8."""

    xid: str
    owner: str
    dbname: str
    label: str

    def __str__(self) -> str:
        return self.label


@dataclass(kw_only=True)
class InTheWay:
    """What a connection of ours was seen to wait for; filled while it waits.

    Attributes:
        prepared: the prepared transaction, if it is one.
        label: it, or the sessions, fit for a message; "" where nothing was seen.
    """

    prepared: Prepared | None = None
    label: str = ""


async def of_user(conn: Connection, name: str, *, of_roles: bool = False) -> list[str]:
    """The user's prepared transactions, fit for a message.

    Args:
        of_roles: also anybody's that have changed a role; the user may have prepared one as its group.
    """
    cursor = await conn.execute(_OF_USER, {"name": name, "of_roles": of_roles})
    return [_label(gid, dbname) for gid, dbname in await cursor.fetchall()]


async def none_of(conn: Connection, name: str, where: str, *, of_roles: bool = False) -> None:
    """Return if the user has no prepared transactions; `of_roles` as for `of_user`.

    Raises:
        Refused: with their names.
    """
    found = await of_user(conn, name, of_roles=of_roles)
    if found:
        raise Refused(
            Unavailable(
                f"{where}, but prepared transactions keep it: {', '.join(found)}; "
                "COMMIT PREPARED or ROLLBACK PREPARED them as a superuser"
            )
        )


async def watch(watcher: Connection, pid: int, seen: InTheWay, clock: Clock) -> None:
    """See what our connection of process `pid` waits for; returns when it was a prepared transaction."""
    while seen.prepared is None:
        found = await (await watcher.execute(_IN_THE_WAY, (pid,))).fetchone()
        if found is not None:
            xid, gid, owner, dbname = found
            label = _label(gid, dbname)
            seen.prepared = Prepared(xid=xid, owner=_utf8(owner), dbname=_utf8(dbname), label=label)
            seen.label = f"prepared transaction {label}"
            return
        sessions = await (await watcher.execute(_SESSIONS_IN_THE_WAY, (pid,))).fetchall()
        if sessions:
            seen.label = ", ".join(f"process {blocker} in database {plain(decoded(at))}" for blocker, at in sessions)
        await clock.sleep(_LOOK_EVERY)


async def roll_back(there: Connection, found: Prepared) -> None:
    """Roll it back as its owner, whose rights our login has; `there` is in its database and of no use afterwards.

    In no encoding, so that names and id go back to the server as they came.
    """
    await there.execute("SET client_encoding = 'SQL_ASCII'")
    cursor = await there.execute(
        "SELECT textsend(gid) FROM pg_prepared_xacts WHERE transaction = %s::text::xid", (found.xid,)
    )
    row = await cursor.fetchone()
    if row is None:
        return
    # No encoding that a server may have uses the bytes of the quotes for anything else.
    await there.execute(b'SET ROLE "' + found.owner.encode().replace(b'"', b'""') + b'"')
    await there.execute(b"ROLLBACK PREPARED '" + bytes(row[0]).replace(b"'", b"''") + b"'")


def decoded(text: bytes) -> str:
    """For people: what is not UTF-8 as question marks."""
    return text.decode(errors="replace").replace("\N{REPLACEMENT CHARACTER}", "?")


def plain(text: str) -> str:
    """Fit for a message: short, one line, nothing that a terminal would obey."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:80]


def _label(gid: bytes, dbname: bytes) -> str:
    return f"{plain(decoded(gid))} in database {plain(decoded(dbname))}"


def _utf8(text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        return ""
