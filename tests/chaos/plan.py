"""Where the agent is killed, and what makes it come there. The table holds every failpoint; a test sees to that."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from agent.failpoints import Failpoint


class Course(StrEnum):
    """What happens to the agent that is to die."""

    START = "start"
    RESTART = "restart"  # another was killed before it, and it adopts
    ROTATE = "rotate"  # asked again and again; what is replaced is revoked a second later
    RENEW = "renew"  # of short leases, renewed every second
    WEAR = "wear"  # leases of 5 s without renewal: replaced, drained to their end, reaped
    STOP = "stop"
    STOP_WITH_TWO = "stop-with-two"  # one more lease is draining
    HAND_OVER = "hand-over"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to a failpoint.

    Attributes:
        nth: how often the point may be passed before, one of these is drawn.
        weight: how often this way is drawn, beside the others.
    """

    course: Course
    nth: tuple[int, ...] = (1,)
    weight: int = 4


_START = Way(course=Course.START)
_RESTART = Way(course=Course.RESTART)
_AGAIN = Way(course=Course.ROTATE, nth=(2, 2, 3))
_RENEW = Way(course=Course.RENEW, nth=(1, 2, 3))
_STOP = Way(course=Course.STOP)
_MINT = (_START, _AGAIN, Way(course=Course.WEAR, nth=(2,), weight=1))
_KEEP = (_RESTART, _RENEW)
_END = (
    Way(course=Course.ROTATE, nth=(1, 1, 2)),
    _STOP,
    Way(course=Course.STOP_WITH_TWO, nth=(1, 2)),
    Way(course=Course.WEAR, weight=1),
)
# A fresh start writes holder, proposal, record and the app's file; a restart holder and renewed record (and the file,
# where it shows another TTL by then); a rotation proposal, record, file and what has become of the old lease.
_WRITE = (
    Way(course=Course.START, nth=(1, 2, 3, 4)),
    Way(course=Course.RESTART, nth=(1, 2)),
    Way(course=Course.ROTATE, nth=(5, 6, 7, 8)),
)

WAYS: Mapping[Failpoint, tuple[Way, ...]] = MappingProxyType(
    {
        Failpoint.ISSUE_PROPOSED: _MINT,
        Failpoint.ISSUE_INSERTED: _MINT,
        Failpoint.ISSUE_CREATED: _MINT,
        Failpoint.ISSUE_COMMITTED: _MINT,
        Failpoint.ISSUE_ANSWERED: _MINT,
        Failpoint.VERIFY_DONE: _MINT,
        Failpoint.PUBLISH_RECORDED: _MINT,
        Failpoint.PUBLISH_DONE: (*_MINT, _RESTART),
        Failpoint.FILE_STAGED: _WRITE,
        Failpoint.FILE_WRITTEN: _WRITE,
        Failpoint.RENEW_LOCKED: _KEEP,
        Failpoint.RENEW_COMMITTED: _KEEP,
        Failpoint.RENEW_ANSWERED: _KEEP,
        Failpoint.DRAIN_BEGUN: (Way(course=Course.ROTATE, nth=(1, 1, 2)), _STOP, Way(course=Course.WEAR, weight=1)),
        Failpoint.REVOKE_LOCKED: _END,
        Failpoint.REVOKE_NOLOGIN: _END,
        Failpoint.REVOKE_TERMINATED: _END,
        Failpoint.REVOKE_DROPPED: _END,
        Failpoint.REVOKE_COMMITTED: _END,
        Failpoint.STOP_BEGUN: (_STOP, Way(course=Course.STOP_WITH_TWO), Way(course=Course.HAND_OVER)),
    }
)


class Accident(StrEnum):
    """Kills at no point of the program in particular, under read load."""

    ALONE = "at random"
    WITH_THE_SERVER = "with the server"


Place = Failpoint | Accident
