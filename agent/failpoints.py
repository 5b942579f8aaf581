"""Named places on every edge of a lease's life (docs/adr/0001), where a test can stop, fail or kill the program.

`reach` costs one look-up in an empty dictionary when nothing is armed. Nothing but a test arms a point.
"""

import contextlib
from collections.abc import Callable, Iterator
from enum import StrEnum


class Failpoint(StrEnum):
    """One name per edge; the text is what ADR 1 draws."""

    ISSUE_PROPOSED = "issue.proposed"
    ISSUE_INSERTED = "issue.inserted"
    ISSUE_CREATED = "issue.created"
    ISSUE_COMMITTED = "issue.committed"
    ISSUE_ANSWERED = "issue.answered"
    VERIFY_DONE = "verify.done"
    PUBLISH_RECORDED = "publish.recorded"
    PUBLISH_DONE = "publish.done"
    FILE_STAGED = "file.staged"
    FILE_WRITTEN = "file.written"
    RENEW_LOCKED = "renew.locked"
    RENEW_COMMITTED = "renew.committed"
    RENEW_ANSWERED = "renew.answered"
    DRAIN_BEGUN = "drain.begun"
    REVOKE_LOCKED = "revoke.locked"
    REVOKE_NOLOGIN = "revoke.nologin"
    REVOKE_TERMINATED = "revoke.terminated"
    REVOKE_DROPPED = "revoke.dropped"
    REVOKE_COMMITTED = "revoke.committed"
    STOP_BEGUN = "stop.begun"


_armed: dict[Failpoint, Callable[[], None]] = {}


def reach(point: Failpoint) -> None:
    """The program has come to `point`; an armed action runs, and what it raises is raised here."""
    action = _armed.get(point)
    if action is not None:
        action()


@contextlib.contextmanager
def armed(point: Failpoint, action: Callable[[], None]) -> Iterator[None]:
    """Run `action` whenever `point` is reached inside this block."""
    _armed[point] = action
    try:
        yield
    finally:
        del _armed[point]
