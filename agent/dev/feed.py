"""What a person watching `leasehold dev` sees: a line for everything that happens, and a table that counts down.

Pure: two looks at the world give lines. Users' names are shown here, and only here: it is a demonstration.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.leases.cache import Phase, RoleStatus, Snapshot
from agent.table import columns, seconds


@dataclass(frozen=True, kw_only=True)
class Look:
    """The world at one moment.

    Attributes:
        users: name to end, as pg_roles has them; None where the server did not answer.
        wall: Unix time.
        now: the dial.
    """

    now: float
    wall: float
    snapshot: Snapshot | None
    status: RoleStatus
    users: Mapping[str, str] | None = field(default=None)


def happened(before: Look | None, after: Look) -> list[str]:
    """What changed between two looks, a line each."""
    lines: list[str] = []
    was, is_ = before.snapshot if before else None, after.snapshot
    if is_ is not None and (was is None or was.generation != is_.generation):
        how = "replaced, the old user drains" if was is not None else "published"
        proof = "its login was verified first" if is_.verified else "its login could not be verified"
        lines.append(f"{how}: {_user(is_)}, {seconds(is_.remaining(after.now))} left, {proof}")
    elif is_ is not None and was is not None and is_.lease.granted_at > was.lease.granted_at:
        lines.append(f"renewed: {_user(is_)}, {seconds(is_.remaining(after.now))} left")
    elif is_ is None and was is not None and after.status.phase is not Phase.STOPPED:
        lines.append("nothing to serve: " + (after.status.error or "the lease has ended"))
    if before is not None and after.status.error and after.status.error != before.status.error:
        lines.append(f"failing: {after.status.error}")
    if before is not None and before.users is not None and after.users is not None:
        lines += [f"gone from pg_roles: {name}" for name in before.users if name not in after.users]
    stamp = time.strftime("%H:%M:%S", time.localtime(after.wall))
    return [f"{stamp}  {line}" for line in lines]


def table(role: str, look: Look) -> list[str]:
    """The lease and the users of this moment."""
    status, snapshot = look.status, look.snapshot
    next_in = status.next_at - look.now
    lines = columns(
        [
            ("ROLE", "STATE", "USER", "LEFT", "NEXT", "IN", "DRAINING"),
            (
                role,
                str(status.phase),
                _user(snapshot) if snapshot else "-",
                seconds(max(0.0, snapshot.remaining(look.now))) if snapshot else "-",
                status.next_step or "-",
                seconds(max(0.0, next_in)) if 0 <= next_in < 1e9 and status.phase is not Phase.STOPPED else "-",
                str(status.draining),
            ),
        ]
    )
    users = look.users
    if users is None:
        return [*lines, "", "pg_roles: the server does not answer"]
    shown = [f"  {name}  valid until {until}" for name, until in users.items()]
    return [*lines, "", f"pg_roles: {len(users)} leased user{'' if len(users) == 1 else 's'}", *shown]


def _user(snapshot: Snapshot) -> str:
    return snapshot.lease.data["username"].reveal()
