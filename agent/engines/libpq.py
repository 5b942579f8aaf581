"""What libpq is told, which is every connection parameter explicitly, and what its words on a refused login mean.

libpq fills what is not said from PG* variables, ~/.pgpass, ~/.postgresql and service files; each of them could send our
login elsewhere or weaken it. A test compares this list with libpq's own. Nothing here imports psycopg.
"""

import math
import re

from agent.config.model import PostgreSQL
from agent.leases.lease import Secret

# A path that cannot exist: libpq takes an empty one for its default in the home directory.
_NOWHERE = "/dev/null/none"
_TIMEOUTS = {
    "statement_timeout": "10s",
    "lock_timeout": "2s",
    "idle_in_transaction_session_timeout": "20s",
}
_SETTINGS = {
    "search_path": "pg_catalog",
    "client_min_messages": "warning",
    "standard_conforming_strings": "on",
    "default_transaction_isolation": "read\\ committed",
    "default_transaction_read_only": "off",
    **_TIMEOUTS,
}


def parameters(config: PostgreSQL, *, dbname: str, password: Secret | None) -> dict[str, str]:
    """Every libpq parameter that has an ambient default, as this configuration wants it."""
    return {
        "host": config.host,
        "hostaddr": "",
        "port": str(config.port),
        "dbname": dbname,
        "user": config.user,
        "password": "" if password is None else password.reveal(),
        "passfile": _NOWHERE,
        "require_auth": methods(config),
        "channel_binding": "prefer",
        **_tls(config),
        "requirepeer": "",
        "gssencmode": "disable",
        "krbsrvname": "postgres",
        "gsslib": "",
        "gssdelegation": "0",
        "min_protocol_version": "3.0",
        "max_protocol_version": "3.0",
        "application_name": "leasehold",
        "client_encoding": "UTF8",
        "options": " ".join(f"-c {name}={value}" for name, value in _SETTINGS.items()),
        "target_session_attrs": "read-write" if "," in config.host else "any",
        "load_balance_hosts": "disable",
        "connect_timeout": str(max(2, math.ceil(config.connect_timeout))),
        "keepalives_idle": "30",
        "keepalives_interval": "10",
        "keepalives_count": "3",
    }


def methods(config: PostgreSQL) -> str:
    """How the server may ask us to prove who we are: never a password in clear or MD5, never `trust` over TCP."""
    by_peer = config.host.startswith("/") and config.password_file is None
    if by_peer or config.sslcert is not None:
        return "scram-sha-256,none" if config.password_file is not None else "none"
    return "scram-sha-256"


def _tls(config: PostgreSQL) -> dict[str, str]:
    rootcert = config.sslrootcert
    if rootcert is None:
        rootcert = "system" if config.sslmode == "verify-full" else _NOWHERE
    return {
        "sslmode": config.sslmode,
        "sslnegotiation": "postgres",
        "sslcompression": "0",
        "sslcertmode": "disable" if config.sslcert is None else "allow",
        "sslcert": config.sslcert or _NOWHERE,
        "sslkey": config.sslkey or _NOWHERE,
        "sslrootcert": rootcert,
        "sslcrl": _NOWHERE,
        "sslcrldir": "",
        "sslsni": "1",
        "ssl_min_protocol_version": "TLSv1.2",
        "ssl_max_protocol_version": "",
    }


# -- logging in
# libpq gives no SQLSTATE for a refused login, only a text, in the server's language. What is not recognised counts as
# an answer worth another try.

_SERVER_SAYS = (
    ("28P01", r"password authentication failed"),
    ("28000", r"pg_hba\.conf|authentication failed for user|is not permitted to log in|role \".*\" does not exist"),
    ("3D000", r"database \".*\" does not exist"),
    ("42501", r"permission denied for database"),
    ("53300", r"too many (clients|connections)|remaining connection slots"),
    ("57P03", r"the database system is|not (yet )?accepting connections|in recovery mode"),
    ("57P01", r"terminating connection due to"),
)
_LIBRARY_SAYS = (
    ("auth-method", r"authentication method requirement|server did not complete authentication|channel binding"),
    ("no-password", r"no password supplied|private key file|(?<!root )certificate file"),
    (
        "tls",
        r"does not support SSL|certificate verify failed|root certificate|does not match host name|SSL error|sslmode",
    ),
    ("unreachable", r"refused|timeout expired|timed out|unreachable|resolve host|No such file|No route|reset by peer"),
    ("unreachable", r"closed the connection unexpectedly|could not (send|receive)|socket closed|Permission denied|EOF"),
)


def login_code(text: str) -> str:
    """What a failed login's text means: a SQLSTATE, a word of our own, or "" where the server said something else."""
    server_spoke = re.search(r"failed: \S+:  ", text) is not None
    for code, pattern in _SERVER_SAYS if server_spoke else _LIBRARY_SAYS:
        if re.search(pattern, text):
            return code
    return "" if server_spoke else "unreachable"
