"""Promise 4 under load: apps that log in all the time never fail, however often their user is replaced."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Client, Credential, credential, eventually, from_file, log_in
from tests.acceptance.scenes import ROLE, document, leased, minted, place_of
from tests.fix_postgres import Database

ROTATIONS = 20
EVERY = 0.05
TTL = 5.0


@dataclass(kw_only=True)
class App:
    """Takes the credential, logs in at once, leaves; every 50 ms."""

    place: dict[str, object]
    take: Callable[[], Credential]
    done: threading.Event = field(default_factory=threading.Event)
    logins: int = 0
    failures: list[str] = field(default_factory=list)
    users: list[str] = field(default_factory=list)

    def run(self) -> None:
        while not self.done.wait(EVERY):
            try:
                held = self.take()
                with log_in(self.place, held) as session:
                    session.execute("SELECT * FROM reports")
            except (OSError, AssertionError, psycopg.Error) as error:
                self.failures.append(f"{time.time():.3f} {error!r}")
                continue
            self.logins += 1
            if not self.users or self.users[-1] != held.username:
                self.users.append(held.username)


@dataclass(kw_only=True)
class Registrar:
    """Looks five times a second which users exist, and when each was last served.

    Attributes:
        last: user to the newest credential read with its name, and the instant it was read.
        gone: user to the instant at which it was there no more.
    """

    agent: Agent
    database: Database
    done: threading.Event = field(default_factory=threading.Event)
    last: dict[str, tuple[Credential, float]] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    most: int = 0

    def run(self) -> None:
        while not self.done.wait(0.2):
            held = self.agent.read(ROLE)
            self.last[held.username] = held, time.time()
            there = leased(self.database)
            self.most = max(self.most, len(there))
            for user in self.last:
                if user not in there:
                    self.gone.setdefault(user, time.time())


def insert_across_a_rotation(agent: Agent, database: Database) -> str:
    """Begin a transaction, wait for the next user, go on for a while, commit; the user it was begun with."""
    held = agent.read(ROLE)
    with log_in(place_of(database), held) as session:
        session.execute("INSERT INTO reports (note) VALUES (%s)", [held.username])
        assert eventually(lambda: agent.read(ROLE).username != held.username, within=4 * TTL)
        time.sleep(1.0)
        session.execute("INSERT INTO reports (note) VALUES (%s)", [held.username])
    return held.username


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_twenty_rotations_fail_no_login_and_no_transaction(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Promises 4, 5 and 12, R004-067, R001-018: file and socket each through 20 rotations, 0 failed logins."""
    database.execute(f"GRANT INSERT ON reports TO {database.group}; GRANT USAGE ON reports_id_seq TO {database.group}")
    agent = run_agent(document(place, database, default_ttl="5s", max_ttl="7s")).wait_ready()
    where = place_of(database)
    registrar = Registrar(agent=agent, database=database)

    with Client(agent.socket) as client:
        apps = {
            "file": App(place=where, take=lambda: from_file(agent.file)),
            "socket": App(place=where, take=lambda: credential(client.ask(f"/v1/{ROLE}"))),
        }
        workers: list[App | Registrar] = [*apps.values(), registrar]
        threads = [threading.Thread(target=worker.run) for worker in workers]
        for thread in threads:
            thread.start()
        try:
            across = [insert_across_a_rotation(agent, database) for _ in range(4)]
            rotated = eventually(lambda: min(len(app.users) for app in apps.values()) > ROTATIONS, 150.0, every=0.2)
        finally:
            for worker in workers:
                worker.done.set()
            for thread in threads:
                thread.join()

    assert rotated
    for name, app in apps.items():
        assert app.failures == [], name
        assert len(set(app.users)) == len(app.users) > ROTATIONS, name
        assert app.logins > 10 * ROTATIONS, name
    committed = database.execute("SELECT note FROM reports WHERE note LIKE 'v!_%' ESCAPE '!' ORDER BY id")
    assert [note for (note,) in committed] == [user for user in across for _ in (1, 2)]
    assert len(set(across)) == 4
    # Whoever was replaced drains to its end and is gone soon after; the newest ones may still drain.
    for user, (held, seen) in registrar.last.items():
        if seen < time.time() - TTL - 10.0:
            assert user in registrar.gone, held
        if user in registrar.gone:
            assert held.expires_at - 0.5 <= registrar.gone[user] <= held.expires_at + 1.0 + 10.0
    assert len(registrar.gone) >= ROTATIONS - 5
    assert registrar.most <= 4
    assert minted(database) >= ROTATIONS + 1
    assert len(agent.logged("renewed")) >= ROTATIONS
    assert agent.stop() == 0
    assert leased(database) == set()
