"""Many pods and a cluster whose servers come and go: bounded calls, and credentials that go on working.

The short scene plays the cluster with three proxies in front of one server; the long one has three real servers.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.fleet import Cluster, Watch, most_within, proxies_for, watching
from tests.acceptance.harness import Agent, eventually
from tests.bao import RaftCluster
from tests.fix_postgres import Database
from tests.fix_vault import StartPlace
from tests.issuers import Issuer
from tests.vault_setup import VaultSetup

FAILED_CALLS = 10
"""Most failed calls in any minute per role (promise 7)."""

MOST_CALLS = 2 * FAILED_CALLS
"""The same with those that succeed, on leases of seconds."""

SEALED = {"errors": ["Vault is sealed"]}


def started(agents: list[Agent], within: float) -> None:
    """Return once every pod may begin."""
    for agent in agents:
        assert eventually(partial(_started, agent), within=within), agent.stderr[-2000:]


def _started(agent: Agent) -> bool:
    return agent.probe("startupz") == 200


def ended(agents: list[Agent], cluster: Cluster) -> None:
    """Every agent stops in order, and no user is left."""
    for agent in agents:
        agent.send(signal.SIGTERM)
    assert {agent.wait(60.0) for agent in agents} == {0}
    assert eventually(lambda: cluster.users() == 0)


@pytest.mark.timeout(120)
def test_four_pods_ride_out_a_cluster_whose_servers_come_and_go(
    own_vault_place: StartPlace, database: Database, issuer: Issuer, place: Path, tmp_path: Path, run_agent: RunAgent
) -> None:
    server = own_vault_place()
    with proxies_for([server.address] * 3) as proxies:
        cluster = Cluster(VaultSetup(server, tmp_path), proxies, database, pods=4)
        cluster.prepare(issuer, ttl=8, max_ttl=600, token_ttl="120s", token_max_ttl="600s")
        agents = [run_agent(cluster.document(place, pod, start_splay="1s")) for pod in range(4)]
        started(agents, 45.0)

        with watching(agents, database) as watch:
            proxies[0].fault("", status=503, body=SEALED)
            time.sleep(3.0)
            proxies[0].clear()
            for stopped in proxies[:2]:
                stopped.dead()
            time.sleep(5.0)
        assert watch.unhurt(), (watch.dead, watch.refused)
        assert watch.reads >= 8
        assert cluster.total()["issue"] <= 8, "one more each, if a renewal came late on so short a lease"

        with watching(agents, database) as watch:
            proxies[2].dead()
            assert eventually(lambda: len({pod for pod, *_ in watch.refused}) == 4, within=20.0), watch
        assert not watch.dead, "never a dead credential"
        assert all(left <= 2.5 for _, left, _ in watch.refused), "served until the margin before its end"

        for proxy in proxies:
            proxy.alive()
        assert eventually(lambda: all(agent.probe("readyz") == 200 for agent in agents), within=40.0)
        assert all(count <= MOST_CALLS for count in cluster.busiest().values()), cluster.busiest()
        ended(agents, cluster)


def waits(cluster: Cluster, agents: list[Agent]) -> list[float]:
    """Seconds from each agent's start, by its log, to its first login."""
    behind = time.time() - time.monotonic()
    asked = cluster.asked().values()
    begun = [datetime.fromisoformat(agent.logged("starting")[0]["timestamp"]).timestamp() for agent in agents]
    return [pod["login"][0] + behind - at for pod, at in zip(asked, begun, strict=True)]


# -- at full length ----------------------------------------------------------------------------------------------------

PODS = 50
SPLAY = 10.0
TTL = 60.0


@pytest.fixture
def fleet(raft_cluster: RaftCluster, database: Database, issuer: Issuer, tmp_path: Path) -> Iterator[Cluster]:
    """Three real servers and the roles of fifty pods."""
    with proxies_for(raft_cluster.addresses) as proxies:
        cluster = Cluster(VaultSetup(raft_cluster.place, tmp_path), proxies, database, pods=PODS)
        cluster.prepare(issuer, ttl=TTL, max_ttl=3600, token_ttl="300s", token_max_ttl="3600s")
        yield cluster


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_fifty_pods_ride_out_a_step_down_a_seal_and_a_stop(
    fleet: Cluster, raft_cluster: RaftCluster, database: Database, place: Path, run_agent: RunAgent
) -> None:
    began = time.monotonic()
    agents = [run_agent(fleet.document(place, pod, start_splay=f"{SPLAY:g}s")) for pod in range(PODS)]
    started(agents, 240.0)
    waited = waits(fleet, agents)
    say(f"\n{PODS} pods started after {time.monotonic() - began:.0f} s; {fleet.total()}")
    say(f"from its start to its first login each waited {min(waited):.1f} to {max(waited):.1f} s")
    assert max(waited) - min(waited) > SPLAY / 2
    assert fleet.total()["issue"] == PODS
    assert fleet.users() == PODS

    def play(name: str, happens: Callable[[], object], seconds: float = TTL) -> Watch:
        """What the apps met while it happened and for a while after, with what the servers were asked meanwhile."""
        since = time.monotonic()
        with watching(agents, database) as watch:
            happens()
            time.sleep(seconds)
        say(f"{name}: asked {fleet.total(since)}, busiest pod in a minute {fleet.busiest(since)}")
        say(f"    {watch.reads} reads that log in, {len(watch.refused)} refused, {len(watch.dead)} dead")
        return watch

    calm = play("calm", lambda: None)
    step_down = play("the leader steps down", raft_cluster.step_down)
    sealed = play("the leader is sealed", raft_cluster.seal)
    play("it is unsealed", partial(unseal, raft_cluster), 5.0)
    leader = raft_cluster.leader()
    assert leader is not None
    stopped = play("the leader is stopped", lambda: stop(fleet, raft_cluster, leader))
    for watch in (calm, step_down, sealed, stopped):
        assert watch.unhurt(), (watch.dead, watch.refused)
        assert watch.reads >= PODS
    assert fleet.total()["issue"] <= PODS * 1.1, "the servers' troubles are no reason for new users"

    second = next(number for number in range(3) if number != leader)
    lost = play("another is stopped: no quorum", lambda: stop(fleet, raft_cluster, second), 1.2 * TTL)
    assert not lost.dead
    assert all(left <= 5.0 for _, left, _ in lost.refused), "served until the margin before its end"
    assert len({pod for pod, *_ in lost.refused}) == PODS, "and no longer"

    back = time.monotonic()
    for number in (leader, second):
        raft_cluster.start_again(number)
        fleet.proxies[number].alive()
    serving = time.monotonic()
    assert eventually(lambda: all(agent.probe("readyz") == 200 for agent in agents), within=120.0)
    say(f"back: servers after {serving - back:.0f} s, then every pod after {time.monotonic() - serving:.0f} s")

    busiest = fleet.busiest()
    say(f"busiest pod in any minute of the run: {busiest}; all: {fleet.total()}")
    assert all(count <= FAILED_CALLS for count in busiest.values())
    ended(agents, fleet)


def unseal(servers: RaftCluster) -> None:
    """Have every server serve or stand by again."""
    for node in servers.nodes:
        node.rejoin()


def say(line: str) -> None:
    """For whoever runs it with -s: the numbers."""
    sys.stdout.write(line + "\n")


def stop(fleet: Cluster, servers: RaftCluster, number: int) -> None:
    """Kill a server; from then on its address refuses connections."""
    fleet.proxies[number].dead()
    servers.stop(number)


def test_the_most_within_a_minute_is_counted_over_every_minute() -> None:
    assert most_within([]) == 0
    assert most_within([0, 1, 59, 61, 62, 200]) == 3
