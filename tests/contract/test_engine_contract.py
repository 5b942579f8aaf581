"""What every engine promises, over the double and over each real one, so that the double cannot lie."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import psycopg
import pytest

from agent.clock import SystemClock
from agent.config.model import Duration, PostgreSQL, Role
from agent.dev.cluster import Cluster
from agent.engines.postgres import build
from agent.errors import LeaseEnded, LeaseGone
from agent.leases.lease import Grant, Lease
from tests.acceptance.harness import eventually
from tests.contract.on_vault import on_vault
from tests.contract.subject import Subject
from tests.fakes import FakeClock, FakeEngine
from tests.fix_postgres import MAJORS, Database, binaries_of, create_database
from tests.fix_vault import KINDS, make
from tests.vault_place import VaultPlace

ROLE = "database/creds/app"
TTL = 60.0


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
        unknown=fresh,
        live=lambda: len(engine.live),
    )


def logs_in(database: Database, grant: Grant) -> bool:
    place = database.conninfo(grant.data["username"].reveal(), grant.data["password"])
    try:
        psycopg.connect(place, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


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

    def expire(grant: Grant) -> None:
        database.execute(
            "UPDATE leasehold.lease SET expires = clock_timestamp() - interval '1 second' WHERE id = %s", grant.id
        )

    def live() -> int:
        found: int = database.execute("SELECT count(*) FROM leasehold.lease WHERE revoked_at IS NULL")[0][0]
        return found

    yield Subject(
        engine=engine,
        works=lambda grant: logs_in(database, grant),
        expire=expire,
        pause=database.cluster.pause,
        resume=database.cluster.resume,
        unknown=fresh,
        live=live,
    )
    await engine.close()


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[int, Cluster]]:
    """Servers of this file alone: it lets them stand still."""
    running: dict[int, Cluster] = {}
    yield running
    for one in running.values():
        one.destroy()


@pytest.fixture(scope="module")
def vaults() -> Iterator[dict[str, VaultPlace]]:
    """Likewise."""
    running: dict[str, VaultPlace] = {}
    yield running
    for one in running.values():
        one.resume()
        one.destroy()


OWN_IDS = ["fake", *(f"pg{major}-{admin}" for major in MAJORS for admin in ("createrole", "superuser"))]
THEIR_IDS = [f"vault-{kind}" for kind in KINDS]


@pytest.fixture(params=[*OWN_IDS, *THEIR_IDS])
async def subject(
    request: pytest.FixtureRequest, servers: dict[int, Cluster], vaults: dict[str, VaultPlace], tmp_path: Path
) -> AsyncIterator[Subject]:
    """Each engine in turn, on an upstream that knows no lease yet."""
    if request.param == "fake":
        yield on_the_fake()
        return
    kind, admin = request.param.split("-")
    major = MAJORS[0] if kind == "vault" else int(kind[2:])
    if kind == "vault" and admin not in vaults:
        started = make(admin)
        started.start()
        vaults[admin] = started
    if major not in servers:
        servers[major] = Cluster(binaries_of(major))
        servers[major].start()
    database = create_database(servers[major], tmp_path)
    if kind == "vault":
        works = partial(logs_in, database)
        async with on_vault(vaults[admin], database, tmp_path, role=ROLE, ttl=TTL, works=works) as one:
            yield one
        return
    user, file = (database.admin, database.admin_password_file)
    if admin == "superuser":
        user, file = (servers[major].superuser, servers[major].password_file)
    async with on_postgres(database, user, file) as one:
        yield one


def fresh() -> str:
    return str(uuid.uuid4())


def lease(grant: Grant) -> Lease:
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


async def test_an_issued_credential_works_and_has_the_proposed_id_where_that_is_ours_to_say(subject: Subject):
    proposed = fresh()

    grant = await subject.engine.issue(ROLE, proposed)

    assert subject.works(grant)
    assert (grant.id == proposed) is not subject.names_leases
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


@pytest.mark.parametrize("subject", OWN_IDS, indirect=True)
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
        grant = Grant(id=subject.unknown(), data=grant.data, ttl=TTL, renewable=True)

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


async def test_revoking_what_never_was_succeeds(subject: Subject):
    await subject.engine.revoke(subject.unknown())
    await subject.engine.revoke(fresh())


@pytest.mark.parametrize("subject", OWN_IDS, indirect=True)
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


@pytest.mark.parametrize("subject", THEIR_IDS, indirect=True)
async def test_an_issue_whose_answer_nobody_waited_for_leaves_nothing(subject: Subject):
    """Nobody knows its id but the server: the engine ends it as soon as the answer comes."""
    await subject.engine.ping()
    subject.pause()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await subject.engine.issue(ROLE, fresh())
    subject.resume()

    kept = await subject.engine.issue(ROLE, fresh())  # the server had the other one's request before

    assert await asyncio.to_thread(eventually, lambda: subject.live() == 1)
    assert subject.works(kept)
