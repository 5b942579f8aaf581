"""The wire to real servers, and to the in-tree one: what both do to it must come out the same."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from agent.clock import SystemClock
from agent.config.upstreams import Vault
from agent.engines.vault.wire import HttpWire
from agent.errors import Sealed, Unavailable
from agent.leases.lease import Secret
from tests.bao import RaftCluster
from tests.fix_vault import StartPlace, tls_of
from tests.issuers import Authority
from tests.vault_place import VaultPlace


def wire_to(*addresses: str, **settings: Any) -> HttpWire:
    server = Vault(address=addresses[0], fallback_addresses=addresses[1:], **settings)
    return HttpWire("vault", server, SystemClock())


async def test_what_a_server_says_of_requests_is_returned(vault_place: VaultPlace):
    wire, root = wire_to(vault_place.address), Secret(vault_place.root)
    try:
        mounts = await wire.call("GET", "sys/mounts", token=root)
        stranger = await wire.call("GET", "sys/mounts", token=Secret("hvs.nobody"))
        nowhere = await wire.call("GET", "nosuch/creds/app", token=root)
        nobody = await wire.call("GET", "auth/token/lookup-self")
        health = await wire.call("GET", "sys/health")
    finally:
        await wire.close()

    assert (mounts.status, stranger.status, nowhere.status, nobody.status) == (200, 403, 404, 403)
    assert "sys/" in mounts.body["data"]
    assert all(got.errors for got in (stranger, nowhere, nobody))
    assert health.body["sealed"] is False
    assert health.server_time is not None
    assert abs(health.server_time - SystemClock().wall()) < 60


async def test_values_paths_lists_and_wrapping_survive(vault_place: VaultPlace):
    vault_place.admin("POST", "sys/mounts/wire-kv", {"type": "kv", "options": {"version": "2"}})
    wire, root = wire_to(vault_place.address), Secret(vault_place.root)
    try:
        path = "wire-kv/data/a b/r\u00f6le%2f"
        await wire.call("POST", path, token=root, body={"data": {"k": Secret('\u00e4 \U0001f511 \\ "')}})
        read = await wire.call("GET", path, token=root)
        keys = await wire.call("LIST", "wire-kv/metadata/a b", token=root)
        wrapped = await wire.call("GET", path, token=root, wrap_ttl=59.5)
        wrapping = Secret(wrapped.body["wrap_info"]["token"])
        opened = await wire.call("POST", "sys/wrapping/unwrap", token=wrapping)
        again = await wire.call("POST", "sys/wrapping/unwrap", token=wrapping)
    finally:
        await wire.close()
        vault_place.admin("DELETE", "sys/mounts/wire-kv")

    assert read.body["data"]["data"] == opened.body["data"]["data"] == {"k": '\u00e4 \U0001f511 \\ "'}
    assert keys.body["data"]["keys"] == ["r\u00f6le%2f"]
    assert wrapped.body["wrap_info"]["ttl"] == 60
    assert not again.ok


async def test_sealed_stopped_and_back(own_vault_place: StartPlace):
    place = own_vault_place()
    wire = wire_to(place.address)
    try:
        assert (await wire.call("GET", "sys/health")).ok
        await asyncio.to_thread(place.seal)
        with pytest.raises(Sealed):
            await wire.call("GET", "auth/token/lookup-self", token=Secret(place.root))
        await asyncio.to_thread(place.unseal)
        place.pause()
        with pytest.raises(Unavailable, match="no answer within") as hung:
            await wire.call("GET", "auth/token/lookup-self", token=Secret(place.root), deadline=0.5)
        place.resume()
        assert (await wire.call("GET", "auth/token/lookup-self", token=Secret(place.root))).ok
        await asyncio.to_thread(place.kill)
        with pytest.raises(Unavailable, match="refused") as refused:
            await wire.call("GET", "sys/health")
    finally:
        await wire.close()

    assert (hung.value.outcome_unknown, refused.value.outcome_unknown) == (True, False)


async def test_client_certificates_and_a_rotated_server_certificate(
    own_vault_place: StartPlace, authority: Authority, tmp_path: Path
):
    place = own_vault_place(tls=tls_of(authority))
    root = Secret(place.root)
    cert, key = authority.client("app")
    place.admin("POST", "sys/auth/cert", {"type": "cert"})
    role = {"certificate": authority.file.read_text(), "allowed_common_names": ["app"], "token_ttl": 60}
    place.admin("POST", "auth/cert/certs/app", role)
    other = Authority(tmp_path / "other", "another CA")
    strangers, wire = (
        wire_to(place.address, ca_cert=str(other.file)),
        wire_to(place.address, ca_cert=str(authority.file)),
    )
    try:
        with pytest.raises(Unavailable, match="set ca_cert"):
            await strangers.call("GET", "sys/mounts", token=root)
        assert (await wire.call("GET", "sys/mounts", token=root)).ok
        bare = await wire.call("POST", "auth/cert/login", body={})
        own = await wire.call("POST", "auth/cert/login", body={}, certificate=(str(cert), str(key)))
        authority.server()
        place.reload()
        assert (await wire.call("GET", "sys/mounts", token=root)).ok
    finally:
        await strangers.close()
        await wire.close()

    assert (bare.ok, own.ok) == (False, True)
    assert own.body["auth"]["client_token"]


async def test_a_cluster_goes_on_answering_through_step_down_seal_and_stop(raft_cluster: RaftCluster):
    """Standbys of OpenBao forward, or redirect to the leader's address; whichever they do, calls succeed."""
    wire, root = wire_to(*raft_cluster.addresses), Secret(raft_cluster.place.root)

    async def answered(within: float = 30.0) -> int:
        """Failed calls before one succeeds."""
        for failed in range(round(within / 0.2)):
            try:
                if (await wire.call("GET", "sys/mounts", token=root, deadline=2.0)).ok:
                    return failed
            except Unavailable:
                await asyncio.sleep(0.2)
        raise AssertionError(f"no answer within {within:g} s")

    try:
        assert await answered() == 0
        await asyncio.to_thread(raft_cluster.step_down)
        await answered()
        await asyncio.to_thread(raft_cluster.seal)
        await answered()
        assert await answered() == 0  # and stays with the one that answers
    finally:
        await wire.close()
