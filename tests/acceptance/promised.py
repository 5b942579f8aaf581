"""What an agent says of its leases, held against what the server and the database know of them."""

import re
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Self

from tests.acceptance.harness import Agent, Client, Credential, credential
from tests.acceptance.vaulted import VaultScene
from tests.vault_place import Refused

TAKEN_BACK = 1.0
"""By less than this (seconds) a renewal near the max TTL brings an end forward at the server, which counts whole
seconds there: an end that was told before is told on."""

_FRACTION = re.compile(r"(\.\d{6})\d*")


def unix(instant: str) -> float:
    """Unix time of the server's instants, which have nanoseconds."""
    return datetime.fromisoformat(_FRACTION.sub(r"\1", instant)).timestamp()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One lease as the agent lists it; only what is published has its user's name there.

    Attributes:
        remaining: seconds; below 0 where it has ended and is still to be revoked.
    """

    lease_id: str
    role: str
    state: str
    username: str
    remaining: float = field(compare=False)


@dataclass(frozen=True, kw_only=True)
class Said:
    """One read of a role, and the truth about it: the lease's end at the server, or its login's where that is sooner.

    Attributes:
        end: Unix time; None where it changed between the looks before and after the read.
        known: seconds since that end was first seen: a renewal's answer takes a moment to reach the agent.
        most: the latest end that the server has ever told of the lease.
    """

    role: str
    held: Credential
    asked: float
    answered: float
    end: float | None
    known: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """The users that were there, and the leases that the agent listed before and after."""

    at: float
    before: frozenset[Row]
    users: frozenset[str]
    after: frozenset[Row]


@dataclass(kw_only=True)
class Watch:
    """Looks all the time, from the side: nothing of it passes the proxy.

    Args:
        paths: of each role at the server.

    Attributes:
        errors: of looking; each fails the test.
        published: when each user was first listed as published, Unix time.
    """

    scene: VaultScene
    agent: Agent
    paths: Mapping[str, str]
    every: float
    said: list[Said] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    _names: dict[str, str] = field(default_factory=dict)
    _tokens: dict[str, str] = field(default_factory=dict)
    _ends: dict[tuple[str, float], float] = field(default_factory=dict)
    _most: dict[str, float] = field(default_factory=dict)
    _done: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run, name="watch")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        with Client(self.agent.socket) as client:
            while not self._done.wait(self.every):
                try:
                    self._look(client)
                    for role in self.paths:
                        self._read(client, role)
                except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
                    self.errors.append(f"{time.time():.3f} {error!r}")

    # -- users -------------------------------------------------------------------------------------------------------

    def _look(self, client: Client) -> None:
        before = self._listed(client)
        at = time.time()
        users = frozenset(self.scene.users())
        self.looks.append(Look(at=at, before=before, users=users, after=self._listed(client)))

    def _listed(self, client: Client) -> frozenset[Row]:
        answer = client.ask("/v1/sys/leases")
        assert answer.status == 200, answer
        keys = ("lease_id", "role", "state", "remaining")
        found = [
            Row(username=row.get("username", ""), **{key: row[key] for key in keys})
            for row in answer.body["data"]["leases"]
        ]
        for row in found:
            if row.username:
                self._names[row.lease_id] = row.username
                self.published.setdefault(row.username, answer.answered)
        return frozenset(found)

    def _users_of(self, rows: frozenset[Row]) -> set[str]:
        return {self._names[row.lease_id] for row in rows if row.lease_id in self._names}

    def strays(self, within: float = 5.0) -> list[str]:
        """Users that were there without being listed, and were not published soon after either."""
        found = []
        for look in self.looks:
            for user in look.users - self._users_of(look.before | look.after):
                soon = look.at - 0.001 <= self.published.get(user, float("inf")) <= look.at + within
                if not soon:
                    found.append(f"{look.at:.3f} {user}")
        return found

    def crowded(self) -> list[str]:
        """Looks outside drain windows with any other number of users than one per role; the next one is not counted."""
        found = []
        for look in self._quiet():
            coming = {user for user in look.users if self.published.get(user, float("inf")) > look.at}
            if len(look.users - coming) != len(self.paths) or len(coming) > len(self.paths):
                found.append(f"{look.at:.3f} {sorted(look.users)}")
        return found

    def _quiet(self) -> list[Look]:
        """Looks while nothing drained: the agent listed one lease per role before and after."""
        return [look for look in self.looks if look.before == look.after and len(look.before) == len(self.paths)]

    @property
    def quiet_share(self) -> float:
        """Share of the looks outside drain windows."""
        return len(self._quiet()) / len(self.looks)

    def missing(self) -> list[str]:
        """Published credentials whose users were not there."""
        return [
            f"{look.at:.3f} {row.username}"
            for look in self.looks
            for row in look.before & look.after
            if row.username and row.username not in look.users
        ]

    def overdue(self, slack: float = 5.0) -> list[str]:
        """Leases that were not revoked `slack` seconds after their end."""
        return [
            f"{look.at:.3f} {row.role} {row.state} {row.remaining}"
            for look in self.looks
            for row in look.after
            if row.remaining < -slack
        ]

    def states(self) -> set[str]:
        """Every state that a lease was listed in."""
        return {row.state for look in self.looks for row in look.before | look.after}

    # -- reads -------------------------------------------------------------------------------------------------------

    def _read(self, client: Client, role: str) -> None:
        # The lease is known only after a read; the one that counts is taken between two looks at its end.
        lease_id = credential(client.ask(f"/v1/{role}")).lease_id
        if lease_id not in self._tokens:
            self._tokens[lease_id] = self.scene.proxy.seen(self.paths[role])[-1].headers["x-vault-token"]
        first = self._end(lease_id)
        answer = client.ask(f"/v1/{role}")
        held = credential(answer)
        same = held.lease_id == lease_id and first is not None and first == self._end(lease_id)
        end = first if same else None
        known = 0.0 if end is None else answer.asked - self._ends.setdefault((lease_id, end), answer.asked)
        most = self._most[lease_id] = max(self._most.get(lease_id, 0.0), end or 0.0)
        self.said.append(
            Said(role=role, held=held, asked=answer.asked, answered=answer.answered, end=end, known=known, most=most)
        )

    def _end(self, lease_id: str) -> float | None:
        """The server's: of the lease, or of the login that it was made with, whichever is sooner; None once gone."""
        try:
            lease = self.scene.setup.place.admin("POST", "sys/leases/lookup", {"lease_id": lease_id})["data"]
            token = self.scene.setup.place.admin("POST", "auth/token/lookup", {"token": self._tokens[lease_id]})["data"]
        except Refused:
            return None
        return min(unix(lease["expire_time"]), unix(token["expire_time"]))

    def untrue(self, slack: float) -> list[str]:
        """Reads that promised more than the server would keep, or `slack` seconds less than that for a second."""
        found = []
        for said in self.said:
            if said.end is None:
                continue
            duration = said.held.lease_duration
            promised = max(said.asked + duration, said.held.expires_at)
            least = min(said.answered + duration, said.held.expires_at) + 1.0  # both are rounded down
            if promised > min(said.most, said.end + TAKEN_BACK) + 0.01 or (
                said.known >= 1.0 and least < said.end - slack
            ):
                left = said.end - said.answered
                found.append(f"{said.asked:.3f} {said.role}: {duration} told, {left:.2f} true: {said.held}")
        return found

    @property
    def compared(self) -> int:
        """Reads that could be held against the server's own look-up."""
        return sum(1 for said in self.said if said.end is not None)

    def fallen(self) -> list[str]:
        """Credentials whose `expires_at` fell from one read to the next."""
        newest: dict[str, float] = {}
        found = []
        for said in self.said:
            user, ends = said.held.username, said.held.expires_at
            if ends < newest.get(user, ends):
                found.append(f"{said.asked:.3f} {user}: {newest[user]} -> {ends}")
            newest[user] = ends
        return found

    def users(self, role: str) -> set[str]:
        """Everybody whom readers of that role were given."""
        return {said.held.username for said in self.said if said.role == role}

    def mixed(self) -> set[tuple[str, int]]:
        """Users of more than one generation, and generations of more than one user of a role."""
        by_user: dict[str, set[int]] = defaultdict(set)
        by_generation: dict[tuple[str, int], set[str]] = defaultdict(set)
        for said in self.said:
            by_user[said.held.username].add(said.held.generation)
            by_generation[said.role, said.held.generation].add(said.held.username)
        several = {(user, next(iter(numbers))) for user, numbers in by_user.items() if len(numbers) > 1}
        return several | {one for one, users in by_generation.items() if len(users) > 1}

    def deaths(self) -> dict[str, tuple[float, float, float]]:
        """Of each user that went: the end last promised, when it was seen last, when it was first missed."""
        promised: dict[str, float] = {}
        for said in self.said:
            promised[said.held.username] = max(said.held.expires_at, promised.get(said.held.username, 0.0))
        there: dict[str, float] = {}
        missed: dict[str, float] = {}
        for look in self.looks:
            for user in promised:
                if user in look.users:
                    there[user] = look.at
                elif user in there:
                    missed.setdefault(user, look.at)
        return {user: (promised[user], there[user], at) for user, at in missed.items()}
