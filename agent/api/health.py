"""How the agent is doing, as JSON: nothing secret, no user names, no lease ids.

Whoever can open the socket may ask. An operator (the listener's `allow_admin`) sees every role, the files and the
upstreams; everybody else sees the roles they may read.
"""

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from agent.api.access import AllowList, Peer, RoleAccess
from agent.api.fastpath import rfc3339
from agent.api.wire import Response, plain
from agent.clock import Clock
from agent.leases.cache import LeaseCache, Snapshot


@dataclass(frozen=True, kw_only=True)
class Probes:
    """What only the rest of the agent can say.

    Attributes:
        started: all required roles were published once and their files written.
        ready: every required role holds a published, unexpired credential and its files are written.
        live: the agent turns; never depends on an upstream.
        degraded: something fails, although credentials may still be served.
        files: how each file is doing, as plain values for JSON.
        upstreams: likewise.
    """

    started: Callable[[], bool]
    ready: Callable[[], bool]
    live: Callable[[], bool]
    degraded: Callable[[], bool]
    files: Callable[[], list[dict[str, Any]]]
    upstreams: Callable[[], list[dict[str, Any]]]


class Health:
    """Answers the probes and `/v1/sys/health`."""

    def __init__(
        self,
        *,
        probes: Probes,
        cache: LeaseCache,
        clock: Clock,
        roles: Mapping[str, RoleAccess],
        admin: AllowList,
        required: Collection[str],
        version: str,
    ) -> None:
        self._probes = probes
        self._cache = cache
        self._clock = clock
        self._roles = roles
        self._admin = admin
        self._required = frozenset(required)
        self._version = version

    @property
    def probes(self) -> Mapping[str, Callable[[], Response]]:
        """The three probes by path."""
        return probe_answers(self._probes)

    def operator(self, peer: Peer) -> bool:
        """Whether `peer` is one."""
        return self._admin.admits(peer)

    def report(self, peer: Peer) -> Response:
        """What `peer` may know, always with 200: it is the report that succeeded."""
        operator = self.operator(peer)
        shown = [role for role, access in self._roles.items() if operator or access.read.admits(peer)]
        now = self._clock.now()
        return plain(
            200,
            {
                "started": self._probes.started(),
                "ready": self._probes.ready(),
                "live": self._probes.live(),
                "degraded": self._probes.degraded(),
                "version": self._version,
                "scope": "operator" if operator else "reader",
                "roles": {role: self._role(role, now) for role in shown},
                "files": self._probes.files() if operator else [],
                "upstreams": self._probes.upstreams() if operator else [],
            },
        )

    def _role(self, role: str, now: float) -> dict[str, Any]:
        status = self._cache.status(role)
        snapshot = self._cache.read(role, now)
        served = {
            "state": "none" if snapshot is None else "stale" if snapshot.stale else "fresh",
            "remaining": None if snapshot is None else math.floor(snapshot.remaining(now)),
            "ends_with_login": snapshot is not None and _by_login(snapshot),
            "expires_at": None if snapshot is None else rfc3339(snapshot.expires_wall),
            "generation": None if snapshot is None else snapshot.generation,
            "verified": None if snapshot is None else snapshot.verified,
        }
        return {
            "phase": status.phase.value,
            **served,
            "required": role in self._required,
            "lazy": self._roles[role].lazy,
            "failures": status.failures,
            "retry_in": seconds_to(status.retry_at, now),
            "next_step": status.next_step or None,
            "next_in": seconds_to(status.next_at, now),
            "draining": status.draining,
            "error": status.error or None,
        }


def probe_answers(probes: Probes) -> Mapping[str, Callable[[], Response]]:
    """What the probes answer, by path: 200 while what they ask for holds, 503 while it does not.

    `/startupz` holds once the agent has started; `/readyz` while every required role can be used; `/livez` while the
    agent turns.
    """

    return {
        "/startupz": lambda: _probe("started", probes.started()),
        "/readyz": lambda: _probe("ready", probes.ready()),
        "/livez": lambda: _probe("live", probes.live()),
    }


def _probe(name: str, holds: bool) -> Response:
    return plain(200 if holds else 503, {name: holds})


def _by_login(snapshot: Snapshot) -> bool:
    """Whether it is our login's end that is told, which moves on whenever the login is renewed."""
    return snapshot.lease.parent_until <= snapshot.lease.own_end - 1.0


def seconds_to(instant: float, now: float) -> float | None:
    """Seconds until `instant`, None where there is none ahead."""
    ahead = instant - now
    return round(ahead, 3) if 0 < ahead < math.inf else None
