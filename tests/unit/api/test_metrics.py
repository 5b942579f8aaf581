"""Scrapes over the socket: what was counted, once a second at most, in either format."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from agent import catalogue
from agent.api.metrics import Metrics, render
from agent.leases.cache import Phase
from agent.meters import Family, Histogram
from tests.fakes import FakeClock
from tests.unit.api.test_leases import Witness
from tests.unit.api.world import ANYONE, NOBODY, OTHER, READ, ROLE, World, get, request

SCRAPE = get("/metrics")


def values(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Label values, in the order of their names, to value."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


async def test_reads_and_denials_are_counted_by_role(world: World) -> None:
    snapshot = world.publish()
    world.report(Phase.FAILING, role=OTHER)
    world.admin = ANYONE

    async with world.serving() as server:
        world.families = server.families
        async with world.client() as client:
            for _ in range(3):
                await client.ask()
            await client.ask(request("HEAD", f"/v1/{ROLE}"))
            await client.ask(get(f"/v1/{ROLE}", If_None_Match=f'W/"{snapshot.generation}"'))
            await client.ask(get(f"/v1/{ROLE}", If_None_Match='W/"1"'))
            await client.ask(get(f"/v1/{OTHER}"))
            await client.ask(request("POST", f"/v1/{OTHER}/rotate"))
            world.cache.withdraw(ROLE)
            world.report(Phase.FAILING)
            await client.ask()
            answer = await client.ask(SCRAPE)

    text = answer.body.decode()
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    reads = values(text, "leasehold_reads_total")
    assert {key: count for key, count in reads.items() if count} == {
        ("served", ROLE): 5,
        ("unchanged", ROLE): 1,
        ("unavailable", ROLE): 1,
        ("denied", OTHER): 1,
    }
    assert values(text, "leasehold_denials_total")["read", OTHER] == 1
    assert values(text, "leasehold_denials_total")["rotate", OTHER] == 1
    assert values(text, "leasehold_connections") == {("unix",): 1}


async def test_a_read_that_waited_for_the_first_attempt_is_counted_once(world: World) -> None:
    async with world.serving() as server, world.client() as client:
        client.send(READ)
        await asyncio.sleep(0.02)
        world.publish()
        await client.answer()
        counted = [family for family in server.families() if family.metric is catalogue.READS]

    assert {labels: count for labels, count in counted[0].rows if count} == {(ROLE, "served"): 1}


async def test_what_breaks_a_limit_is_counted_by_its_status(world: World) -> None:
    async with world.serving() as server:
        for sent in (b"\x16\x03\x01 hello\r\n\r\n", b"GET / HTTP/1.1\r\nA: %s\r\n\r\n" % (b"x" * 20000)):
            await world.ask(sent)
        refused = next(family for family in server.families() if family.metric is catalogue.REFUSED)

    assert {labels: count for labels, count in refused.rows if count} == {("unix", "400"): 1, ("unix", "431"): 1}


async def test_only_operators_scrape_the_socket(world: World) -> None:
    world.admin = NOBODY

    async with world.talking() as client:
        answer = await client.ask(SCRAPE)
        changed = await client.ask(request("POST", "/metrics"))

    assert answer.status == 403
    assert "allow_admin" in answer.errors
    assert (changed.status, changed.headers["allow"]) == (405, "GET, HEAD")


async def test_a_scrape_that_is_refused_is_said_audited_and_counted(world: World, lines: list[dict[str, Any]]) -> None:
    world.admin, world.witness = NOBODY, (witness := Witness())

    async with world.serving() as server, world.client() as client:
        for _ in range(3):
            await client.ask(SCRAPE)
        counted = [dict(each.rows) for each in server.families() if each.metric is catalogue.DENIALS]

    assert witness.told == [("denied", "", "metrics")], "once in a while"
    assert [line["operation"] for line in lines if line["event"] == "denied"] == ["metrics"]
    assert [rows["", "metrics"] for rows in counted if ("", "metrics") in rows] == [3]


async def test_openmetrics_is_given_to_who_asks_for_it(world: World) -> None:
    world.admin = ANYONE
    world.families = lambda: [catalogue.READY.being(1)]

    async with world.talking() as client:
        asked = await client.ask(
            get("/metrics", Accept="application/openmetrics-text;version=9.9.9;escaping=evil,text/plain;q=0.5")
        )
        other = await client.ask(get("/metrics", Accept="application/json"))

    assert asked.headers["content-type"] == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=underscores"
    )
    assert asked.body.endswith(b"# EOF\n")
    assert other.headers["content-type"].startswith("text/plain; version=0.0.4")


class Counted:
    """A source that counts how often it was asked, and on which thread."""

    def __init__(self) -> None:
        self.times = 0
        self.threads: set[int] = set()

    def __call__(self) -> Iterator[Family]:
        self.times += 1
        self.threads.add(threading.get_ident())
        yield catalogue.READY.being(self.times)


async def test_a_thousand_scrapes_at_once_cost_one_rendering(clock: FakeClock) -> None:
    source = Counted()
    metrics = Metrics(source, clock)

    answers = await asyncio.gather(*(metrics.response(None) for _ in range(1000)))
    await clock.advance(0.9)
    again = await metrics.response(None)
    await clock.advance(0.2)
    later = await metrics.response(None)

    assert {id(answer) for answer in answers} == {id(again)}
    assert values(again.body.decode(), "leasehold_ready") == {(): 1}
    assert values(later.body.decode(), "leasehold_ready") == {(): 2}
    assert source.threads == {threading.get_ident()}, "values change on the loop"


async def test_who_gives_a_scrape_up_disturbs_nobody_who_waits_for_it(clock: FakeClock) -> None:
    metrics = Metrics(Counted(), clock)
    first, second = (asyncio.ensure_future(metrics.response(None)) for _ in range(2))
    await asyncio.sleep(0)

    first.cancel()

    assert (await second).status == 200


def test_whatever_a_label_holds_the_text_can_be_read_back() -> None:
    nasty = 'a"b\\c\nd\x00é'
    histogram = Histogram(catalogue.DURATION, (0.5,))
    histogram.observe(0.1, nasty, "issue")

    for openmetrics in (False, True):
        body, _ = render([catalogue.FILE_FAILED.of([((nasty,), 1)]), histogram.family()], openmetrics=openmetrics)
        text = body.decode().removesuffix("# EOF\n")
        assert values(text, "leasehold_file_failed") == {(nasty,): 1}
        assert values(text, "leasehold_upstream_call_duration_seconds_bucket") == {
            ("0.5", "issue", nasty): 1,
            ("+Inf", "issue", nasty): 1,
        }


def test_the_process_tells_of_itself() -> None:
    body, _ = render([], openmetrics=False)
    text = body.decode()

    assert values(text, "process_resident_memory_bytes")[()] > 1e6
    assert values(text, "process_open_fds")[()] > 0
    assert values(text, "leasehold_threads")[()] >= 1


def test_nothing_of_it_is_imported_before_the_first_scrape() -> None:
    import subprocess
    import sys

    code = "import sys, agent.app, agent.api.metrics; sys.exit('prometheus_client' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 0


def test_a_role_is_a_label_as_it_stands() -> None:
    body, _ = render([catalogue.REMAINING.of([((ROLE,), 1.5)])], openmetrics=False)

    assert f'leasehold_lease_remaining_seconds{{role="{ROLE}"}} 1.5\n' in body.decode()
