"""A real OpenBao (or Vault) as a process of the tests: found on this machine, never fetched.

LEASEHOLD_TEST_VAULT names the program; otherwise `bao` or `vault` on PATH is taken.
"""

import json
import os
import shutil
import subprocess
import time
from functools import cache
from pathlib import Path
from typing import Any

from tests.vault_place import Tls, VaultPlace, free_port

VARIABLE = "LEASEHOLD_TEST_VAULT"
PATIENCE = 30.0
REMEDY = f"install OpenBao, or set {VARIABLE} to its program"


@cache
def find() -> Path | None:
    """The program; None where there is none."""
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    found = shutil.which("bao") or shutil.which("vault")
    return Path(found) if found else None


@cache
def version() -> str:
    """What it calls itself, for people; the reason why there is none elsewhere."""
    program = find()
    if program is None:
        return f"none ({REMEDY})"
    try:
        said = subprocess.run([program, "version"], capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{program} does not run: {error}"
    return f"{said.strip()} at {program}"


class Bao(VaultPlace):
    """One server on integrated storage, which survives its restarts; unsealed by us.

    Args:
        node: its name among its peers.
    """

    kind = "bao"

    def __init__(self, program: Path, directory: Path, *, node: str = "n1", tls: Tls | None = None) -> None:
        super().__init__(directory, tls=tls)
        self._program = program
        self._node = node
        self._cluster_port = free_port()

    def command(self) -> list[str]:
        """`bao server` on a configuration written now."""
        listener: dict[str, Any] = {
            "address": f"127.0.0.1:{self.port}",
            "cluster_address": f"127.0.0.1:{self._cluster_port}",
            "tls_disable": self.tls is None,
        }
        if self.tls:
            listener |= {"tls_cert_file": str(self.tls.cert), "tls_key_file": str(self.tls.key)}
        data = self.directory / "raft"
        data.mkdir(exist_ok=True)
        raft = {
            "path": str(data),
            "node_id": self._node,
            "performance_multiplier": 1,
            "autopilot_reconcile_interval": "200ms",
            "autopilot_update_interval": "200ms",
        }
        configuration = {
            "storage": {"raft": raft},
            "listener": [{"tcp": listener}],
            "api_addr": self.address,
            "cluster_addr": f"https://127.0.0.1:{self._cluster_port}",
            "disable_mlock": True,  # Vault's; OpenBao has no such key any more and says so
        }
        file = self.directory / "server.json"
        file.write_text(json.dumps(configuration))
        return [str(self._program), "server", f"-config={file}"]

    def open(self) -> None:
        """Initialized the first time; unsealed."""
        if not self.unseal_key:
            made = self.ask("POST", "sys/init", {"secret_shares": 1, "secret_threshold": 1}).body
            self.unseal_key, self.root = made["keys"][0], made["root_token"]
        self.ask("POST", "sys/unseal", {"key": self.unseal_key})

    def join(self, first: "Bao") -> None:
        """Come up as a follower of `first`, which serves; returns when it stands by."""
        self.run()
        self.unseal_key, self.root = first.unseal_key, first.root
        self.ask("POST", "sys/storage/raft/join", {"leader_api_addr": first.address})
        self.rejoin()

    def rejoin(self) -> None:
        """Unseal it; returns when it serves or stands by. A new follower takes the key after the leader's data."""
        self.ask("POST", "sys/unseal", {"key": self.unseal_key})
        self.wait_for(self._unsealed, every=0.2)

    def _unsealed(self) -> bool:
        if self.health() not in (200, 429):
            self.ask("POST", "sys/unseal", {"key": self.unseal_key})
        return self.health() in (200, 429)


class RaftCluster:
    """Three servers of one cluster, numbered from 0."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._directory = directory
        self.nodes = [Bao(program, directory / f"n{number}", node=f"n{number}") for number in range(3)]

    @property
    def addresses(self) -> list[str]:
        """Of all, as a configuration names them."""
        return [node.address for node in self.nodes]

    def start(self) -> None:
        """Bring all up; returns when one leads and two stand by and may vote for another."""
        first, *others = self.nodes
        first.start()
        autopilot = {"server_stabilization_time": "100ms"}  # 10 s without a vote otherwise
        first.admin("POST", "sys/storage/raft/autopilot/configuration", autopilot)
        for node in others:
            node.join(first)
        first.wait_for(lambda: self._voters() == len(self.nodes), every=0.1)

    def _voters(self) -> int:
        known = self.place.admin("GET", "sys/storage/raft/configuration")["data"]["config"]["servers"]
        return sum(1 for server in known if server["voter"])

    def leader(self) -> int | None:
        """Which one serves; None while none does."""
        found = [number for number, node in enumerate(self.nodes) if node.health() == 200]
        return found[0] if len(found) == 1 else None

    @property
    def place(self) -> Bao:
        """The one that leads now, once there is one."""
        end = time.monotonic() + PATIENCE
        while (number := self.leader()) is None:
            assert time.monotonic() < end, [node.log[-1000:] for node in self.nodes]
            time.sleep(0.05)
        return self.nodes[number]

    def step_down(self) -> None:
        """Make the leader hand over; returns when another, or the same again, leads."""
        self.place.admin("POST", "sys/step-down")
        assert self.place

    def seal(self) -> Bao:
        """Seal the leader, since no other can be sealed over its API; `rejoin` of what is returned undoes it."""
        found = self.place
        found.seal()
        return found

    def stop(self, number: int) -> None:
        """Kill that one."""
        self.nodes[number].kill()

    def start_again(self, number: int) -> None:
        """Bring that one back; returns when it serves or stands by."""
        self.nodes[number].run()
        self.nodes[number].rejoin()

    def destroy(self) -> None:
        """End all of them."""
        for node in self.nodes:
            node.destroy()
        shutil.rmtree(self._directory, ignore_errors=True)
