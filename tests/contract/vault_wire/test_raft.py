"""Three real servers of one cluster, as tests of outages use them."""

import pytest

from tests.bao import RaftCluster
from tests.contract.vault_wire.questions import eventually


@pytest.mark.timeout(120)
def test_a_cluster_hands_over_and_survives_the_loss_of_one(raft_cluster: RaftCluster):
    first = raft_cluster.leader()
    assert first is not None
    token = raft_cluster.place.admin("POST", "auth/token/create", {"policies": ["default"], "ttl": "1h"})["auth"]
    others = [number for number in range(3) if number != first]
    standby = raft_cluster.nodes[others[0]]

    assert [raft_cluster.nodes[number].health() for number in others] == [429, 429]
    # A standby answers for the leader, or says where it is; either way the token is known.
    assert standby.ask("GET", "auth/token/lookup-self", token=token["client_token"]).status in (200, 307)

    raft_cluster.step_down()
    sealed = raft_cluster.seal()
    assert raft_cluster.place is not sealed
    assert sealed.health() == 503
    sealed.rejoin()

    lost = raft_cluster.nodes.index(raft_cluster.place)
    raft_cluster.stop(lost)
    assert eventually(lambda: raft_cluster.leader() not in (None, lost), within=40)
    told = raft_cluster.place.ask("GET", "auth/token/lookup-self", token=token["client_token"])
    assert told.data["accessor"] == token["accessor"]
    raft_cluster.start_again(lost)
    assert raft_cluster.nodes[lost].health() in (200, 429)
