"""How logins are told in health and metrics; nothing of a token is."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.api.health import Probes
from agent.clusters import Surroundings, build
from agent.config.model import AutoAuth, Config, Method, MethodConfig, Role, Vault
from agent.leases.cache import LeaseCache, Phase, RoleStatus
from agent.leases.lease import Secret
from agent.leases.record import RoleRecord
from agent.measures import Measures
from agent.parts import Parts
from tests.fakes import FakeClock
from tests.unit.leases.builders import lease

ROLE, KEY = "database/creds/app", "session:vault"
SERVER = Vault(address="https://a:8200", fallback_addresses=("https://b:8200",))
METHOD = Method(type="jwt", mount_path="auth/jwt-eu", config=MethodConfig(role="app", path="/token"))
PROBES = Probes(
    started=lambda: True, ready=lambda: True, live=lambda: True, degraded=lambda: True, files=list, upstreams=list
)


class Scene:
    """One cluster that nobody has asked anything, and what is told of it."""

    def __init__(self, clock: FakeClock, method: Method = METHOD, left: RoleRecord | None = None) -> None:
        roles = {ROLE: Role(upstream="vault", path=ROLE)}
        around = Surroundings(
            clock=clock,
            min_ttl=5.0,
            splay=0.0,
            recorder=None,
            tell=lambda call: None,
            on_failed=lambda role, error: None,
            on_expired=lambda role, gone: self.expired.append(role),
        )
        self.clock = clock
        self.expired: list[str] = []
        self.cluster = build("vault", SERVER, method, roles, left=left, around=around)
        parts = Parts(clusters={"vault": self.cluster}, circuits={"vault": self.cluster.circuit})
        config = Config(auto_auth=AutoAuth(method=method), vault={"vault": SERVER, "vault.unused": SERVER}, role=roles)
        self.measures = Measures(config, cache=LeaseCache(roles), parts=parts, clock=clock)

    def log_in(self, ttl: float) -> None:
        """Put a login up."""
        now, given = self.clock.now(), lease(ttl=ttl, at=self.clock.now())
        token = {"token": Secret("token-canary")}
        given = replace(given, first=replace(given.first, id="accessor-canary", data=token))
        self.cluster.session.cache.publish(KEY, given, until=now + ttl, verified=False, now=now, wall=self.clock.wall())

    def report(self, **status: Any) -> None:
        self.cluster.session.cache.report(KEY, RoleStatus(**status))

    @property
    def told(self) -> dict[str, Any]:
        (upstream,) = self.measures.upstreams()
        return upstream

    def rows(self, name: str) -> Mapping[tuple[str, ...], object]:
        families = {family.metric.name: dict(family.rows) for family in self.measures.families(PROBES)}
        return families[f"leasehold_{name}"]


@pytest.fixture
def scene(clock: FakeClock) -> Scene:
    return Scene(clock)


def test_a_login_is_told_with_its_end_and_without_its_token(scene: Scene, clock: FakeClock) -> None:
    scene.log_in(60)
    scene.report(phase=Phase.FRESH, next_step="renew", next_at=clock.now() + 40)

    assert scene.told == {
        "name": "vault",
        "circuit": "closed",
        "healthy": True,
        "address": "https://a:8200",
        "login": {
            "method": "jwt",
            "mount": "auth/jwt-eu",
            "phase": "fresh",
            "expires_in": 60,
            "failures": 0,
            "retry_in": None,
            "next_step": "renew",
            "next_in": 40.0,
            "draining": 0,
            "error": None,
        },
    }
    assert "canary" not in json.dumps(scene.told)
    assert scene.rows("login_remaining_seconds") == {("vault",): 60.0}
    assert scene.rows("login_overlap_seconds") == {("vault",): 15.0}
    assert not scene.measures.degraded


@pytest.mark.parametrize(
    ("phase", "degraded"),
    [(Phase.STARTING, False), (Phase.FRESH, False), (Phase.STALE, True), (Phase.FAILING, True), (Phase.STOPPED, False)],
)
def test_a_login_that_fails_degrades_the_agent(scene: Scene, phase: Phase, degraded: bool) -> None:
    scene.report(phase=phase, failures=3 if degraded else 0, error="refused" if degraded else "")

    assert scene.measures.degraded is degraded
    assert scene.rows("login_failures") == {("vault",): 3 if degraded else 0}
    assert {labels for labels, value in scene.rows("login_phase").items() if value} == {("vault", phase.value)}


def test_what_there_is_no_login_for_is_left_out(scene: Scene) -> None:
    assert scene.told["login"]["expires_in"] is None
    assert scene.rows("login_remaining_seconds") == {}


def test_each_address_is_told_and_which_one_answers(scene: Scene) -> None:
    assert scene.rows("upstream_serving") == {("vault", "https://a:8200"): True, ("vault", "https://b:8200"): False}


def test_calls_of_logins_count_from_zero_where_there_is_one(scene: Scene) -> None:
    """So that the first failure is seen as an increase; a Vault that nothing uses has no login."""
    assert scene.rows("issues_total")[KEY, "vault", "failed"] == 0
    assert scene.rows("renewals_total")[KEY, "vault", "failed"] == 0
    assert not any("vault.unused" in labels for labels in scene.rows("issues_total"))


def test_who_keeps_the_login_is_watched_as_who_keeps_a_role(scene: Scene) -> None:
    assert scene.rows("renewer_overdue_seconds") == {(KEY,): 0.0}
    assert scene.rows("leases")[KEY, "published"] == 0


def test_a_token_from_a_file_has_no_mount(clock: FakeClock) -> None:
    method = Method(type="token_file", config=MethodConfig(token_file_path="/token"))

    assert Scene(clock, method).told["login"]["mount"] is None


async def test_a_login_that_came_to_its_end_is_told_like_a_lease(clock: FakeClock) -> None:
    """The audit log hears of it; here it ended while no agent was there."""
    scene = Scene(clock, left=RoleRecord(current=lease(ttl=60, at=clock.now() - 61)))

    await scene.cluster.session.renewer.close(1.0)

    assert scene.expired == [KEY]
