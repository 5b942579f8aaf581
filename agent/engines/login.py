"""One login at a PostgreSQL server, to see whether it lets a credential in; nothing of the connection is kept.

Written on `psycopg.pq`, psycopg's wrapper of libpq's own calls, for two reasons. Every wait is ours, so that a login
that is cancelled ends at once even where the server is stopped. And libpq tells no SQLSTATE of a refused login, only
the server's text, in the server's language: where that is not understood, a second login has libpq trace the messages,
which hold the code.

Of psycopg only that wrapper is imported, at first use and in a thread.
"""

import asyncio
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config.model import PostgreSQL, SslMode
from agent.engines.libpq import login_code, parameters
from agent.imports import import_below
from agent.leases.lease import Secret
from agent.offload import in_daemon_thread

if TYPE_CHECKING:
    from psycopg.pq.abc import PGconn, PGresult

_TRACED_CODE = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")
# A probe that ends so says nothing of the credential: the server was busy, restarting, or others were in the way.
_PASSING = ("08", "40", "53", "55", "57", "58", "XX")
_WORDS = {
    "auth-method": "the server does not ask for the password by SCRAM, so a login would prove nothing",
    "tls": "TLS failed: check sslmode and sslrootcert",
    "unreachable": "it cannot be reached",
    "53300": "too many connections",
    "57P03": "the server is starting, stopping or in recovery",
    "28P01": "password refused (a replica that lags refuses a new user's too)",
    "42501": "no CONNECT privilege on the database",
    "3D000": "the database does not exist",
}
# Its kind and name and nothing else: the rest of a message may be a function's own words.
_DENIED = re.compile(
    r"permission denied for "
    r"(schema|(?:foreign )?table|(?:materialized )?view|sequence|function|procedure|type) (.{1,200})",
    re.DOTALL,
)
_PROBE_WORDS = {
    "42501": "a privilege is missing",
    "42P01": "the table does not exist, or is in no schema of the search path",
    "3F000": "the schema does not exist",
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A place where a new credential must be able to log in.

    Attributes:
        host, port, dbname, sslmode, sslrootcert: as in libpq.
        probe: SQL that must succeed there, in a transaction that is rolled back; None to log in only.
    """

    host: str
    port: int
    dbname: str
    sslmode: SslMode
    probe: str | None = None
    sslrootcert: str | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}/{self.dbname}"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a login or its probe failed.

    Attributes:
        reason: for an operator; names neither user nor password.
        code: the SQLSTATE, "" where there is none.
        refused: the server answered that the credential is not good for this; otherwise nothing was found out.
        final: trying again would find out no more.
        lacking: what the probe found no privilege on, such as "table reports", where the server says so in English.
    """

    reason: str
    code: str = ""
    refused: bool = False
    final: bool = False
    lacking: str = ""


_MODULES = ("psycopg.pq", "psycopg.errors", "psycopg.conninfo")


def load() -> None:
    """Import what `log_in` needs, as it does itself if nobody has; blocks."""
    import_below("psycopg", *_MODULES)


async def log_in(target: Target, username: Secret, password: Secret, timeout: float) -> Failure | None:
    """Log in at `target`, run its probe, and leave; None if all of it worked.

    The password must be what opens the door: a server that lets everybody in (`trust`), or that asks for the password
    in another way than SCRAM, proves nothing.

    Args:
        timeout: seconds after which the server itself gives the probe up. The caller bounds the whole.
    """
    if not (_sendable(username.reveal()) and _sendable(password.reveal())):
        return Failure(reason="its user name or password is no text PostgreSQL can take", refused=True, final=True)
    if not sys.modules.keys() >= set(_MODULES):
        await in_daemon_thread(load)
    try:
        conninfo = await _conninfo(target, username, password)
    except (OSError, UnicodeError):  # UnicodeError: a label that is empty or too long
        return Failure(reason="the host name does not resolve")
    answer = await _once(conninfo, target.probe, timeout)
    if answer is None or answer.code or answer.reason:
        return answer
    return await _once_traced(conninfo, target.probe, timeout)


def _sendable(text: str) -> bool:
    """Whether `text` can be a user name or password; an upstream may send any JSON string."""
    try:
        return b"\0" not in text.encode() and text != ""
    except UnicodeEncodeError:
        return False


async def _conninfo(target: Target, username: Secret, password: Secret) -> bytes:
    """Everything said explicitly, so that nothing of the environment or a home directory fills a gap."""
    from psycopg.conninfo import make_conninfo

    server = PostgreSQL(
        host=target.host,
        port=target.port,
        dbname=target.dbname,
        user=username.reveal(),
        sslmode=target.sslmode,
        sslrootcert=target.sslrootcert,
    )
    said = {
        **parameters(server, dbname=target.dbname, password=password),
        **await _addresses(target.host),
        "require_auth": "scram-sha-256",
        "application_name": "leasehold-verify",
        "options": "",  # the app's own settings hold; and PgBouncer refuses others
        "target_session_attrs": "any",
    }
    return make_conninfo("", **said).encode()


async def _addresses(host: str) -> dict[str, str]:
    """Host and addresses: libpq would look names up itself, and block the loop meanwhile."""
    if host.startswith(("/", "@")):
        return {"host": host, "hostaddr": ""}
    with suppress(ValueError):
        return {"host": host, "hostaddr": str(ipaddress.ip_address(host))}
    found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return {"host": ",".join([host] * len(addresses)), "hostaddr": ",".join(addresses)}


async def _once_traced(conninfo: bytes, probe: str | None, timeout: float) -> Failure | None:
    """The same once more, libpq writing the messages into memory while it lasts.

    Not for every login: psycopg never closes the stream it makes for a trace, about 5 KiB.
    """
    unknown = Failure(reason="the server refuses the login in words that are not understood")
    if not hasattr(os, "memfd_create"):  # libpq's trace needs Linux as well
        return unknown
    trace = os.memfd_create("leasehold-trace")
    try:
        answer = await _once(conninfo, probe, timeout, trace)
    finally:
        os.close(trace)
    return unknown if answer is not None and not answer.reason else answer


async def _once(conninfo: bytes, probe: str | None, timeout: float, trace: int | None = None) -> Failure | None:
    """One connection from beginning to end; a Failure without reason means that the server's text says nothing."""
    from psycopg.errors import Error
    from psycopg.pq import PGconn

    pgconn = PGconn.connect_start(conninfo)
    try:
        if trace is not None:
            pgconn.trace(trace)
        if not await _connected(pgconn):
            return _login_failure(pgconn, trace)
        return await _probed(pgconn, probe, timeout) if probe is not None else None
    except Error:
        return Failure(reason="the connection was lost")
    finally:
        pgconn.untrace()  # flushes; later the stream's file descriptor may be somebody else's
        pgconn.finish()


async def _ready(fileno: int, *, to_write: bool) -> None:
    """Return when the socket can be read or written."""
    loop = asyncio.get_running_loop()
    woken = asyncio.Event()
    add: Callable[[int, Callable[[], None]], object] = loop.add_writer if to_write else loop.add_reader
    remove = loop.remove_writer if to_write else loop.remove_reader
    add(fileno, woken.set)
    try:
        await woken.wait()
    finally:
        remove(fileno)


async def _connected(pgconn: "PGconn") -> bool:
    from psycopg.pq import ConnStatus, PollingStatus

    if pgconn.status == ConnStatus.BAD:
        return False
    while (status := pgconn.connect_poll()) not in (PollingStatus.OK, PollingStatus.FAILED):
        # libpq may go on with another socket after each poll, so nothing is kept between two of them.
        await _ready(pgconn.socket, to_write=status == PollingStatus.WRITING)
    return status == PollingStatus.OK


def _login_failure(pgconn: "PGconn", trace: int | None) -> Failure:
    message = pgconn.get_error_message()
    code = login_code(message)
    if not _SQLSTATE.fullmatch(code) and ":  " in message:
        code = ""  # a severity and two blanks: it was the server who spoke
    if trace is not None:
        pgconn.untrace()
        traced = _TRACED_CODE.findall(os.pread(trace, 1 << 20, 0))
        code = traced[-1].decode() if traced else code
    if code.startswith("28") and code != "28P01":
        # The file keeps its name in every language.
        refuser = "pg_hba.conf refuses it" if "pg_hba.conf" in message else "the user may not log in"
        return Failure(reason=refuser, code=code, refused=True)
    if code and not _SQLSTATE.fullmatch(code):
        return Failure(reason=_WORDS.get(code, "it cannot be reached"), final=code == "auth-method")
    refused = code in ("28P01", "42501", "3D000")
    reason = _WORDS.get(code, f"the server refuses logins with SQLSTATE {code}" if code else "")
    return Failure(reason=reason, code=code, refused=refused)


async def _probed(pgconn: "PGconn", probe: str, timeout: float) -> Failure | None:
    """Run the probe in a transaction that nobody commits."""
    # On a line of its own, the end holds even after a probe that ends with a comment.
    script = f"BEGIN; SET LOCAL statement_timeout = {max(1, int(timeout * 1000))}; {probe}\n; ROLLBACK"
    pgconn.nonblocking = 1
    pgconn.send_query(script.encode())
    while pgconn.flush():
        await _ready(pgconn.socket, to_write=True)
    failed: PGresult | None = None
    while failed is None:
        while pgconn.is_busy():
            await _ready(pgconn.socket, to_write=False)
            pgconn.consume_input()
        result = pgconn.get_result()
        if result is None:
            return None
        failed = result if _went_wrong(result) else None
    return _probe_failure(failed)


def _went_wrong(result: "PGresult") -> bool:
    """Whether a statement of the probe failed; a COPY counts, since nobody would feed it."""
    from psycopg.pq import ExecStatus

    return result.status not in (ExecStatus.TUPLES_OK, ExecStatus.COMMAND_OK, ExecStatus.EMPTY_QUERY)


def _probe_failure(result: "PGresult") -> Failure:
    from psycopg.pq import DiagnosticField

    code = (result.error_field(DiagnosticField.SQLSTATE) or b"").decode()
    if not code:
        return Failure(reason="the connection was lost during the probe")
    if code.startswith(_PASSING):
        return Failure(reason=f"the probe was not answered (SQLSTATE {code})", code=code)
    why = _PROBE_WORDS.get(code, "see the server's log")
    lacking = _lacking(result.error_field(DiagnosticField.MESSAGE_PRIMARY)) if code == "42501" else ""
    if lacking:
        why = f"{why} on {lacking}"
    return Failure(reason=f"the probe fails with SQLSTATE {code}: {why}", code=code, refused=True, lacking=lacking)


def _lacking(message: bytes | None) -> str:
    """The object that a message of the server refuses, its kind first; "" where it says so in other words."""
    denied = _DENIED.fullmatch((message or b"").decode(errors="replace"))
    if denied is None:
        return ""
    return f"{denied[1]} {''.join(letter if letter.isprintable() else '?' for letter in denied[2])}"
