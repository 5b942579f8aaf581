"""Readers that ask all the time while servers go away and come back, and what their answers must show."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from tests.acceptance.harness import Agent, Answer, Client, credential, eventually, log_in
from tests.fix_postgres import Database

EVERY = 0.1
SLACK = 0.05
"""Between two readings of clocks on a busy machine (seconds)."""


@dataclass(kw_only=True)
class Reader:
    """Reads a role all the time, as an app that asks before each use.

    Attributes:
        every: seconds between two reads.
        place: where it logs in with whatever it was given; None for not at all.
        refused: logins that failed.
    """

    socket: Path
    role: str
    every: float = EVERY
    place: Mapping[str, Any] | None = None
    answers: list[Answer] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    logins: int = 0
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Until done."""
        with Client(self.socket) as client:
            while not self.done.wait(self.every):
                answer = client.ask(f"/v1/{self.role}")
                self.answers.append(answer)
                if self.place is not None and answer.status == 200:
                    self._use(self.place, answer)

    def _use(self, place: Mapping[str, Any], answer: Answer) -> None:
        try:
            log_in(place, credential(answer)).close()
        except psycopg.Error as error:
            self.refused.append(f"{time.time() - answer.answered:.3f} s after the read: {error!r}")
        else:
            self.logins += 1

    def first_good(self, since: float) -> float:
        """When the first read that was asked after `since` was answered with a credential; +inf if none was."""
        return next((a.answered for a in self.answers if a.status == 200 and a.asked > since), float("inf"))


@contextlib.contextmanager
def reading(agent: Agent, *roles: str, **how: Any) -> Iterator[dict[str, Reader]]:
    """A reader for each of the roles, at work inside the block; `how` is every Reader's."""
    readers = {role: Reader(socket=agent.socket, role=role, **how) for role in roles}
    threads = [threading.Thread(target=reader.run) for reader in readers.values()]
    for thread in threads:
        thread.start()
    try:
        yield readers
    finally:
        for reader in readers.values():
            reader.done.set()
        for thread in threads:
            thread.join()


def together(*works: Callable[[], None]) -> None:
    """Do all at once; return when all are done."""
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def wait_for_renewal(agent: Agent, role: str, within: float) -> None:
    """Return within half a second before the role's next renewal."""

    def near() -> bool:
        found = agent.role(role)
        return found["next_step"] == "renew" and found["next_in"] is not None and found["next_in"] < 0.5

    assert eventually(near, within=within)


def next_attempt(agent: Agent, role: str) -> float:
    """The instant (Unix time) of the next attempt; now, where the one under way succeeds."""
    while (found := agent.role(role))["retry_in"] is None and found["phase"] != "fresh":
        time.sleep(0.02)
    return time.time() + (found["retry_in"] or 0.0)


def valid_until(database: Database, username: str) -> float:
    """When the database itself stops letting that user in."""
    ((until,),) = database.execute(
        "SELECT extract(epoch FROM rolvaliduntil)::float8 FROM pg_roles WHERE rolname = %s", username
    )
    return float(until)


def ends_of(answers: list[Answer]) -> dict[tuple[str, float], tuple[float, float]]:
    """By user and `expires_at`: between which instants the lease ends, if every `lease_duration` was right.

    It is what is left at some instant between question and answer, rounded down to a second. Where the end moves on
    within one second of `expires_at`, as with the renewal of the login that a lease hangs on, it is the last one.
    """
    ends: dict[tuple[str, float], tuple[float, float]] = {}
    for answer in answers:
        held = credential(answer)
        low, high = ends.get((held.username, held.expires_at), (0.0, float("inf")))
        sooner, later = answer.asked + held.lease_duration, answer.answered + held.lease_duration + 1
        moved = sooner > high + SLACK
        ends[held.username, held.expires_at] = (sooner, later) if moved else (max(low, sooner), min(high, later))
    return ends


def check_truth(answers: list[Answer], margin: float) -> None:
    """Promise 1: the remaining TTL counts down, agrees with `expires_at` and with Cache-Control; no end ever falls."""
    for (_, expires_at), (low, high) in ends_of(answers).items():
        assert low <= high + SLACK
        assert low - SLACK < expires_at + 1
        assert high + SLACK > expires_at
    before: dict[str, float] = {}
    for answer in answers:
        held = credential(answer)
        assert answer.headers["cache-control"] == f"private, max-age={max(0, held.lease_duration - int(margin))}"
        assert held.expires_at >= before.get(held.username, 0.0)
        before[held.username] = held.expires_at


def check_outage(answers: list[Answer], began: float, ended: float, *, margin: float, every: float = EVERY) -> None:
    """Promise 3: all reads are answered until expiry less the margin, then none, at once and politely.

    Args:
        answers: of one role, in order.
        began, ended: the outage, in Unix time.
        every: seconds between two reads.
    """
    dark = [answer for answer in answers if answer.status != 200]
    assert dark, "the lease did not end during the outage"
    assert {answer.status for answer in dark} == {503}
    lit_before = [answer for answer in answers if answer.answered < dark[0].asked]
    assert {answer.status for answer in lit_before} == {200}
    last = credential(lit_before[-1])
    low, high = ends_of(lit_before)[last.username, last.expires_at]
    # Served to the last moment, not a moment longer.
    end = lit_before[-1].answered + margin
    assert low - 3 * every <= end <= high + SLACK, (last.username, low - end, high - end)
    assert any(answer.body["state"] == "stale" for answer in lit_before if answer.asked > began)
    during = [answer for answer in dark if answer.answered < ended]
    assert len(during) > (ended - during[0].asked) / every * 0.6, "a read hung"
    for answer in dark:
        assert int(answer.headers["retry-after"]) >= 1
        assert "data" not in answer.body
