"""`make soak MINUTES=30`: one agent on short leases, read and used all the time: does anything grow, or fail?

TTL 5 s and max TTL 15 s, three roles with files, `state_dir` on. 200 reads a second over connections that are kept, and
some over fresh ones; every 200 ms a login with what the file holds and one with what the socket answers. Prints a row a
minute and the verdict; the exit code is 1 where it is bad. Linux only (/proc).
"""

import shlex
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from agent.atomicfile import on_memory
from bench.estate import Agent, Connection, Sample, Scene, configuration, role_name, scene

ROLES = 3
READS = 200
KEPT = 4
"""Readers with a connection of their own, each at its share of the rate; one more makes a new connection per read."""

LOGIN_EVERY = 0.2
FEW = 20
"""Database users that three roles may have at once: current, draining and about to be swept."""

CREEP = 0.5
"""MiB per hour and more is growth, above what the samples' own scatter explains."""


@dataclass(kw_only=True)
class Tally:
    """What the apps have seen, shared by their threads."""

    reads: int = 0
    logins: int = 0
    failed: list[str] = field(default_factory=list)
    users: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A row of the table.

    Attributes:
        at: seconds since the start.
        users: of ours that the server has.
    """

    at: float
    sample: Sample
    users: int
    reads: int
    logins: int
    failed: int


def _every(done: threading.Event, interval: float, work: Callable[[], object], tally: Tally, what: str) -> None:
    """Do it at that rate; what fails is noted, and the next one comes as ever."""
    due = time.monotonic()
    while not done.is_set():
        try:
            work()
        except (OSError, RuntimeError, psycopg.Error) as error:
            tally.failed.append(f"{time.time():.3f} {what}: {error!r}")
        due = max(due + interval, time.monotonic() - 1.0)
        done.wait(max(0.0, due - time.monotonic()))


class Apps:
    """Readers and users of one agent, each a thread."""

    def __init__(self, at: Scene, agent: Agent) -> None:
        self.tally = Tally()
        self._scene = at
        self._agent = agent
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._kept, args=(number,)) for number in range(KEPT)]
        for what, interval, work in (
            ("fresh", (KEPT + 1) / READS, self._fresh),
            ("file", LOGIN_EVERY, self._from_file),
            ("socket", LOGIN_EVERY, self._from_socket),
        ):
            self._threads.append(threading.Thread(target=_every, args=(self._done, interval, work, self.tally, what)))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End; returns when all have."""
        self._done.set()
        for thread in self._threads:
            thread.join()

    def _kept(self, number: int) -> None:
        connection = Connection(self._agent.socket)
        target = f"/v1/{role_name(number % ROLES)}"
        _every(self._done, (KEPT + 1) / READS, lambda: self._read(connection, target), self.tally, "kept")
        connection.close()

    def _read(self, connection: Connection, target: str) -> dict[str, Any]:
        status, body = connection.ask(target)
        if status != 200:
            raise RuntimeError(f"{target} answers {status}")
        self.tally.reads += 1
        return body

    def _ask_afresh(self, target: str) -> dict[str, Any]:
        connection = Connection(self._agent.socket)
        try:
            return self._read(connection, target)
        finally:
            connection.close()

    def _fresh(self) -> None:
        self._ask_afresh(f"/v1/{role_name(0)}")

    def _from_file(self) -> None:
        text = (self._scene.directory / "secrets" / "app-1").read_text()
        pairs = dict(word.split("=", 1) for word in shlex.split(text))
        self._log_in(pairs["DB_USER"], pairs["DB_PASS"])

    def _from_socket(self) -> None:
        data = self._ask_afresh(f"/v1/{role_name(2)}")["data"]
        self._log_in(data["username"], data["password"])

    def _log_in(self, user: str, password: str) -> None:
        with psycopg.connect(self._scene.place, user=user, password=password, connect_timeout=10) as session:
            session.execute("TABLE reports")
        self.tally.logins += 1
        self.tally.users.add(user)


def _users(at: Scene) -> int:
    with psycopg.connect(at.prepared.cluster.conninfo(), autocommit=True) as session:
        row = session.execute(r"SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v\_%'").fetchone()
    return 0 if row is None else int(row[0])


def slope(moments: Sequence[Moment]) -> tuple[float, float]:
    """MiB of RSS per hour over the last two thirds, and the standard error of that; zeros for fewer than 4 rows."""
    late = moments[len(moments) // 3 :]
    if len(late) < 4:
        return 0.0, 0.0
    hours = [moment.at / 3600 for moment in late]
    sizes = [moment.sample.rss for moment in late]
    line = statistics.linear_regression(hours, sizes)
    off = [size - line.intercept - line.slope * hour for hour, size in zip(hours, sizes, strict=True)]
    spread = sum((hour - statistics.fmean(hours)) ** 2 for hour in hours)
    return line.slope, (sum(each**2 for each in off) / (len(off) - 2) / spread) ** 0.5


def faults(moments: Sequence[Moment], failed: Sequence[str]) -> list[str]:
    """Everything that is wrong, a line each."""
    found = [f"{len(failed)} reads or logins failed, the first: {failed[0]}"] if failed else []
    rise, scatter = slope(moments)
    if rise > CREEP + 2 * scatter:
        found.append(f"RSS grows by {rise:.2f} ± {scatter:.2f} MiB an hour")
    late = moments[len(moments) // 3 :]
    for what, counts in (
        ("descriptors", [moment.sample.descriptors for moment in late]),
        ("threads", [moment.sample.threads for moment in late]),
        ("tasks", [moment.sample.tasks for moment in late]),
    ):
        half = len(counts) // 2
        # They go up and down with what is under way; what leaks raises the least of them too.
        if half and min(counts[half:]) > min(counts[:half]) + 1:
            found.append(f"{what} grow: {min(counts[:half])} at least at first, {min(counts[half:])} later")
    if any(moment.users > FEW for moment in moments):
        found.append(f"{max(moment.users for moment in moments)} database users at once, more than {FEW}")
    return found


HEAD = "minute   RSS MiB   PSS MiB   CPU %   fds  threads  tasks  users    reads   logins  failed"


def _print(moment: Moment, before: Moment | None) -> None:
    sample = moment.sample
    busy = 0.0 if before is None else (sample.cpu - before.sample.cpu) / (moment.at - before.at) * 100
    print(
        f"{moment.at / 60:6.1f} {sample.rss:9.2f} {sample.pss:9.2f} {busy:7.1f} {sample.descriptors:5d} "
        f"{sample.threads:8d} {sample.tasks:6d} {moment.users:6d} {moment.reads:8d} {moment.logins:8d} "
        f"{moment.failed:7d}",
        flush=True,
    )


def _watch(at: Scene, agent: Agent, apps: Apps, minutes: float) -> list[Moment]:
    moments: list[Moment] = []
    began = time.monotonic()
    print(HEAD, flush=True)
    while True:
        tally = apps.tally
        moment = Moment(
            at=time.monotonic() - began,
            sample=agent.sample(),
            users=_users(at),
            reads=tally.reads,
            logins=tally.logins,
            failed=len(tally.failed),
        )
        _print(moment, moments[-1] if moments else None)
        moments.append(moment)
        left = minutes * 60 - moment.at
        if left <= 0:
            return moments
        time.sleep(min(60.0, left))


def soak(minutes: float) -> int:
    """Run it; 1 where the verdict is bad."""
    with scene() as at:
        disk = "" if on_memory(at.directory) else "\nstate_allow_disk = true"
        state = f'state_dir = "{at.directory / "state"}"{disk}'
        text = configuration(at, roles=ROLES, ttl="5s", max_ttl="15s", files=ROLES, agent=state)
        with Agent(at, text) as agent:
            agent.until(lambda: agent.ask("/readyz")[0] == 200, "ready")
            apps = Apps(at, agent)
            apps.start()
            try:
                moments = _watch(at, agent, apps, minutes)
            finally:
                apps.stop()
            said = {event: agent.logged(event) for event in ("published", "renewed", "revoked", "renew-failed")}
            agent.stop()
            left = _users(at)
    found = faults(moments, apps.tally.failed)
    found += [f"{left} users were left behind by the stop"] if left else []
    rise, scatter = slope(moments)
    print(f"\nRSS over the last two thirds: {rise:+.2f} ± {scatter:.2f} MiB an hour")
    print(", ".join(f"{event} {count}" for event, count in said.items()), f"; {len(apps.tally.users)} users logged in")
    print("\n".join(found) if found else "flat: nothing grew, nothing failed, nothing was left")
    return 1 if found else 0


def main(words: Sequence[str]) -> int:
    """`python -m bench soak [MINUTES]`."""
    return soak(float(words[0]) if words else 30.0)
