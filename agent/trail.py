"""What the parts of the agent do, as lines of the audit log: who, what, to which lease. See docs/audit.md."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from agent.api.access import Peer
from agent.audit import Audit, Caller, Entry, Sink, StandardOutput, What
from agent.clock import Clock
from agent.config.model import Audit as Table
from agent.config.model import Role
from agent.leases.cache import Snapshot
from agent.leases.lease import Lease
from agent.leases.observed import OK, Call, Operation
from agent.leases.session import upstream_of
from agent.logfile import LogFile

if TYPE_CHECKING:  # psycopg is imported only after the socket listens
    from agent.engines.postgres import Row

_STDOUT = "stdout"
_WHATS = {
    Operation.ISSUE: What.ISSUE,
    Operation.VERIFY: What.VERIFY,
    Operation.RENEW: What.RENEW,
    Operation.REVOKE: What.REVOKE,
}


def sink_of(table: Table) -> Sink:
    """The sink that [audit] describes."""
    if table.file == _STDOUT:
        return StandardOutput()
    return LogFile(Path(table.file), max_size=table.max_size, keep=table.keep)


def fingerprint(role: Role) -> str:
    """Sixteen hex digits that change with the SQL by which leases of `role` are made and ended (R003-093)."""
    recipe = [
        role.group,
        role.creation_statements,
        role.renewal_statements,
        role.revocation_statements,
        role.rollback_statements,
    ]
    return hashlib.sha256(json.dumps(recipe).encode()).hexdigest()[:16]


class Trail:
    """Writes the audit log; never waits and never raises. Satisfies `agent.api.witness.Witness`.

    Args:
        roles: by name.
        owner: whom this agent's leases are issued for.
        incarnation: says which run this is, once that is known.
    """

    def __init__(
        self, audit: Audit, *, roles: Mapping[str, Role], owner: str, incarnation: Callable[[], int], clock: Clock
    ) -> None:
        self._audit = audit
        self._upstreams = {name: role.upstream for name, role in roles.items()}
        self._statements = {name: fingerprint(role) for name, role in roles.items()}
        self._owner = owner
        self._incarnation = incarnation
        self._clock = clock
        self._asked: dict[str, Caller] = {}

    # -- told by the agent's own parts ------------------------------------------------------------------------------

    def called(self, call: Call) -> None:
        """A call of an upstream has ended. Looks are left out: they give nobody anything, and there are many."""
        if call.operation is Operation.LOOK:
            return
        revoked = call.operation is Operation.REVOKE
        self._audit.note(
            Entry(
                at=self._clock.wall(),
                what=_WHATS[call.operation],
                outcome=call.outcome,
                caller=self._asked.get(call.lease_id) if revoked else None,
                role=call.role,
                upstream=call.upstream,
                owner=self._owner,
                incarnation=self._incarnation(),
                lease_id=call.lease_id,
                username=call.username,
                requested=call.requested,
                granted=call.granted,
                # A login has no statements, nor is it one of the roles.
                statements=self._statements.get(call.role, "") if call.operation is Operation.ISSUE else "",
            )
        )
        if revoked and call.outcome == OK:
            self._asked.pop(call.lease_id, None)

    def expired(self, role: str, lease: Lease) -> None:
        """A lease, or a login, came to its end while it was served."""
        user = lease.data.get("username")
        self._audit.note(
            Entry(
                at=self._clock.wall(),
                what=What.EXPIRE,
                role=role,
                upstream=self._upstreams.get(role) or upstream_of(role),
                owner=self._owner,
                incarnation=self._incarnation(),
                lease_id=lease.id,
                username="" if user is None else user.reveal(),
            )
        )

    def swept(self, upstream: str, rows: "Sequence[Row]") -> None:
        """Leases that had ended, whoever held them, were removed."""
        for row in rows:
            self._audit.note(
                Entry(
                    at=self._clock.wall(),
                    what=What.SWEEP,
                    role=row.role,
                    upstream=upstream,
                    owner=row.holder,
                    incarnation=row.incarnation,
                    lease_id=row.id,
                    username=row.username,
                )
            )

    # -- told by the socket -----------------------------------------------------------------------------------------

    def read(self, peer: Peer, snapshot: Snapshot) -> None:
        """`peer` got a credential that it had not got before."""
        user = snapshot.lease.data.get("username")
        self._audit.note(
            Entry(
                at=self._clock.wall(),
                what=What.READ,
                caller=_caller(peer),
                role=snapshot.role,
                upstream=self._upstreams[snapshot.role],
                lease_id=snapshot.lease.id,
                username="" if user is None else user.reveal(),
                granted=max(0.0, snapshot.remaining(self._clock.now())),
                generation=snapshot.generation,
            )
        )

    def denied(self, peer: Peer, role: str, operation: str) -> None:
        """`peer` was refused; `role` is "" where it was no role's matter."""
        self._asked_for(peer, What.DENIED, role, outcome="denied", operation=operation)

    def rotated(self, peer: Peer, role: str) -> None:
        """`peer` had a credential replaced."""
        self._asked_for(peer, What.ROTATE, role)

    def revoking(self, peer: Peer, lease_ids: Sequence[str], prefix: str) -> None:
        """`peer` has these leases revoked: their lines will name it; one more where it named a prefix."""
        for lease_id in lease_ids:
            self._asked[lease_id] = _caller(peer)
        if prefix:
            entry = Entry(
                at=self._clock.wall(),
                what=What.REVOKE_PREFIX,
                caller=_caller(peer),
                prefix=prefix,
                count=len(lease_ids),
            )
            self._audit.note(entry)

    async def settled(self, timeout: float) -> bool:
        """Whether all of it is written within `timeout` seconds."""
        return await self._audit.written(timeout)

    def _asked_for(self, peer: Peer, what: What, role: str, *, outcome: str = OK, operation: str = "") -> None:
        self._audit.note(
            Entry(
                at=self._clock.wall(),
                what=what,
                outcome=outcome,
                caller=_caller(peer),
                role=role,
                upstream=self._upstreams.get(role, ""),
                operation=operation,
            )
        )


def _caller(peer: Peer) -> Caller:
    return Caller(uid=peer.uid, gid=peer.gid, pid=peer.pid)
