"""Apps that use what an agent hands out all the time; scenes that are played side by side because they take long."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from agent.dev.cluster import Cluster
from tests.acceptance.harness import Agent, Client, Credential, credential, from_file, log_in
from tests.fix_postgres import (
    MAJORS,
    SETTINGS,
    Database,
    binaries_of,
    create_database,
    drop_database,
    place,
    superuser,
)

EVERY = 0.2


@dataclass(kw_only=True)
class Apps:
    """One app that logs in with what the file holds, one with what the socket answers.

    Attributes:
        failures: of taking a credential, and of logging in with it.
        held: every credential taken, with the Unix time after that.
    """

    agent: Agent
    place: Mapping[str, Any]
    role: str
    file: Path
    logins: int = 0
    failures: list[str] = field(default_factory=list)
    held: list[tuple[float, Credential]] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def use_file(self) -> None:
        """Until done."""
        self._use(lambda: from_file(self.file), "file")

    def use_socket(self) -> None:
        """Until done."""
        with Client(self.agent.socket) as client:
            self._use(lambda: credential(client.ask(f"/v1/{self.role}")), "socket")

    def _use(self, take: Callable[[], Credential], source: str) -> None:
        while not self.done.wait(EVERY):
            try:
                held = take()
                self.held.append((time.time(), held))
                with log_in(self.place, held) as session:
                    session.execute("SELECT * FROM reports")
            except (OSError, KeyError, psycopg.Error) as error:
                self.failures.append(f"{time.time():.3f} {source}: {error!r}")
            else:
                self.logins += 1

    @property
    def users(self) -> list[str]:
        """Every user they have had, in the order of their first appearance."""
        return list(dict.fromkeys(held.username for _, held in self.held))


@contextmanager
def using(agent: Agent, place: Mapping[str, Any], role: str, file: Path | None = None) -> Iterator[Apps]:
    """Apps at work inside the block; `file` is the agent's first one unless told."""
    apps = Apps(agent=agent, place=place, role=role, file=file or agent.file)
    threads = [threading.Thread(target=work) for work in (apps.use_file, apps.use_socket)]
    for thread in threads:
        thread.start()
    try:
        yield apps
    finally:
        apps.done.set()
        for thread in threads:
            thread.join()


def play(scenes: Mapping[str, Callable[[], None]]) -> dict[str, Future[None]]:
    """Play all at once; `result()` of each raises what its scene raised."""
    with ThreadPoolExecutor(max_workers=len(scenes)) as pool:
        return {name: pool.submit(scene) for name, scene in scenes.items()}


@contextmanager
def shared_database(clusters: dict[int, Cluster], directory: Path) -> Iterator[Database]:
    """A fresh database for a whole module, on the newest server that all tests share."""
    binaries = binaries_of(MAJORS[-1])
    if binaries.major not in clusters:
        clusters[binaries.major] = Cluster(binaries, place(), settings=SETTINGS)
        clusters[binaries.major].start()
    cluster = clusters[binaries.major]
    with superuser(cluster) as session:
        before = {str(name) for (name,) in session.execute("SELECT rolname FROM pg_roles")}
    one = create_database(cluster, directory)
    try:
        yield one
    finally:
        drop_database(one, before)
