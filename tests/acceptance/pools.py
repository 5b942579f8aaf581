"""Apps at work through rotations: one that logs in all the time, and pools that run transactions.

Each takes its credential as an app would: from the file, from the socket, or (PgBouncer) from a file of its own that is
read again when it changes. The rule that pools follow stands in docs/configuration.md under `overlap`: connections live
no longer than the overlap less the longest transaction.
"""

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg
import sqlalchemy
from sqlalchemy.pool import QueuePool

from tests.acceptance.harness import Agent, Client, Credential, credential, eventually, from_file, log_in

NOBODY = 65534
_LOOK = 0.2  # seconds between two looks at PgBouncer's file


@dataclass(kw_only=True)
class Tally:
    """What came of one app's work.

    Attributes:
        done: logins, or transactions.
        failures: what an app would have had to explain, with its Unix time.
        users: in the order of their first appearance.
    """

    name: str
    done: int = 0
    failures: list[str] = field(default_factory=list)
    users: dict[str, None] = field(default_factory=dict)

    def attempt(self, work: Callable[[], str]) -> None:
        """Do it once; `work` returns the user it worked as."""
        try:
            user = work()
        except (OSError, KeyError, AssertionError, psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
            self.failures.append(f"{time.time():.3f} {self.name}: {error!r}")
        else:
            self.done += 1
            self.users.setdefault(user)


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How the apps work, seconds.

    Attributes:
        every: between two logins.
        life: longest life of a pooled connection; whole seconds.
        transaction: length of each.
    """

    every: float = 0.1
    life: int
    transaction: float


class Pool(Protocol):
    """Connections of which one may be had for a transaction."""

    def connection(self) -> AbstractContextManager[Callable[[str], Any]]:
        """A function that runs a statement and returns its first value; leaving the block commits."""
        ...


def transact(pool: Pool, length: float) -> str:
    """One transaction of that length, in four steps; the user it ran as."""
    with pool.connection() as ask:
        user = str(ask("SELECT current_user"))
        for _ in range(3):
            ask(f"SELECT pg_sleep({length / 3:g})")
            assert ask("SELECT count(*) FROM reports") == 1
    return user


class SqlAlchemyPool:
    """QueuePool as SQLAlchemy's manual has it: `creator` takes the credential anew for every connection."""

    def __init__(self, take: Callable[[], Credential], place: Mapping[str, Any], pace: Pace, size: int) -> None:
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=lambda: log_in(place, take()),
            poolclass=QueuePool,
            pool_size=size,
            max_overflow=0,
            pool_recycle=pace.life,
        )

    @contextlib.contextmanager
    def connection(self) -> Iterator[Callable[[str], Any]]:
        """See Pool."""
        with self._engine.begin() as session:
            yield lambda statement: session.execute(sqlalchemy.text(statement)).scalar()

    def close(self) -> None:
        """Close what is open."""
        self._engine.dispose()


# -- PgBouncer -------------------------------------------------------------------------------------------------------


def find_pgbouncer() -> str | None:
    """Its program; Debian keeps it out of a user's PATH."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def bouncer_file(directory: Path, role: str) -> dict[str, Any]:
    """[[template]]: PgBouncer's [databases], with the login to the server in it.

    PgBouncer runs as a user of its own, who finds the file in a directory that he may enter.
    """
    home = directory / "pgbouncer"
    home.mkdir(mode=0o755)
    contents = (
        f'{{%- set db = secret("{role}").data -%}}\n'
        "[databases]\n"
        "app = host={{ db.host }} port={{ db.port }} dbname={{ db.dbname }}"
        " user='{{ db.username }}' password='{{ db.password }}'\n"
    )
    owner = {"user": str(NOBODY), "perms": "0400"} if os.geteuid() == 0 else {}
    destination = str(home / "databases.ini")
    return {"destination": destination, "contents": contents, "roles": [role], "allow_disk": True, **owner}


class BouncerPool:
    """PgBouncer in transaction mode that reads its file again whenever that has changed, as a systemd path unit does.

    A reload marks the open connections: each is closed after its transaction, and apps notice nothing.
    """

    def __init__(self, program: str, file: Path, pace: Pace, size: int) -> None:
        self._file = file
        home = file.parent
        own = home / "run"
        own.mkdir()
        settings = {
            "unix_socket_dir": own,
            "listen_port": 6432,
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": size,
            "server_lifetime": pace.life,
            "server_login_retry": 1,
            "query_wait_timeout": 5,  # what fails is to fail, not to wait two minutes for a server
            "server_tls_sslmode": "disable",
            "ignore_startup_parameters": "extra_float_digits",
        }
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        main = home / "pgbouncer.ini"
        main.write_text(f"%include {file}\n[pgbouncer]\nlisten_addr =\n{lines}")
        user: dict[str, Any] = {}
        if os.geteuid() == 0:
            os.chown(own, NOBODY, NOBODY)
            user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        self._said = home / "pgbouncer.log"
        with self._said.open("wb") as log:
            self._process = subprocess.Popen([program, str(main)], stdout=log, stderr=log, cwd="/", **user)
        self._own = own
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._follow, name="path unit")
        self._watcher.start()

    def wait_ready(self) -> None:
        """Return when it takes connections."""
        assert eventually((self._own / ".s.PGSQL.6432").exists), self.said

    @property
    def said(self) -> str:
        """Its log."""
        return self._said.read_text()

    @contextlib.contextmanager
    def connection(self) -> Iterator[Callable[[str], Any]]:
        """See Pool; an app's connection to PgBouncer outlives its transactions in life, and is short here."""
        with psycopg.connect(
            host=str(self._own), port=6432, dbname="app", user="anybody", prepare_threshold=None, connect_timeout=10
        ) as session:
            yield lambda statement: _first(session.execute(statement.encode()).fetchone())

    def _follow(self) -> None:
        seen = self._look()
        while not self._ended.wait(_LOOK):
            found = self._look()
            if found not in (None, seen):
                seen = found
                self._process.send_signal(signal.SIGHUP)

    def _look(self) -> tuple[int, int] | None:
        try:
            state = self._file.stat()
        except FileNotFoundError:  # the agent has stopped
            return None
        return state.st_ino, state.st_mtime_ns

    def close(self) -> None:
        """End it."""
        self._ended.set()
        self._watcher.join()
        self._process.terminate()
        self._process.wait(20.0)


def _first(row: tuple[Any, ...] | None) -> Any:
    assert row is not None
    return row[0]


# -- all of them -----------------------------------------------------------------------------------------------------


class Crowd:
    """Everybody who uses a database at the same time; a context manager, at work inside the block."""

    def __init__(self, agent: Agent, place: Mapping[str, Any], pace: Pace) -> None:
        self.agent = agent
        self.tallies: list[Tally] = []
        self._place = place
        self._pace = pace
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        self._stack = ExitStack()

    def logins(self, role: str, file: Path) -> None:
        """An app that logs in with what it finds, in turn in the file and at the socket."""
        client = self._stack.enter_context(Client(self.agent.socket))
        sources: Sequence[Callable[[], Credential]] = (
            lambda: from_file(file),
            lambda: credential(client.ask(f"/v1/{role}")),
        )
        turn = itertools.cycle(sources)

        def once() -> str:
            held = next(turn)()
            with log_in(self._place, held) as session:
                session.execute("SELECT * FROM reports")
            return held.username

        self._employ(f"logins {role}", once, self._pace.every)

    def sqlalchemy(self, role: str, workers: int = 3) -> None:
        """As many workers as its pool has connections."""
        pool = SqlAlchemyPool(lambda: self.agent.read(role), self._place, self._pace, workers)
        self._stack.callback(pool.close)
        self._workers("sqlalchemy", pool, workers)

    def pgbouncer(self, program: str, file: Path, workers: int = 3) -> BouncerPool:
        """As many workers as PgBouncer has connections to the server."""
        pool = BouncerPool(program, file, self._pace, workers)
        self._stack.callback(pool.close)
        pool.wait_ready()
        self._workers("pgbouncer", pool, workers)
        return pool

    def _workers(self, name: str, pool: Pool, count: int) -> None:
        for number in range(count):
            self._employ(f"{name} {number}", lambda: transact(pool, self._pace.transaction), 0.01)

    def _employ(self, name: str, work: Callable[[], str], pause: float) -> None:
        tally = Tally(name=name)
        self.tallies.append(tally)

        def run() -> None:
            while not self._done.wait(pause):
                tally.attempt(work)

        self._threads.append(threading.Thread(target=run, name=name))

    @property
    def failures(self) -> list[str]:
        """Of all."""
        return [failure for tally in self.tallies for failure in tally.failures]

    def __enter__(self) -> "Crowd":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        with self._stack:
            for thread in self._threads:
                thread.join()
