"""Logging: a closed vocabulary of events, one line each, and nothing secret by construction.

Only the events of `Event` are logged, only with the fields of `_FIELDS`, and only as plain scalars: a Secret, a
mapping or an object is replaced by its type's name. Lease ids go through `lease_ref` (a keyed hash that means something
within one run only). User names, passwords, tokens and SQL are never passed in.
"""

import hashlib
import logging
import os
import sys
from collections.abc import MutableMapping
from enum import StrEnum
from typing import Any, Literal, TextIO, cast

import structlog

from agent.errors import LeaseholdError
from agent.linepipe import LinePipe

Level = Literal["debug", "info", "warning", "error"]


class Event(StrEnum):
    """Everything the agent ever says."""

    # the process
    STARTING = "starting"
    LISTENING = "listening"
    STARTED = "started"
    START_FAILED = "start-failed"
    STOPPING = "stopping"
    STOPPED = "stopped"
    LEFT_BEHIND = "left-behind"
    CONFIG_WARNING = "config-warning"
    AMBIENT_IGNORED = "ambient-ignored"
    HARDENING = "hardening"
    CLOCK_JUMP = "clock-jump"
    CRASHED = "crashed"
    # leases
    ISSUED = "issued"
    ISSUE_FAILED = "issue-failed"
    VERIFY_FAILED = "verify-failed"
    PUBLISHED = "published"
    ADOPTED = "adopted"
    RENEWED = "renewed"
    RENEW_FAILED = "renew-failed"
    LOOK_FAILED = "look-failed"
    REPLACING = "replacing"
    DRAINING = "draining"
    REVOKED = "revoked"
    REVOKE_FAILED = "revoke-failed"
    EXPIRED = "expired"
    ROLE_FAILED = "role-failed"
    CIRCUIT = "circuit"
    # logins
    IDENTITY = "identity"
    IDENTITY_CHANGED = "identity-changed"
    WRAPPING_TOKEN_REUSED = "wrapping-token-reused"  # noqa: S105 - names an event
    LOGIN_LOST = "login-lost"
    # engines
    UPSTREAM = "upstream"
    FAILOVER = "failover"
    GRANTED_LESS = "granted-less"
    SWEPT = "swept"
    SWEEP_FAILED = "sweep-failed"
    # files
    FILE_WRITTEN = "file-written"
    FILE_FAILED = "file-failed"
    FILE_REMOVED = "file-removed"
    # the socket
    DENIED = "denied"
    BAD_REQUEST = "bad-request"
    ROTATE_ASKED = "rotate-asked"
    REVOKE_ASKED = "revoke-asked"
    SOCKET_LOST = "socket-lost"
    HANDLER_FAILED = "handler-failed"
    HOOK_FAILED = "hook-failed"
    STATE_FAILED = "state-failed"
    # audit and leases that pile up
    AUDIT_FAILED = "audit-failed"
    AUDIT_RESUMED = "audit-resumed"
    LEASES_PILE_UP = "leases-pile-up"


# What an event may carry. A new field is added here, with a thought for what it could give away.
_FIELDS = frozenset(
    {
        *("role", "upstream", "lease", "error", "retry_in", "attempt", "ttl", "remaining", "expires_in", "verified"),
        *("reason", "path", "mode", "count", "socket", "host", "state", "deadline", "server", "signal", "took"),
        *("version", "left", "lost", "set_by", "warning", "uid", "gid", "pid", "operation", "name"),
        *("event", "level", "timestamp", "part", "module", "func_name", "lineno"),
    }
)
_KEY = os.urandom(16)


def place_of(bug: BaseException) -> str:
    """Where an exception was raised, innermost last: files and lines, never what it says, which may be a secret."""
    places, trace = [], bug.__traceback__
    while trace is not None:
        places.append(f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}")
        trace = trace.tb_next
    return " > ".join(places[-6:])


def reason_of(error: BaseException) -> str:
    """Why something failed, in words that may be told: our own errors', the system's, else only type and place."""
    if isinstance(error, LeaseholdError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return str(error.strerror)
    return f"{type(error).__name__} at {place_of(error)}"


def lease_ref(lease_id: str) -> str:
    """Eight hex digits that name a lease in this run's log, and tell nothing outside of it."""
    return hashlib.blake2s(lease_id.encode(), key=_KEY, digest_size=4).hexdigest()


def _guard(_: Any, __: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Keep only the vocabulary's fields, as plain scalars; a slip loses a field and fails a test, not the agent."""
    kept: MutableMapping[str, Any] = {}
    for key, value in event_dict.items():
        if key not in _FIELDS:
            continue
        kept[key] = value if isinstance(value, str | int | float | bool | None) else f"<{type(value).__name__}>"
    name = event_dict.get("event")
    kept["event"] = name.value if isinstance(name, Event) else "unnamed"
    return kept


def configure(
    *,
    level: Level = "info",
    json: bool | None = None,
    only: str = "",
    stream: TextIO | None = None,
) -> None:
    """Set logging up, once per process.

    Args:
        level: the least level that is written; at `debug` each line names module, function and line.
        json: JSON lines; None means text on a terminal and JSON elsewhere.
        only: write only events of the parts (modules) whose name contains this, e.g. `leases`.
        stream: where to; standard error by default, without ever waiting for its reader: lines that it leaves lying
            are lost in the end, and the next one says how many.
    """
    out = stream or sys.stderr
    # Standard error is a pipe or a terminal as a rule, and who reads it may be stuck or gone.
    pipe = LinePipe(out.fileno()) if stream is None and _has_descriptor(out) else None
    as_json = not out.isatty() if json is None else json

    def wanted(_: Any, __: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        if only and only not in str(event_dict.get("part", "")):
            raise structlog.DropEvent
        return event_dict

    def tell_lost(_: Any, __: str, event_dict: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        lost = 0 if pipe is None else pipe.take_lost()
        return {**event_dict, "lost": lost} if lost else event_dict

    processors: list[Any] = [
        wanted,
        tell_lost,
        _guard,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if level == "debug":
        where = structlog.processors.CallsiteParameter
        processors.append(structlog.processors.CallsiteParameterAdder([where.MODULE, where.FUNC_NAME, where.LINENO]))
    processors.append(
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer(colors=out.isatty())
    )
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(out)
        if pipe is None
        else structlog.WriteLoggerFactory(cast(TextIO, pipe)),
        cache_logger_on_first_use=False,
    )
    # Libraries log request bytes, SQL and tokens: they are not heard at all.
    logging.getLogger().handlers[:] = [logging.NullHandler()]
    logging.lastResort = None


def _has_descriptor(stream: TextIO) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):  # a test's stand-in
        return False


def get(name: str) -> Any:
    """The logger of a file: `_log = log.get(__name__)`, then `_log.info(Event.RENEWED, role=…)`."""
    return structlog.get_logger(part=name)
