"""What tests of a pod's life at a Vault ask of its scene: who logged in how often, with what, and whether it works."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg

from tests.acceptance.harness import Agent, Client, Credential, credential, log_in
from tests.acceptance.scenes import place_of
from tests.acceptance.vaulted import VaultScene
from tests.fix_postgres import Database
from tests.vault_setup import Way

ON_MEMORY = "/dev/shm"  # noqa: S108 - where the tests keep their files if they can


def logins(scene: VaultScene, way: Way) -> int:
    """How often an agent has tried to log in that way."""
    return scene.proxy.count(f"auth/{way.mount}/login")


def tokens(scene: VaultScene) -> list[str]:
    """Every token that calls were made with, in the order of their first appearance."""
    sent = (seen.headers.get("x-vault-token") for seen in scene.proxy.seen())
    return list(dict.fromkeys(token for token in sent if token))


def revoke_token(scene: VaultScene, token: str) -> None:
    """End a login, and all that hangs on it, as an administrator does."""
    scene.setup.place.admin("POST", "auth/token/revoke", {"token": token})


def revoke_lease(scene: VaultScene, lease_id: str) -> None:
    """End one lease, as an administrator does; its user is gone when this returns."""
    scene.setup.place.admin("POST", "sys/leases/revoke", {"lease_id": lease_id, "sync": True})


def can_log_in(database: Database, held: Credential) -> bool:
    """Whether the database takes it now."""
    try:
        with log_in(place_of(database), held) as session:
            session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def works(agent: Agent, database: Database, role: str) -> bool:
    """Whether what the socket serves now logs in; False as long as it serves nothing."""
    answer = agent.ask(f"/v1/{role}")
    return answer.status == 200 and can_log_in(database, credential(answer))


def upstream(agent: Agent, name: str = "vault") -> dict[str, Any]:
    """What the health report says of an upstream."""
    (found,) = [each for each in agent.health()["upstreams"] if each["name"] == name]
    return dict(found)


def replace(path: Path, content: str) -> None:
    """Put a file in the place of another, at once."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.touch(0o600)
    fresh.write_text(content)
    fresh.rename(path)


def remembering(document: Mapping[str, Any], place: Path, **agent: Any) -> dict[str, Any]:
    """The same configuration with a memory."""
    keys = {"state_dir": str(place / "state"), "holder": "web-0", **agent}
    if not str(place).startswith(ON_MEMORY):
        keys["state_allow_disk"] = True
    return {**document, "agent": {**document["agent"], **keys}}


@dataclass(kw_only=True)
class Reads:
    """What an app got that reads one role from the socket all the time.

    Attributes:
        found: instant (time.monotonic()), credential, and whether it logged in just after it was read.
        refused: answers other than 200, with their instants; 0 where nobody answered.
    """

    found: list[tuple[float, Credential, bool]] = field(default_factory=list)
    refused: list[tuple[float, int]] = field(default_factory=list)

    @property
    def users(self) -> list[str]:
        """Every user, in the order of their first appearance."""
        return list(dict.fromkeys(held.username for _, held, _ in self.found))

    @property
    def dead(self) -> list[float]:
        """When a credential was served that did not log in."""
        return [at for at, _, good in self.found if not good]


@contextmanager
def reading(agent: Callable[[], Agent], database: Database, role: str, every: float = 0.1) -> Iterator[Reads]:
    """An app at work inside the block; `agent` may become another."""
    reads, done = Reads(), Event()

    def read() -> None:
        while not done.wait(every):
            try:
                with Client(agent().socket) as client:
                    answer = client.ask(f"/v1/{role}")
            except OSError:
                reads.refused.append((time.monotonic(), 0))
                continue
            if answer.status == 200:
                held = credential(answer)
                reads.found.append((time.monotonic(), held, can_log_in(database, held)))
            else:
                reads.refused.append((time.monotonic(), answer.status))

    thread = Thread(target=read, name="reading")
    thread.start()
    try:
        yield reads
    finally:
        done.set()
        thread.join()


def mode_of(path: Path) -> int:
    """Permission bits."""
    return os.stat(path).st_mode & 0o777
