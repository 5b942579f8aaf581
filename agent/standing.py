"""How our logins at Vault and OpenBao stand, for health and metrics. Nothing secret: neither tokens nor accessors."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from agent import catalogue
from agent.api.health import seconds_to
from agent.clusters import Cluster
from agent.leases.cache import Phase
from agent.leases.schedule import Policy
from agent.meters import Family

_FAILING = (Phase.STALE, Phase.FAILING)
_POLICY = Policy()  # what logins are kept by, as far as their overlap goes


def failing(clusters: Mapping[str, Cluster]) -> bool:
    """Whether a login cannot be made, or not be kept; roles may be served all the same."""
    return any(each.session.status.phase in _FAILING for each in clusters.values())


def login_of(cluster: Cluster, now: float) -> dict[str, Any]:
    """One cluster's login, for JSON."""
    session = cluster.session
    status, found, logins = session.status, session.snapshot, session.renewer.held()
    return {
        "address": cluster.wire.address,
        "login": {
            "method": cluster.method.type,
            "mount": None if cluster.method.type == "token_file" else f"auth/{cluster.method.mount}",
            "phase": status.phase.value,
            "expires_in": None if found is None else math.floor(found.remaining(now)),
            "failures": status.failures,
            "retry_in": seconds_to(status.retry_at, now),
            "next_step": status.next_step or None,
            "next_in": seconds_to(status.next_at, now),
            "draining": sum(1 for held in logins if held.state == "draining"),
            "error": status.error or None,
        },
    }


def families(clusters: Mapping[str, Cluster], now: float) -> Iterator[Family]:
    """The same, as metrics; what there is no login for is left out."""
    statuses = {name: each.session.status for name, each in clusters.items()}
    yield catalogue.LOGIN_PHASE.of(
        ((name, phase.value), status.phase is phase) for name, status in statuses.items() for phase in Phase
    )
    yield catalogue.LOGIN_FAILURES.of(((name,), status.failures) for name, status in statuses.items())
    present = {name: each.session.snapshot for name, each in clusters.items()}
    there = {name: found for name, found in present.items() if found is not None}
    yield catalogue.LOGIN_REMAINING.of(((name,), found.remaining(now)) for name, found in there.items())
    yield catalogue.LOGIN_OVERLAP.of(((name,), _POLICY.overlap_of(found.lease)) for name, found in there.items())
    yield catalogue.SERVING.of(
        ((name, address), address == each.wire.address)
        for name, each in clusters.items()
        for address in each.wire.addresses
    )
