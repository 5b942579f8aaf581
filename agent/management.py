"""What operators are told and may ask: puts desk, journals and audit log together for one agent."""

import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from agent import catalogue
from agent.api.leases import Holdings
from agent.audit import Audit
from agent.clock import Clock
from agent.config.model import Config
from agent.errors import Unavailable
from agent.leases.desk import Booked, Desk, Shelf
from agent.leases.lease import Lease
from agent.leases.observed import Call
from agent.leases.schedule import CALL_DEADLINE
from agent.meters import Family
from agent.parts import Parts
from agent.trail import Trail, sink_of

if TYPE_CHECKING:  # psycopg is imported only after the socket listens
    from agent.engines.postgres.journal import Page, Row, Tally

_PATIENCE = 2 * CALL_DEADLINE
"""Seconds for a look into a journal, its turn at the gate included."""


class Management:
    """See the module.

    Attributes:
        holdings: what the socket says of leases.
        trail: writes the audit log; None where none is kept.
        owner: whom the leases are issued for.

    Args:
        parts: of the agent; they may still be made.
        holder: the pod's name; the configured one by default, or the host's.
    """

    def __init__(self, config: Config, parts: Parts, *, holder: str | None, clock: Clock) -> None:
        self.owner = owner = holder or config.agent.holder or socket.gethostname()
        self._parts = parts
        self._clock = clock
        self._audit = None if config.audit is None else Audit(sink_of(config.audit), clock)
        self.trail = (
            None
            if self._audit is None
            else Trail(self._audit, roles=config.role, owner=owner, incarnation=lambda: parts.incarnation, clock=clock)
        )
        self.holdings = Holdings(
            desk=Desk(parts.renewers, clock),
            upstreams={name: role.upstream for name, role in config.role.items()},
            owner=owner,
            incarnation=lambda: parts.incarnation,
            journal=self._journal,
            beyond=self._beyond,
        )

    async def start(self) -> None:
        """Take the audit log's file.

        Raises:
            StartError: it cannot be had; the text names the remedy.
        """
        if self._audit is not None:
            await self._audit.start()

    async def close(self, timeout: float) -> None:
        """Write what waits, for `timeout` seconds at most."""
        if self._audit is not None:
            await self._audit.close(timeout)

    # -- told by the parts ------------------------------------------------------------------------------------------

    def called(self, call: Call) -> None:
        """A call of an upstream has ended."""
        if self.trail is not None:
            self.trail.called(call)

    def expired(self, role: str, lease: Lease) -> None:
        """A lease came to its end while it was served."""
        if self.trail is not None:
            self.trail.expired(role, lease)

    def swept(self, upstream: str, rows: "Sequence[Row]") -> None:
        """A sweep has ended these leases."""
        if self.trail is not None:
            self.trail.swept(upstream, rows)

    # -- asked by operators -----------------------------------------------------------------------------------------

    async def _journal(self, upstream: str, prefix: str, most: int) -> Shelf:
        from agent.engines.postgres.journal import Search

        engine, gate = self._parts.journals[upstream], self._parts.circuits[upstream]
        try:
            async with self._clock.timeout(_PATIENCE), gate.turn(), self._clock.timeout(CALL_DEADLINE):
                page = await engine.find(Search(prefix=prefix, state="unrevoked", most=most))
        except TimeoutError as error:
            raise Unavailable(f"{upstream}: journal: no answer in time", unreachable=True) from error
        return _shelf(page)

    def _beyond(self) -> Mapping[str, Any]:
        now = self._clock.now()
        journals: dict[str, dict[str, Any]] = {}
        roles: dict[str, dict[str, int]] = {}
        for name, sweeper in self._parts.sweepers.items():
            if sweeper.swept_at > float("-inf"):
                found = {each.role: _tallied([each]) for each in sweeper.tallies}
                journals[name] = {**_tallied(sweeper.tallies), "swept_ago": round(now - sweeper.swept_at, 1)}
                roles.update({f"{name}: {role}": row for role, row in found.items()})
        return {"journals": journals, "journals_by_role": roles, **self._audited()}

    def families(self) -> Iterator[Family]:
        """How the audit log is doing, as metrics; without values where none is kept."""
        account = None if self._audit is None else self._audit.account
        lines = () if account is None else (("written", account.written), ("lost", account.lost))
        yield catalogue.AUDIT_LINES.of(((outcome,), count) for outcome, count in lines)
        yield catalogue.AUDIT_FAILING.of([] if account is None else [((), bool(account.error))])

    def _audited(self) -> dict[str, Any]:
        if self._audit is None:
            return {"audit": "off"}
        account = self._audit.account
        state = f"failing: {account.error}" if account.error else "ok"
        return {"audit": state, "audit_written": account.written, "audit_lost": account.lost}


def _tallied(tallies: "Sequence[Tally]") -> dict[str, int]:
    return {
        "active": sum(each.active for each in tallies),
        "overdue": sum(each.overdue for each in tallies),
        "failed": sum(each.failed for each in tallies),
        "revoked_last_hour": sum(each.revoked for each in tallies),
    }


def _shelf(page: "Page") -> Shelf:
    return Shelf(
        leases=tuple(
            Booked(
                lease_id=row.id,
                role=row.role,
                username=row.username,
                owner=row.holder,
                incarnation=row.incarnation,
                state="active" if row.expires > page.now else "overdue",
                issued=row.issued,
                expires=row.expires,
                remaining=row.expires - page.now,
                requested_ttl=row.requested_ttl,
                granted_ttl=row.granted_ttl,
            )
            for row in page.rows
        ),
        cut=page.cut,
    )
