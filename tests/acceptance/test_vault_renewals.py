"""Renewals that the server refuses, breaks or never answers: few calls, few new users, and no app notices.

Every case has an upstream of its own in one agent, each behind a proxy of its own, so that all are played at once.

Where the bounds come from (agent/leases/schedule.py). A lease is renewed at 57 to 67 % of its life, or before a quarter
of it and the margin are all that is left. A renewal that is forbidden, or whose lease is gone, is answered by an issue
at once; any other is tried again after 0.5 s or more until that edge, four times in any minute at most (RENEW_BUDGET),
and then a replacement is issued. So one lease draws at most four renewals, a user of its own lives for more than half
of the TTL, and in a window of half the TTL, or of one TTL, there are at most two such edges: two new users, and four
renewals by the budget, with two more allowed for a window that another minute's budget reaches into: six.
"""

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

from tests.acceptance.harness import Agent, Client, credential, eventually, log_in
from tests.acceptance.scenes import place_of
from tests.acceptance.vaulted import VaultScene, vault_scene
from tests.faultproxy import FaultProxy
from tests.issuers import Issuer
from tests.vault_agent import vault_of
from tests.vault_setup import LEASE_PATHS, TOKEN_PATHS

__all__ = ["vault_scene"]

LEASES, LOGIN = "sys/leases/renew", "auth/token/renew-self"
MOST_RENEWALS, MOST_USERS = 6, 2

FAULTS: Mapping[str, Mapping[str, Any]] = {
    "policy": {},  # the capability itself is taken away
    "forbidden": {"status": 403, "body": {"errors": ["1 error occurred:\n\t* permission denied\n\n"]}},
    "denied": {"status": 403, "body": {"errors": ["permission denied"]}},
    "token": {"status": 403, "body": {"errors": ["permission denied", "invalid token"]}},
    "gone": {"status": 400, "body": {"errors": ["lease not found"]}},
    "refused": {"status": 400, "body": {"errors": ["no reason that anybody knows"]}},
    "broken": {"status": 500, "body": {"errors": ["internal error"]}},
    "hang": {"hang": True},
    "reset": {"reset": True},
    "login": {"status": 500, "body": {"errors": ["internal error"]}},  # of the login's own renewal
}


@dataclass(kw_only=True)
class Case:
    """One upstream whose renewals go wrong."""

    name: str
    proxy: FaultProxy
    path: str
    login: str

    @property
    def role(self) -> str:
        """As apps ask for it."""
        return f"database/creds/{self.name}"

    @property
    def renewals(self) -> str:
        """Which renewals go wrong."""
        return LOGIN if self.name == "login" else LEASES


@dataclass(kw_only=True)
class Scenery:
    """All cases in one agent."""

    scene: VaultScene
    cases: list[Case]
    agent: Agent
    policies: Mapping[str, str]

    def allow(self, *, renewals: bool) -> None:
        """Write the policy of the case "policy" with or without the capability."""
        case = next(one for one in self.cases if one.name == "policy")
        paths = {case.path: ("read",), **TOKEN_PATHS, **LEASE_PATHS}
        self.scene.setup.write_policy(
            self.policies["policy"], {path: rights for path, rights in paths.items() if renewals or path != LEASES}
        )

    def renewed(self, case: Case) -> int:
        """How many renewals the server has granted."""
        return len(self.agent.logged("renewed", role="session:vault.login" if case.name == "login" else case.role))


@contextmanager
def scenery(scene: VaultScene, issuer: Issuer, ttl: float) -> Iterator[Scenery]:
    """An agent with every case, ready."""
    made = scene.leases(ttl=ttl, max_ttl=100 * ttl)
    where = place_of(scene.database)
    document: dict[str, Any] = {
        "agent": {"stop_timeout": "10s"},
        "listener": {"unix": {"address": str(scene.place / "agent.sock")}},
        "vault": {},
        "role": {},
    }
    with ExitStack() as stack:
        cases, policies = [], {}
        for name in FAULTS:
            proxy = stack.enter_context(FaultProxy(scene.setup.place.address))
            path = scene.setup.database_role(made, name, ttl=ttl, max_ttl=100 * ttl)
            policies[name] = scene.setup.policy(path)
            # Only the login of its own case is ever due for renewal.
            token_ttl = ttl if name == "login" else 100 * ttl
            way = scene.setup.jwt(issuer, policies[name], token_ttl=f"{token_ttl:g}s", token_max_ttl=f"{200 * ttl:g}s")
            case = Case(name=name, proxy=proxy, path=path, login=f"auth/{way.mount}/login")
            cases.append(case)
            document["vault"][name] = vault_of(scene.setup.place, proxy.address, method=way.method)
            document["role"][case.role] = {"upstream": f"vault.{name}", "path": path, "connection": where}
        yield Scenery(scene=scene, cases=cases, agent=scene.agent(document).wait_ready(), policies=policies)


@dataclass(kw_only=True)
class Reader:
    """An app that takes every role in turn and logs in with it; a context manager, at work inside the block."""

    agent: Agent
    place: Mapping[str, Any]
    roles: list[str]
    logins: int = 0
    failures: list[str] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Reader":
        self._thread = threading.Thread(target=self._run, name="reader")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self.agent.socket) as client:
            for role in itertools.cycle(self.roles):
                if self.done.wait(0.03):
                    return
                try:
                    with log_in(self.place, credential(client.ask(f"/v1/{role}"))) as session:
                        session.execute("SELECT * FROM reports")
                except (OSError, KeyError, psycopg.Error) as error:
                    self.failures.append(f"{time.time():.3f} {role}: {error!r}")
                else:
                    self.logins += 1


def without_renewals(scene: VaultScene, issuer: Issuer, *, ttl: float, before: float, lasts: float) -> None:
    """`before` seconds after the first leases renewals go wrong, for `lasts` seconds."""
    with scenery(scene, issuer, ttl) as all_of:
        agent, cases = all_of.agent, all_of.cases
        with Reader(agent=agent, place=place_of(scene.database), roles=[case.role for case in cases]) as reader:
            time.sleep(before)
            began = time.monotonic()
            all_of.allow(renewals=False)
            for case in cases:
                if case.name != "policy":
                    case.proxy.fault(case.renewals, **FAULTS[case.name])
            time.sleep(lasts)
            counted = {
                case.name: (case.proxy.count(case.renewals, since=began), case.proxy.count(case.path, since=began))
                for case in cases
            }
            logins = {case.name: case.proxy.count(case.login, since=began) for case in cases}
            granted = {case.name: all_of.renewed(case) for case in cases}
            all_of.allow(renewals=True)
            for case in cases:
                case.proxy.clear()
            # Without a restart, and within one life of a lease: renewals are tried again, and granted.
            again = eventually(
                lambda: all(all_of.renewed(case) > granted[case.name] for case in cases),
                within=1.5 * ttl + 20.0,
                every=0.1,
            )
            late = [case.name for case in cases if all_of.renewed(case) <= granted[case.name]]
            healthy = eventually(lambda: {agent.role(case.role)["phase"] for case in cases} == {"fresh"})
            roles = {case.name: agent.role(case.role) for case in cases}

        print(f"\n{scene.setup.place.kind}: {lasts:g} s without renewals of {ttl:g} s leases, {reader.logins} logins")  # noqa: T201
        for name, (renewals, users) in counted.items():
            print(f"  {name}: {renewals} renewals, {users} new users, {logins[name]} logins")  # noqa: T201
        for name, (renewals, users) in counted.items():
            assert 1 <= renewals <= MOST_RENEWALS, (name, renewals)
            assert users <= MOST_USERS, (name, users)
            assert logins[name] <= (MOST_USERS if name in ("login", "token") else 0), name
        assert again, late
        assert healthy, roles
        assert reader.failures == []
        assert reader.logins > 10 * lasts / 3
        assert agent.logged("expired") == []
        assert agent.stop() == 0
        assert scene.users() == set()


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_renewals_that_go_wrong_for_a_whole_ttl_cost_few_calls_and_few_users(
    vault_scene: VaultScene, issuer: Issuer
) -> None:
    """Promises 3, 6 and 7: leases of 6 s, six seconds without any renewal."""
    without_renewals(vault_scene, issuer, ttl=6.0, before=0.0, lasts=6.0)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("vault_kind", ["bao"])
def test_a_minute_without_renewals_costs_few_calls_and_few_users(vault_scene: VaultScene, issuer: Issuer) -> None:
    """As above at full length: leases of 120 s, a minute in which the first renewals are due."""
    without_renewals(vault_scene, issuer, ttl=120.0, before=45.0, lasts=60.0)
