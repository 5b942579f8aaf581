"""Leasehold beside the server's own agent (`bao agent`, `vault agent`), at one real server with a real PostgreSQL.

`python -m bench vault`: about seven minutes; needs OpenBao or Vault on PATH, or LEASEHOLD_TEST_VAULT. Both sides
run in interleaved rounds, or side by side, so that a busy machine slows both; only the ratios are claims. What the
scene is, and which interpreter ours runs with, stands in `bench/beside.py`.
"""

import math
import shlex
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from agent.leases.lease import Secret
from bench.beside import PYTHON, Estate, Lengths, Side, estate, ours, server_version, theirs
from bench.read import Row, load
from tests.bao import find
from tests.faultproxy import FaultProxy, Seen

ROUNDS = 7
MINUTE = 60.0
SCALE = 360.0
"""The day's: an hour is ten seconds."""

DAY = 86400.0 / SCALE
DAY_LENGTHS = Lengths(ttl=3600 / SCALE, max_ttl=14400 / SCALE, token_ttl=7200 / SCALE, token_max_ttl=43200 / SCALE)
KINDS = ("login", "issue", "renew", "revoke", "other")


def _row(name: str, pairs: Sequence[tuple[float, float]]) -> Row:
    """Medians, and the median of the rounds' ratios."""
    return Row(
        name=name,
        ours=statistics.median(a for a, _ in pairs),
        plain=statistics.median(b for _, b in pairs),
        ratio=statistics.median(a / b for a, b in pairs),
    )


def _wait(sides: Sequence[Side]) -> None:
    for side in sides:
        side.until(side.serves, "credential on its socket", every=0.01)
        side.until(side.file.exists, "file")


# -- the start ---------------------------------------------------------------------------------------------------------


def _start(side: Side) -> tuple[float, float]:
    """Milliseconds from its exec to its first rendered file, and of CPU until then."""
    with side:
        at = side.until(side.file.exists, "file")
        used = side.cpu()
        _wait((side,))
        side.stop()
    return (at - side.began) * 1000, used * 1000


def starts(scene: Estate) -> list[Row]:
    """Interleaved rounds, after one that fills the page cache and the byte code's."""
    for warming in (ours(scene), theirs(scene)):
        _start(warming)
    rounds = [(_start(ours(scene)), _start(theirs(scene))) for _ in range(ROUNDS)]
    return [
        _row("exec to the first rendered file, ms", [(a[0], b[0]) for a, b in rounds]),
        _row("CPU until then, ms", [(a[1], b[1]) for a, b in rounds]),
    ]


# -- a minute, and reads -----------------------------------------------------------------------------------------------


def minute(scene: Estate) -> list[Row]:
    """Memory of both after a minute side by side; what a cached read costs; memory after many."""
    with ours(scene) as a, theirs(scene) as b:
        sides = (a, b)
        _wait(sides)
        time.sleep(MINUTE)
        rows = _memory("after a minute", sides)
        for connections in (1, 16):
            rows += _reads(sides, connections)
        rows += _memory("after those reads", sides)
        for side in sides:
            side.stop()
    return rows


def _memory(when: str, sides: tuple[Side, Side]) -> list[Row]:
    (rss, pss), (their_rss, their_pss) = (side.memory() for side in sides)
    return [
        _row(f"RSS {when}, MiB", [(rss, their_rss)]),
        _row(f"PSS {when}, MiB (theirs shares its binary with the server)", [(pss, their_pss)]),
    ]


def _reads(sides: tuple[Side, Side], connections: int) -> list[Row]:
    rates, costs = [], []
    for side in sides:
        load(side.socket, connections, seconds=0.3, request=side.request)
    for _ in range(ROUNDS):
        round_rates, round_costs = [], []
        for side in sides:
            before = side.cpu()
            done = load(side.socket, connections, request=side.request)
            round_rates.append(done.rate)
            round_costs.append((side.cpu() - before) / len(done.latencies) * 1e6)
        rates.append((round_rates[0], round_rates[1]))
        costs.append((round_costs[0], round_costs[1]))
    return [_row(f"c={connections} reads/s", rates), _row(f"c={connections} CPU per read, µs", costs)]


# -- a day -------------------------------------------------------------------------------------------------------------


def kind_of(seen: Seen) -> str:
    """What a request is for."""
    if seen.path.startswith("auth/") and seen.path.endswith("/login"):
        return "login"
    if "/creds/" in seen.path:
        return "issue"
    if "renew" in seen.path:
        return "renew"
    return "revoke" if "revoke" in seen.path else "other"


def day(scene: Estate) -> tuple[list[Row], list[str]]:
    """What both ask of the server in a scaled day, with an app at each that logs in all the time; what those met."""
    server = scene.server.address
    with FaultProxy(server) as first, FaultProxy(server) as second:
        with ours(scene, first.address) as a, theirs(scene, second.address) as b:
            _wait((a, b))
            met = [f"{side.name}: {app.met}" for side, app in _used(scene, (a, b))]
            a.stop()
            b.stop()
        counts = [Counter(kind_of(seen) for seen in proxy.seen()) for proxy in (first, second)]
    rows = [_counted(f"{kind} requests at the server", counts[0][kind], counts[1][kind]) for kind in KINDS]
    rows.append(_counted("all requests at the server", counts[0].total(), counts[1].total()))
    return rows, met


def _counted(name: str, own: int, other: int) -> Row:
    return Row(name=name, ours=own, plain=other, ratio=own / other if other else math.nan)


@dataclass
class _App:
    """One that opens a session with what the socket serves, and one with what the file holds, each time anew."""

    tries: int = 0
    without: int = 0
    socket: int = 0
    file: int = 0

    @property
    def met(self) -> str:
        return (
            f"of {self.tries} times, {self.without} without an answer on the socket; refused by the database: "
            f"{self.socket} of its credentials, {self.file} of the file's"
        )

    def use(self, scene: Estate, side: Side) -> None:
        self.tries += 1
        status, body = side.ask()
        if status == 200:
            self.socket += not _lets_in(scene, body["data"]["username"], body["data"]["password"])
        else:
            self.without += 1
        held = dict(word.split("=", 1) for word in shlex.split(side.file.read_text()))
        self.file += not _lets_in(scene, held["DB_USER"], held["DB_PASS"])


def _lets_in(scene: Estate, user: str, password: str) -> bool:
    place = scene.database.conninfo(user, Secret(password))
    try:
        with psycopg.connect(place, connect_timeout=10) as session:
            session.execute("SELECT * FROM reports")
    except psycopg.OperationalError:
        return False
    return True


def _used(scene: Estate, sides: Sequence[Side]) -> list[tuple[Side, _App]]:
    apps = [(side, _App()) for side in sides]
    end = time.monotonic() + DAY
    while time.monotonic() < end:
        for side, app in apps:
            app.use(scene, side)
        time.sleep(0.3)
    return apps


# -- the page ----------------------------------------------------------------------------------------------------------


def show() -> None:
    """Measure, and print the tables."""
    other = Path(str(find())).name + " agent"
    interpreter = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    where = "with the tests' packages" if sys.executable == PYTHON else "as LEASEHOLD_BENCH_PYTHON names it"
    print(f"Beside {server_version()}'s own agent; ours on {interpreter}, {where}.\n")
    with estate(Lengths()) as scene:
        _table("start, one role", other, starts(scene))
        _table("one role, both side by side", other, minute(scene))
    with estate(DAY_LENGTHS) as scene:
        rows, met = day(scene)
        _table(f"a day at 1:{SCALE:g} (leases of 1 h, 4 h at most; logins of 2 h, 12 h at most)", other, rows)
        print("\n".join(met))


def _table(title: str, other: str, rows: Sequence[Row]) -> None:
    width = max(len(title), *(len(row.name) for row in rows))
    print(f"{title:{width}} {'leasehold':>10} {other:>10} {'ratio':>6}")
    for row in rows:
        print(f"{row.name:{width}} {row.ours:10.1f} {row.plain:10.1f} {row.ratio:6.2f}")
    print(flush=True)
