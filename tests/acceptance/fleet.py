"""Many pods of one cluster: a configuration for each, what their agents ask of the servers, and whether each app works.

Every pod has roles of its own, at the login and at the database, so that a request tells whose it is.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.acceptance.harness import Agent, Credential, credential
from tests.acceptance.living import can_log_in
from tests.acceptance.scenes import ROLE, file_of
from tests.faultproxy import FaultProxy, Seen
from tests.fix_postgres import Database
from tests.issuers import Issuer
from tests.vault_agent import agent_document
from tests.vault_setup import DatabaseMount, VaultSetup, Way

WINDOW = 60.0
KINDS = ("login", "issue", "renew", "token")
"""What is counted: logins, leases issued, leases renewed, and what a token asks for itself."""


class Cluster:
    """The servers of one cluster, a proxy in front of each.

    Attributes:
        proxies: in the servers' order; they count requests and play faults.
    """

    def __init__(self, setup: VaultSetup, proxies: Sequence[FaultProxy], database: Database, pods: int) -> None:
        self.proxies = proxies
        self.database = database
        self.pods = pods
        self._setup = setup
        self._made: DatabaseMount
        self._way: Way

    def prepare(self, issuer: Issuer, *, ttl: float, max_ttl: float, **tokens: str) -> None:
        """Write the roles; the first of them is the mount's own."""
        setup = self._setup
        self._made = setup.database(self.database, ttl=ttl, max_ttl=max_ttl)
        for pod in range(self.pods):
            setup.database_role(self._made, _name(pod), ttl=ttl, max_ttl=max_ttl)
        policy = setup.policy(f"{self._made.mount}/creds/+")
        self._way = setup.jwt(issuer, policy, **tokens)
        for pod in range(self.pods):
            path = self._way.role_path.rpartition("/")[0]
            setup.place.admin("POST", f"{path}/{_name(pod)}", {**self._way.role, "token_type": "service"})

    def document(self, place: Path, pod: int, **agent: Any) -> dict[str, Any]:
        """The configuration of one pod: every server's address, in an order of its own."""
        directory = place / _name(pod)
        directory.mkdir()
        turn = pod % len(self.proxies)
        first, *others = [proxy.address for proxy in (*self.proxies[turn:], *self.proxies[:turn])]
        way = self._way.method
        way["config"] = {**way["config"], "role": _name(pod)}
        connection = {"host": self.database.host, "port": self.database.port, "dbname": self.database.dbname}
        document = agent_document(
            directory,
            {"address": first, "fallback_addresses": others},
            self._way,
            {ROLE: {"path": self._made.creds(_name(pod)), "connection": {**connection, "sslmode": "disable"}}},
            templates=[file_of(directory)],
            agent=agent,
        )
        return {**document, "auto_auth": {"method": way}}

    def users(self) -> int:
        """How many minted users there are in the database now."""
        ((count,),) = self.database.execute(
            "SELECT count(*) FROM pg_roles r WHERE rolname LIKE 'v-%%'"
            " AND pg_has_role(r.oid, (SELECT oid FROM pg_roles WHERE rolname = %s), 'MEMBER')",
            self.database.group,
        )
        return int(count)

    def asked(self, since: float = 0.0) -> dict[str, dict[str, list[float]]]:
        """Instants (time.monotonic()) of each pod's requests at all servers, by kind."""
        seen = sorted((one for proxy in self.proxies for one in proxy.seen()), key=lambda one: one.at)
        owners = _owners(seen)
        found: dict[str, dict[str, list[float]]] = {
            _name(pod): {kind: [] for kind in KINDS} for pod in range(self.pods)
        }
        for one in seen:
            kind, pod = _kind_of(one), _pod_of(one) or owners.get(one.headers.get("x-vault-token", ""), "")
            if kind and pod and one.at >= since:
                found[pod][kind].append(one.at)
        return found

    def busiest(self, since: float = 0.0) -> dict[str, int]:
        """By kind, the most requests that any pod made within any minute."""
        asked = self.asked(since)
        return {kind: max(most_within(pod[kind]) for pod in asked.values()) for kind in KINDS}

    def total(self, since: float = 0.0) -> dict[str, int]:
        """By kind, the requests of all pods."""
        return {kind: sum(len(pod[kind]) for pod in self.asked(since).values()) for kind in KINDS}


def most_within(instants: Sequence[float], window: float = WINDOW) -> int:
    """The most of these, in order, that lie within one window."""
    most = first = 0
    for last, at in enumerate(instants):
        while at - instants[first] > window:
            first += 1
        most = max(most, last - first + 1)
    return most


def _name(pod: int) -> str:
    return f"pod-{pod:02}"


def _kind_of(seen: Seen) -> str:
    if seen.path.startswith("auth/token/"):
        return "token"
    if seen.path.startswith("auth/"):
        return "login"
    if "/creds/" in seen.path:
        return "issue"
    return "renew" if seen.path.startswith("sys/leases/renew") else ""


def _pod_of(seen: Seen) -> str:
    """Whose request it is, as far as it says so itself."""
    kind = _kind_of(seen)
    if kind == "login":
        return str(seen.body["role"])
    if kind == "issue":
        return seen.path.rpartition("/")[2]
    return str(seen.body["lease_id"]).split("/")[2] if kind == "renew" else ""


def _owners(seen: Sequence[Seen]) -> dict[str, str]:
    """Pods by token, from requests that say whose they are."""
    said = ((one.headers.get("x-vault-token", ""), _pod_of(one)) for one in seen)
    return {token: pod for token, pod in said if token and pod}


@contextmanager
def proxies_for(addresses: Sequence[str]) -> Iterator[list[FaultProxy]]:
    """A proxy in front of each."""
    with ExitStack() as stack:
        yield [stack.enter_context(FaultProxy(address)) for address in addresses]


@dataclass(kw_only=True)
class Watch:
    """One app per pod, which reads its socket and logs in, in turn.

    Attributes:
        reads: that were answered with a credential that works.
        dead: pod, and seconds left by its own word, of credentials that the database refused.
        refused: pod, seconds that its last credential had left by the word of the answer that gave it, and status.
    """

    agents: Sequence[Agent]
    database: Database
    reads: int = 0
    dead: list[tuple[int, float]] = field(default_factory=list)
    refused: list[tuple[int, float, int]] = field(default_factory=list)
    held: dict[int, Credential] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def look(self) -> None:
        """Until done."""
        while not self.done.is_set():
            for pod, agent in enumerate(self.agents):
                self._look(pod, agent)
            self.done.wait(0.2)

    def _look(self, pod: int, agent: Agent) -> None:
        before = self.held.get(pod)
        left = before.expires_at - time.time() if before is not None else 0.0
        try:
            answer = agent.ask(f"/v1/{ROLE}")
        except OSError:
            self.refused.append((pod, left, 0))
            return
        if answer.status != 200:
            self.refused.append((pod, left, answer.status))
            return
        held = self.held[pod] = credential(answer)
        if can_log_in(self.database, held):
            self.reads += 1
        else:
            self.dead.append((pod, held.expires_at - time.time()))

    def unhurt(self) -> bool:
        """Whether nobody was refused or given something dead."""
        return not self.dead and not self.refused


@contextmanager
def watching(agents: Sequence[Agent], database: Database) -> Iterator[Watch]:
    """Apps at work inside the block."""
    watch = Watch(agents=agents, database=database)
    thread = threading.Thread(target=watch.look, name="apps of a fleet")
    thread.start()
    try:
        yield watch
    finally:
        watch.done.set()
        thread.join()
