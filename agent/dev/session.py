"""`leasehold dev`: a throwaway PostgreSQL, one role, its file and its socket; Ctrl-C leaves nothing behind.

The agent inside is the ordinary one, with a configuration made here; only the server around it is for show.
"""

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent import log
from agent.app import App
from agent.atomicfile import on_memory
from agent.clock import Clock, SystemClock
from agent.config.check import mistakes
from agent.config.durations import format_duration
from agent.config.model import (
    Agent,
    Config,
    Connection,
    Duration,
    Listener,
    PostgreSQL,
    Role,
    Template,
    UnixListener,
)
from agent.dev import database, feed
from agent.dev.binaries import newest
from agent.dev.cluster import Cluster
from agent.errors import ConfigError, StartError
from agent.harden import harden
from agent.leases.schedule import MIN_TTL

ROLE = "database/creds/app-readonly"
TEMPLATE = """\
{% set creds = secret("database/creds/app-readonly") -%}
DB_USER={{ creds.data.username | dotenv }}
DB_PASS={{ creds.data.password | dotenv }}
DB_LEASE_ID={{ creds.lease_id | dotenv }}
DB_TTL={{ creds.lease_duration }}
"""
LOOK_EVERY = 0.5
SOCKET = "leasehold.sock"
LONGEST_ADDRESS = 100  # bytes; the rule for listener.unix.address


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the command line asked for.

    Attributes:
        directory: where socket and file go; None means a fresh one in memory.
        ttl, max_ttl: of the role, in seconds.
        json: print one line of JSON once ready and nothing else.
    """

    directory: Path | None
    ttl: float
    max_ttl: float
    json: bool


def run_dev(
    wishes: Wishes,
    *,
    handle_signals: Callable[..., None],
    run_loop: Callable[[Coroutine[Any, Any, int]], int],
) -> int:
    """Run the demonstration until a signal; the process's exit code."""
    _check(wishes)
    harden()
    terminal = sys.stdout.isatty() and not wishes.json
    tell: Callable[[str], None] = (lambda line: None) if wishes.json else (lambda line: print(line, flush=True))
    with _directory(wishes.directory) as directory:
        binaries = newest()
        _configure_log(directory, quiet=terminal)
        tell(f"Starting {binaries} in a throwaway directory ...")
        if not on_memory(directory):
            tell(
                f"Note: {directory} is not in memory, so the credential will be on disk; `leasehold run` refuses that."
            )
        with Cluster(binaries, leavings=[] if wishes.directory else [directory]) as cluster:
            prepared = database.prepare(cluster, cluster.password_file.parent)
            config = configuration(prepared, directory, wishes)

            async def serve() -> int:
                stop, hurry = asyncio.Event(), asyncio.Event()
                handle_signals(stop, hurry, terminal=True)
                return await _Session(wishes, prepared, config, directory, terminal).run(stop, hurry)

            return run_loop(serve())


def _check(wishes: Wishes) -> None:
    """Refuse in the command's own words what the configuration would refuse in others."""
    wrong = []
    if wishes.ttl < MIN_TTL:
        wrong.append(f"--ttl {format_duration(wishes.ttl)}: at least {format_duration(MIN_TTL)}")
    if wishes.max_ttl < wishes.ttl:
        wrong.append(f"--max-ttl {format_duration(wishes.max_ttl)}: at least --ttl, {format_duration(wishes.ttl)}")
    if wishes.directory is not None and len(os.fsencode(wishes.directory.resolve() / SOCKET)) > LONGEST_ADDRESS:
        wrong.append(f"--dir {wishes.directory}: too long for a socket; {LONGEST_ADDRESS} bytes with {SOCKET} at most")
    if wrong:
        raise ConfigError(wrong)


def configuration(prepared: database.DevDatabase, directory: Path, wishes: Wishes) -> Config:
    """The configuration that a person would write for this server.

    Raises:
        ConfigError: the wishes make no sense, e.g. a lease too short to be renewed.
    """
    secrets = directory / "secrets"
    server = prepared.cluster
    place = Connection(host=server.host, port=server.port, dbname=database.DATABASE, sslmode="disable")
    config = Config(
        agent=Agent(stop_timeout=Duration(15.0)),
        listener=Listener(unix=UnixListener(address=str(directory / SOCKET))),
        postgresql={
            "postgresql": PostgreSQL(
                host=server.host,
                port=server.port,
                dbname=database.DATABASE,
                user=database.ADMIN,
                password_file=str(prepared.admin_password_file),
                sslmode="disable",
                cleanup_interval=Duration(2.0),
            )
        },
        role={
            ROLE: Role(
                upstream="postgresql",
                description="reads the reports table",
                group=database.GROUP,
                default_ttl=Duration(wishes.ttl),
                max_ttl=Duration(wishes.max_ttl),
                rotate_min_interval=Duration(1.0),
                connection=place,
            )
        },
        template=(
            Template(
                destination=str(secrets / "db-creds"),
                contents=TEMPLATE,
                roles=(ROLE,),
                allow_disk=not on_memory(directory),
            ),
        ),
    )
    wrong = mistakes(config)
    if wrong:
        raise ConfigError(wrong)
    return config


class _Session:
    def __init__(
        self, wishes: Wishes, prepared: database.DevDatabase, config: Config, directory: Path, terminal: bool
    ) -> None:
        self._wishes = wishes
        self._prepared = prepared
        self._config = config
        self._directory = directory
        self._terminal = terminal
        self._clock: Clock = SystemClock()
        self._app = App(config, clock=self._clock)
        self._drawn = 0

    async def run(self, stop: asyncio.Event, hurry: asyncio.Event) -> int:
        started = asyncio.Event()
        watching = asyncio.create_task(self._watch(started), name="dev feed")
        try:
            ended = await self._app.run(stop, hurry=hurry, on_started=started.set)
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching
        if self._wishes.json:
            return 1 if ended.crashed else 6 if ended.left else 0
        self._erase()
        for line in ended.left:
            print(f"left behind: {line}")
        users = await self._users()
        print(f"Stopped: file and socket removed, {len(users or {})} leased users left in pg_roles.")
        return 1 if ended.crashed else 6 if ended.left or users else 0

    async def _watch(self, started: asyncio.Event) -> None:
        await started.wait()
        self._announce()
        before: feed.Look | None = None
        while not self._wishes.json:
            look = await self._look()
            self._show(feed.happened(before, look), look)
            before = look
            await self._clock.sleep(LOOK_EVERY)

    async def _look(self) -> feed.Look:
        users = await self._users()
        now = self._clock.now()
        return feed.Look(
            now=now,
            wall=self._clock.wall(),
            snapshot=self._app.cache.read(ROLE, now),
            status=self._app.cache.status(ROLE),
            users=users,
        )

    async def _users(self) -> dict[str, str] | None:
        marker = self._config.postgresql["postgresql"].marker_group
        with contextlib.suppress(TimeoutError):
            async with self._clock.timeout(2.0):
                return await database.lease_users(self._prepared.cluster, marker)
        return None

    def _announce(self) -> None:
        unix = self._config.listener.unix
        assert unix is not None  # noqa: S101 - made above
        path = self._config.template[0].destination
        if self._wishes.json:
            print(
                json.dumps({"socket": unix.address, "file": path, "role": ROLE, "conninfo": self._prepared.place}),
                flush=True,
            )
            return
        print(
            f"\nReady: a lease of {format_duration(self._wishes.ttl)}, renewed until "
            f"{format_duration(self._wishes.max_ttl)}, then replaced. Copy into another terminal:\n\n"
            f"  curl -s --unix-socket {unix.address} http://leasehold/v1/{ROLE}\n"
            f"  cat {path}\n"
            f"  {self._psql(path)}\n"
            f"  {Path(sys.argv[0]).absolute()} rotate app-readonly --socket {unix.address}\n\n"
            "Ctrl-C revokes everything and leaves nothing behind.\n",
            flush=True,
        )

    def _psql(self, path: str) -> str:
        """A shell line that logs in with the file's credential."""
        program = shutil.which("psql") or str(newest().bin_dir / "psql")
        place = f'"{self._prepared.place} user=$DB_USER"'
        return f"sh -c '. {path}; PGPASSWORD=$DB_PASS exec {program} {place} -c \"TABLE reports\"'"

    def _show(self, lines: list[str], look: feed.Look) -> None:
        if not self._terminal:
            for line in lines:
                print(line, flush=True)
            return
        self._erase()
        block = ["", *feed.table(ROLE, look)]
        print("\n".join([*lines, *block]), flush=True)
        self._drawn = len(block)

    def _erase(self) -> None:
        """Take the table off the terminal, so that the next one stands in its place."""
        if self._drawn:
            print(f"\033[{self._drawn}A\033[J", end="", flush=True)
            self._drawn = 0


def _configure_log(directory: Path, *, quiet: bool) -> None:
    """Warnings go to standard error, but on a terminal, where they would tear the table apart, to a file."""
    if quiet:
        stream = (directory / "agent.log").open("a", encoding="utf-8")  # open until the process ends
        log.configure(level="info", json=False, stream=stream)
    else:
        log.configure(level="warning", stream=sys.stderr)


@contextlib.contextmanager
def _directory(asked: Path | None) -> Iterator[Path]:
    """A directory of our own; a fresh one is removed at the end, a given one keeps what was in it."""
    if asked is None:
        memory = Path("/dev/shm")  # noqa: S108 - checked, and mkdtemp makes a fresh 0700 directory
        base = memory if memory.is_dir() and on_memory(memory) else None
        made = Path(tempfile.mkdtemp(prefix="leasehold-", dir=base))
        try:
            yield made
        finally:
            shutil.rmtree(made, ignore_errors=True)
        return
    try:
        new = not asked.exists()
        asked.mkdir(mode=0o750, parents=True, exist_ok=True)
    except FileExistsError as error:
        raise StartError(f"--dir {asked} is no directory: name one, or one that can be made") from error
    except OSError as error:
        raise StartError(f"--dir {asked}: {error.strerror}: name a directory that can be made or written") from error
    if not os.access(asked, os.W_OK | os.X_OK):
        raise StartError(f"--dir {asked}: this uid may not write there: name a directory that can be made or written")
    directory = asked.resolve()
    try:
        yield directory
    finally:
        (directory / "agent.log").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (directory / "secrets").rmdir()
        with contextlib.suppress(OSError):
            if new:
                directory.rmdir()
