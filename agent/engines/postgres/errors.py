"""From psycopg's exceptions to ours: the only file that knows what a SQLSTATE means to the Renewer.

A server's message quotes SQL, user names and passwords, so no text of it goes on, save where a right is missing (42501
names an object). For the same reason the cause is cut off (`from None`): a traceback would print the server's message.
"""

import contextlib
from collections.abc import Iterator

import psycopg

from agent.errors import BadResponse, Forbidden, LeaseGone, NotFound, Sealed, Unavailable, UpstreamError

_RETRYABLE = ("08", "40", "53", "55", "57", "58", "XX")
_STANDBY = {"25006", "57P03"}
_IDLE_TIMEOUTS = {"25P03", "25P04"}
_NO_RIGHT_GRANTED = {"01007", "0LP01"}


class Refused(Exception):
    """What the engine found wrong itself, inside a transaction that must not commit; carries the error to raise."""

    def __init__(self, error: UpstreamError) -> None:
        super().__init__(str(error))
        self.error = error


class CommitFailed(Exception):
    """COMMIT was sent and failed: the transaction may have taken effect, or not."""

    def __init__(self, cause: psycopg.Error) -> None:
        super().__init__("commit failed")
        self.cause = cause


@contextlib.contextmanager
def translated(where: str, *, secrets: tuple[str, ...] = ()) -> Iterator[None]:
    """Let only our errors out of this block.

    Args:
        where: upstream, operation and role; every message begins with it.
        secrets: texts no message may contain, such as the user name.
    """
    try:
        yield
    except Refused as exc:
        raise exc.error from None
    except CommitFailed as exc:
        raise _commit_error(exc.cause, where) from None
    except psycopg.Error as exc:
        raise error_of(exc, where, secrets=secrets) from None
    except UnicodeError:
        raise BadResponse(f"{where}: the server's answer is not UTF-8 text") from None
    except OSError:
        raise Unavailable(f"{where}: the connection was lost", unreachable=True) from None


def error_of(exc: psycopg.Error, where: str, *, secrets: tuple[str, ...] = ()) -> UpstreamError:
    """The error of ours that says what to do about `exc`."""
    code = exc.sqlstate
    if code is None:
        return _without_code(exc, where)
    named = f"{where}: {condition(exc)}"
    if code in _STANDBY:
        return Sealed(f"{named}: the server is a standby, starting or stopping")
    if code == "53200":
        return Unavailable(
            f"{named}: the server's memory or its lock table is full (max_locks_per_transaction): perhaps one session "
            "holds very many locks; end it, on the server's own machine where nobody can log in"
        )
    if code.startswith(_RETRYABLE) or code in _IDLE_TIMEOUTS:
        return Unavailable(named)
    if code == "23505" and exc.diag.table_name == "lease":
        return LeaseGone(f"{where}: revoked before it was issued")
    if code == "42501":
        return Forbidden(f"{where}: the agent's login lacks a right: {_told(exc, secrets)}")
    if code in _NO_RIGHT_GRANTED:
        return Forbidden(no_privileges(where))
    return _lasting(exc, code, where, named)


def _lasting(exc: psycopg.Error, code: str, where: str, named: str) -> UpstreamError:
    """Errors that the same call would meet again."""
    if code in {"42704", "3F000", "42P01", "3D000"}:
        return NotFound(
            f"{named}: something its statements name is missing (search_path is pg_catalog: say the schema), or the "
            "journal was dropped: then the next try makes it anew"
        )
    if code == "54000":
        return Forbidden(f"{named}: grant privileges to a group and set `group`, not to each user")
    if code == "2BP01":
        return Forbidden(
            f"{named}: rights granted by another role than the agent's own remain; REVOKE them as that role"
        )
    if code.startswith("42") or code.startswith("22"):
        return Forbidden(f"{named}: the server does not accept the role's statements")
    return Forbidden(f"{where}: the server refuses with {condition(exc)}")


def _without_code(exc: psycopg.Error, where: str) -> UpstreamError:
    if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
        return Unavailable(f"{where}: the connection was lost", unreachable=True)
    return Unavailable(f"{where}: {type(exc).__name__} in the client library")


def _commit_error(exc: psycopg.Error, where: str) -> UpstreamError:
    """A COMMIT that failed; what the server refuses by another code (a deferred constraint) has aborted for certain."""
    if exc.sqlstate is not None and not exc.sqlstate.startswith(("08", "57", "58", "XX")):
        return error_of(exc, where)
    unreachable = exc.sqlstate is None
    return Unavailable(f"{where}: no answer to COMMIT", unreachable=unreachable, outcome_unknown=True)


def condition(exc: psycopg.Error) -> str:
    """PostgreSQL's name of the condition and its SQLSTATE; no text of the server."""
    return f"{type(exc).__name__} ({exc.sqlstate})"


def no_privileges(where: str) -> str:
    """The text for SQLSTATE 01007: a GRANT that granted nothing, which the server only warns of."""
    return (
        f"{where}: a GRANT granted nothing (01007): the agent's login needs the privilege WITH GRANT OPTION, "
        "or grant it to a group and set `group`"
    )


def _told(exc: psycopg.Error, secrets: tuple[str, ...]) -> str:
    """The server's own sentence about a missing right, unless it holds what must not be said."""
    text = exc.diag.message_primary or ""
    if any(secret and secret in text for secret in secrets):
        return "permission denied (42501)"
    plain = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{plain[:160]} (42501)"
