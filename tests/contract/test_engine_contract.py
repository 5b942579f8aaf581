"""What every engine promises, over the double and over each real one, so that the double cannot lie."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from agent.clock import SystemClock
from agent.config.model import Duration, PostgreSQL, Role
from agent.dev.cluster import Cluster
from agent.engines.postgres import build
from agent.errors import LeaseEnded, LeaseGone
from agent.leases.engine import Engine
from agent.leases.lease import Grant, Lease
from tests.fakes import FakeClock, FakeEngine
from tests.fix_postgres import MAJORS, Database, binaries_of, create_database

ROLE = "database/creds/app"
TTL = 60.0


@dataclass(kw_only=True)
class Subject:
    """An engine, and what a test may do to its upstream.

    Attributes:
        works: whether the credential of a grant is good.
        expire: let the lease have ended at the upstream.
        pause, resume: between them the upstream answers nothing.
    """

    engine: Engine
    works: Callable[[Grant], bool]
    expire: Callable[[Grant], None]
    pause: Callable[[], None]
    resume: Callable[[], None]


def on_the_fake() -> Subject:
    clock = FakeClock()
    hang: list[float] = []
    engine = FakeEngine(clock, ttl=TTL, script=lambda operation, n: hang[0] if hang else None)

    def expire(grant: Grant) -> None:
        engine.ends[grant.id] = clock.now() - 1

    return Subject(
        engine=engine,
        works=lambda grant: grant.id in engine.live,
        expire=expire,
        pause=lambda: hang.append(3600.0),
        resume=hang.clear,
    )


@contextlib.asynccontextmanager
async def on_postgres(database: Database, user: str, password_file: Path) -> AsyncIterator[Subject]:
    engine = build(
        "postgresql",
        PostgreSQL(
            host=database.host,
            port=database.port,
            dbname=database.dbname,
            user=user,
            password_file=str(password_file),
            sslmode="disable",
            marker_group=f"lease_{database.dbname}",  # the servers outlive the tests, and roles belong to a server
        ),
        {ROLE: Role(upstream="postgresql", group=database.group, default_ttl=Duration(TTL))},
        holder="pod",
        incarnation=1,
        clock=SystemClock(),
    )

    def works(grant: Grant) -> bool:
        place = database.conninfo(grant.data["username"].reveal(), grant.data["password"])
        try:
            psycopg.connect(place, connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def expire(grant: Grant) -> None:
        database.execute(
            "UPDATE leasehold.lease SET expires = clock_timestamp() - interval '1 second' WHERE id = %s", grant.id
        )

    yield Subject(
        engine=engine,
        works=works,
        expire=expire,
        pause=database.cluster.pause,
        resume=database.cluster.resume,
    )
    await engine.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[int, Cluster]]:
    """Servers of this file alone: it lets them stand still."""
    running: dict[int, Cluster] = {}
    yield running
    for one in running.values():
        one.destroy()


ENGINES = ["fake", *(f"pg{major}-{admin}" for major in MAJORS for admin in ("createrole", "superuser"))]


@pytest.fixture(params=ENGINES)
async def subject(
    request: pytest.FixtureRequest, servers: dict[int, Cluster], tmp_path: Path
) -> AsyncIterator[Subject]:
    """Each engine in turn, on an upstream that knows no lease yet."""
    if request.param == "fake":
        yield on_the_fake()
        return
    major, admin = int(request.param[2:].split("-")[0]), request.param.split("-")[1]
    if major not in servers:
        servers[major] = Cluster(binaries_of(major))
        servers[major].start()
    database = create_database(servers[major], tmp_path)
    user, file = (database.admin, database.admin_password_file)
    if admin == "superuser":
        user, file = (servers[major].superuser, servers[major].password_file)
    async with on_postgres(database, user, file) as one:
        yield one


def fresh() -> str:
    return str(uuid.uuid4())


def lease(grant: Grant) -> Lease:
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


async def test_an_issued_credential_works_and_has_the_proposed_id(subject: Subject):
    proposed = fresh()

    grant = await subject.engine.issue(ROLE, proposed)

    assert subject.works(grant)
    assert grant.id == proposed
    assert 0 < grant.ttl <= TTL <= grant.max_ttl
    assert set(grant.data) == {"username", "password"}


async def test_every_issue_makes_a_credential_of_its_own(subject: Subject):
    """R003-002."""
    one, two = await asyncio.gather(*(subject.engine.issue(ROLE, fresh()) for _ in range(2)))

    assert one.data["username"] != two.data["username"]
    assert one.data["password"] != two.data["password"]


async def test_a_renewal_keeps_the_credential(subject: Subject):
    grant = await subject.engine.issue(ROLE, fresh())

    renewed = await subject.engine.renew(lease(grant), TTL)

    assert renewed.id == grant.id
    assert dict(renewed.data) in ({}, dict(grant.data))
    assert 0 < renewed.ttl <= TTL
    assert subject.works(grant)


async def test_a_revoked_credential_works_no_more(subject: Subject):
    grant = await subject.engine.issue(ROLE, fresh())

    await subject.engine.revoke(grant.id)

    assert not subject.works(grant)


async def test_revoking_ends_one_lease_only(subject: Subject):
    grant, other = [await subject.engine.issue(ROLE, fresh()) for _ in range(2)]

    await subject.engine.revoke(grant.id)

    assert subject.works(other)


async def test_revoking_again_succeeds(subject: Subject):
    grant = await subject.engine.issue(ROLE, fresh())

    await subject.engine.revoke(grant.id)
    await subject.engine.revoke(grant.id)

    assert not subject.works(grant)


async def test_an_id_revoked_before_its_issue_is_never_issued(subject: Subject):
    proposed = fresh()
    await subject.engine.revoke(proposed)
    await subject.engine.revoke(proposed)

    with pytest.raises(LeaseGone):
        await subject.engine.issue(ROLE, proposed)


@pytest.mark.parametrize("how", ["expired", "revoked", "never issued"])
async def test_a_lease_that_has_ended_cannot_be_renewed(subject: Subject, how):
    grant = await subject.engine.issue(ROLE, fresh())
    if how == "expired":
        subject.expire(grant)
    elif how == "revoked":
        await subject.engine.revoke(grant.id)
    else:
        grant = Grant(id=fresh(), data=grant.data, ttl=TTL, renewable=True)

    with pytest.raises(LeaseEnded) as caught:
        await subject.engine.renew(lease(grant), TTL)

    for secret in (grant.id, grant.data["username"].reveal(), grant.data["password"].reveal()):
        assert secret not in f"{caught.value} {caught.value!r}"


async def test_a_lease_that_has_expired_can_be_revoked(subject: Subject):
    grant = await subject.engine.issue(ROLE, fresh())
    subject.expire(grant)

    await subject.engine.revoke(grant.id)

    assert not subject.works(grant)


async def test_a_call_that_gets_no_answer_can_be_cancelled_at_once(subject: Subject):
    engine = subject.engine
    grant = await engine.issue(ROLE, fresh())
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "issue": lambda: engine.issue(ROLE, fresh()),
        "renew": lambda: engine.renew(lease(grant), TTL),
        "revoke": lambda: engine.revoke(grant.id),
        "ping": engine.ping,
    }
    late: dict[str, float] = {}

    subject.pause()
    for name, call in calls.items():
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await call()
        late[name] = time.monotonic() - began - 0.2
    subject.resume()

    assert {name: took for name, took in late.items() if took > 0.5} == {}
    await engine.ping()


async def test_an_issue_without_an_answer_can_be_revoked_by_its_id(subject: Subject):
    proposed = fresh()
    await subject.engine.ping()
    subject.pause()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            await subject.engine.issue(ROLE, proposed)
    subject.resume()

    await subject.engine.revoke(proposed)

    with pytest.raises(LeaseGone):
        await subject.engine.issue(ROLE, proposed)


async def test_a_ping_returns_where_the_upstream_answers(subject: Subject):
    await subject.engine.ping()
