"""Logging in at the server as the configuration says: with which password, and what a refusal means for us."""

import os
import re
import stat
from pathlib import Path

import psycopg

from agent.config.model import PostgreSQL
from agent.engines.libpq import login_code, methods
from agent.errors import Forbidden, NotFound, Sealed, Unavailable, UpstreamError
from agent.leases.lease import Secret

_MAX_PASSWORD_FILE = 4096
_SQLSTATE = re.compile(r"[0-9A-Z]{5}")


def read_password(path: str) -> Secret:
    """The content of `password_file` without one trailing newline; blocking.

    Raises:
        Forbidden: naming the file and what is wrong with it.
    """
    try:
        raw = _read(path)
    except OSError as exc:
        raise Forbidden(f"password_file {path} cannot be read: {exc.strerror}") from None
    if len(raw) > _MAX_PASSWORD_FILE:
        raise Forbidden(f"password_file {path} is longer than {_MAX_PASSWORD_FILE} bytes: it should hold one password")
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise Forbidden(f"password_file {path} is not UTF-8 text") from None
    if not text or "\0" in text or "\n" in text:
        raise Forbidden(f"password_file {path} must hold one password on one line")
    return Secret(text)


def _read(path: str) -> bytes:
    # Without O_NONBLOCK a pipe in the file's place would hold this thread for ever.
    with open(os.open(Path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(0, "it is not a regular file")
        return file.read(_MAX_PASSWORD_FILE + 1)


_ON_THE_WAY = (
    (r"resolve host|translate host|Name or service", "the name does not resolve; correct `host`, or the DNS"),
    (r"refused", "connection refused; is PostgreSQL up, is `port` right?"),
    (r"timeout expired|timed out", "no answer; a firewall on the way, or a server that hangs?"),
    (r"No route|unreachable", "there is no route to it"),
    (r"No such file", "there is no socket; is PostgreSQL up, is `host` its socket directory?"),
    (r"Permission denied", "this uid may not open its socket"),
    (r"does not support SSL", "the server has no TLS; switch it on there (`ssl`)"),
    (r"certificate verify failed", "check sslrootcert: the server's certificate is not signed by it"),
    (r"does not match host name", "the server's certificate is for another name than `host`"),
    (r"root certificate", "check sslrootcert: there is no such file, or it cannot be read"),
    (r"no pg_hba\.conf entry .*(no encryption|SSL off)", "no entry there admits a login without TLS; see sslmode"),
    (r"reset by peer|closed the connection|EOF", "it closed the connection; is it PostgreSQL that listens there?"),
)
"""What libpq, and the server where it speaks English, say of a connection that was not made."""


def refusal(exc: psycopg.Error) -> str:
    """What a failed login means, as `login_code` says it."""
    return exc.sqlstate or login_code(str(exc))


def unreachable_because(text: str) -> str:
    """What a failed connection's text says of the way to the server, TLS included; "" where it says nothing."""
    return next((said for pattern, said in _ON_THE_WAY if re.search(pattern, text)), "")


def login_error(code: str, config: PostgreSQL, *, dbname: str, where: str, cause: str = "") -> UpstreamError:
    """Why the login failed, and what to do; `code` is what `refusal` said, `cause` what `unreachable_because` did."""
    error = _login_error(code, config, dbname=dbname, where=where, cause=cause)
    error.code = code if _SQLSTATE.fullmatch(code) else ""
    return error


def _login_error(code: str, config: PostgreSQL, *, dbname: str, where: str, cause: str) -> UpstreamError:
    place = f"{where}: {config.host}:{config.port}"
    if code == "unreachable":
        return Unavailable(f"{place} cannot be reached{cause and ': '}{cause}", unreachable=True)
    if code == "57P03":
        return Sealed(f"{place} is starting, stopping or in recovery")
    if code == "3D000":
        return NotFound(f"{place} has no database {dbname}")
    lasting = _lasting(config, dbname, cause).get(code)
    if lasting is not None:
        return Forbidden(f"{place} {lasting}")
    return Unavailable(f"{place} refused the login for now ({code or 'for a reason not known to us'})")


def _lasting(config: PostgreSQL, dbname: str, cause: str) -> dict[str, str]:
    """Refusals that an operator has to remove, each with the remedy."""
    user = config.user
    tls = cause or "check sslrootcert and the host's name"
    proof = f"password_file {config.password_file}" if config.password_file else "sslcert, or a password_file"
    return {
        "28P01": f"refuses the password of {user}: correct {proof}",
        "28000": f"does not let {user} in: see pg_hba.conf, LOGIN and {proof}{cause and ': '}{cause}",
        "42501": f"does not let {user} into database {dbname}: GRANT CONNECT",
        "auth-method": f"asks for another kind of login than {methods(config)}: see its pg_hba.conf",
        "no-password": f"wants a proof from {user}: set password_file, or sslcert and sslkey",
        "tls": f"and we found no common TLS at sslmode {config.sslmode}: {tls}",
    }
