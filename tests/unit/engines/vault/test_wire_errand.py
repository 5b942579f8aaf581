"""Who hears the answer of a call, when its caller leaves at the worst moment."""

import asyncio
import math
from collections.abc import Callable

from agent.engines.vault.answers import Answer, Request
from agent.engines.vault.errand import Asked, Errand, Outcome
from agent.engines.vault.sockets import Bounds
from agent.leases.lease import Secret

GOOD = Outcome(answer=Answer(status=200, body={"lease_id": "x"}))


def asked(request: Request | None = None) -> Asked:
    return Asked(
        method="GET",
        path=request.path if request else "database/creds/app",
        quoted="",
        token=None,
        body=None,
        query={},
        wrap_ttl=0,
        certificate=None,
        namespace=None,
        deadline=1.0,
    )


class Asker:
    """Calls `meanwhile` before it asks for leave to send; remembers what was asked, and what leave it got."""

    def __init__(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.meanwhile = meanwhile
        self.paths: list[str] = []
        self.allowed: list[bool] = []

    def ask(self, asked: Asked, bounds: Bounds, begin: Callable[[Callable[[], None]], bool]) -> Outcome:
        self.paths.append(asked.path)
        self.meanwhile()
        self.allowed.append(begin(lambda: None))
        return GOOD

    def close(self) -> None:
        pass


def errand(late: Callable[[Answer], Request | None]) -> Errand:
    bounds = Bounds(math.inf)
    return Errand("vault", asked(), bounds, late=late, prepare=asked, again=lambda: bounds)


async def test_who_has_left_before_the_first_byte_forbids_it_and_was_told_so():
    call = errand(lambda _: None)
    told: list[tuple[Outcome | None, bool]] = []
    asker = Asker(lambda: told.append(call.leave(tired=False)))

    await asyncio.to_thread(call.do, lambda: asker)

    assert asker.allowed == [False]
    assert told == [(None, False)]


async def test_who_has_left_before_a_thread_was_free_has_nothing_asked():
    call, asker = errand(lambda _: None), Asker()
    call.leave(tired=False)

    await asyncio.to_thread(call.do, lambda: asker)

    assert asker.paths == []


async def test_an_answer_is_either_taken_or_seen_to_and_never_both():
    ending = Request(method="POST", path="sys/leases/revoke", token=Secret("t"))
    heard: list[Answer] = []

    def late(answer: Answer) -> Request:
        heard.append(answer)
        return ending

    taken, asker = errand(late), Asker()
    (await asyncio.to_thread(taken.do, lambda: asker))()
    assert await taken.outcome() is GOOD
    assert (asker.paths, heard) == (["database/creds/app"], [])

    left, asker = errand(late), Asker()
    await asyncio.to_thread(left.do, lambda: asker)  # done, and its caller not yet told
    outcome, sent = left.leave(tired=False)
    assert (outcome, sent, heard) == (GOOD, True, [])
    left.too_late(lambda: asker, GOOD)
    assert asker.paths == ["database/creds/app", "sys/leases/revoke"]
    assert len(heard) == 1
