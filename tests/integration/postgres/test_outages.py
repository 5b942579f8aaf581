"""A server that stands still, goes away and comes back, under calls that are cancelled."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from agent.engines.postgres import PostgresEngine
from agent.engines.postgres.connections import Connection, transaction
from agent.errors import LeaseGone, Unavailable
from agent.failpoints import Failpoint, armed
from agent.leases.lease import Grant
from tests.integration.postgres.site import NEWEST, ROLE, Site, aside, closing, eventually, fresh, lease, username

LOOPS = pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
Loop = Callable[[], asyncio.AbstractEventLoop]


def run(new_loop: Loop, scenario: Callable[[], Awaitable[None]]) -> None:
    """Run one scenario on its own loop, in debug mode."""

    async def main() -> None:
        await scenario()

    with asyncio.Runner(loop_factory=new_loop, debug=True) as runner:
        runner.run(main())


async def given_up_after(call: Awaitable[object], deadline: float) -> float:
    """How long the call took to return once its deadline had passed."""
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(deadline):
            await call
    return time.monotonic() - began - deadline


def calls(engine: PostgresEngine, grant: Grant) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "issue": lambda: engine.issue(ROLE, fresh()),
        "renew": lambda: engine.renew(lease(grant), 60.0),
        "revoke": lambda: engine.revoke(grant.id),
        "ping": engine.ping,
        "sweep": engine.sweep,
        "list": engine.list,
    }


@LOOPS
def test_every_call_keeps_its_deadline_against_a_server_that_stands_still(own_site: Site, new_loop: Loop):
    """With connections that were open before, and while making new ones."""
    site = own_site
    late: dict[str, float] = {}

    async def scenario() -> None:
        warm, cold = site.engine(max_calls=6), site.engine(max_calls=6)
        async with closing(warm, cold):
            grant = await warm.issue(ROLE, fresh())
            await asyncio.gather(*(warm.ping() for _ in range(6)))
            site.database.cluster.pause()
            for kind, engine in (("warm", warm), ("cold", cold)):
                for name, call in calls(engine, grant).items():
                    late[f"{kind} {name}"] = await given_up_after(call(), 0.2)
            site.database.cluster.resume()
            await warm.revoke(grant.id)
            await cold.ping()

    run(new_loop, scenario)

    assert {name: took for name, took in late.items() if took > 0.3} == {}


@LOOPS
def test_an_issue_of_unknown_outcome_is_revoked_by_its_id(own_site: Site, new_loop: Loop):
    """The server finishes what it was asked before it stood still; the revocation waits for that."""
    site = own_site

    async def scenario() -> None:
        engine = site.engine()
        async with closing(engine):
            await engine.ping()
            for point in (Failpoint.ISSUE_INSERTED, Failpoint.ISSUE_CREATED):
                proposed = fresh()
                with armed(point, aside(site.database.cluster.pause)):
                    await given_up_after(engine.issue(ROLE, proposed), 0.2)
                site.database.cluster.resume()

                await engine.revoke(proposed)

                await asyncio.sleep(0.2)
                assert site.users() == set()
                with pytest.raises(LeaseGone):
                    await engine.issue(ROLE, proposed)
            assert await engine.list() == []

    run(new_loop, scenario)


@NEWEST
async def test_a_mint_in_flight_is_waited_for_and_then_revoked(own_site: Site):
    """Looking for the row would find none: it can appear after the look."""
    site = own_site
    miner, revoker = site.engine(), site.engine()
    async with closing(miner, revoker):
        await asyncio.gather(miner.ping(), revoker.ping())
        proposed = fresh()
        revocation: list[asyncio.Task[None]] = []

        def begin_to_revoke() -> None:
            revocation.append(asyncio.create_task(revoker.revoke(proposed)))

        with armed(Failpoint.ISSUE_INSERTED, begin_to_revoke):
            grant = await miner.issue(ROLE, proposed)
        await revocation[0]

        assert not site.exists(grant)
        assert await miner.list() == []


@NEWEST
async def test_cancelled_calls_leave_neither_connections_nor_locks_behind(own_site: Site):
    site = own_site
    engine = site.engine(max_calls=2)
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        for _ in range(3):
            site.database.cluster.pause()
            await asyncio.gather(*(given_up_after(engine.renew(lease(grant), 60.0), 0.1) for _ in range(4)))
            site.database.cluster.resume()

        await engine.renew(lease(grant), 60.0)

        def few() -> bool:
            count = site.database.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leasehold'")
            return int(count[0][0]) <= 2

        assert await eventually(few, within=3.0)


@NEWEST
async def test_a_transaction_cancelled_between_two_statements_is_not_waited_for(own_site: Site):
    """The server rolls back when it finds the connection closed; a ROLLBACK would need its answer."""
    cluster = own_site.database.cluster
    conn = await Connection.connect(own_site.database.conninfo(), autocommit=True)

    async def scenario() -> None:
        async with transaction(conn):
            await conn.execute("CREATE TABLE made (n int)")
            aside(cluster.pause)()
            await asyncio.Event().wait()

    late = await given_up_after(scenario(), 0.2)
    cluster.resume()

    assert late < 0.3
    assert conn.closed
    assert own_site.database.execute("SELECT 1 FROM pg_tables WHERE tablename = 'made'") == []


@NEWEST
async def test_a_connection_does_not_outlive_a_cancelled_call(own_site: Site):
    conn = await Connection.connect(own_site.database.conninfo(), autocommit=True)

    await given_up_after(conn.execute("SELECT pg_sleep(30)"), 0.1)

    assert conn.closed


@NEWEST
async def test_an_issue_cancelled_before_its_commit_leaves_nothing(own_site: Site):
    site = own_site
    engine = site.engine()
    async with closing(engine):
        await engine.ping()
        issue = asyncio.create_task(engine.issue(ROLE, fresh()))

        def cancel() -> None:
            issue.cancel()

        with armed(Failpoint.ISSUE_INSERTED, cancel), pytest.raises(asyncio.CancelledError):
            await issue

        assert await eventually(lambda: site.users() == set() and site.rows() == 0, within=2.0)
        await engine.issue(ROLE, fresh())


async def test_a_restarted_server_costs_no_call(own_site: Site):
    """A connection that the old server closed is noticed before it is used."""
    site = own_site
    engine = site.engine()
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        await asyncio.gather(*(engine.ping() for _ in range(4)))
        site.database.cluster.stop()
        with pytest.raises(Unavailable) as caught:
            await engine.renew(lease(grant), 60.0)
        site.database.cluster.start()

        await engine.renew(lease(grant), 60.0)

        assert caught.value.unreachable
        assert not caught.value.outcome_unknown


@pytest.mark.parametrize(
    "point", [Failpoint.ISSUE_INSERTED, Failpoint.ISSUE_CREATED], ids=["before the user", "before the commit"]
)
async def test_a_server_killed_during_an_issue_leaves_nothing_and_says_what_is_unknown(own_site: Site, point):
    site = own_site
    engine = site.engine()
    async with closing(engine):
        await engine.ping()

        with armed(point, aside(site.database.cluster.kill)), pytest.raises(Unavailable) as caught:
            await engine.issue(ROLE, fresh())

        site.database.cluster.start()
        assert caught.value.unreachable
        assert caught.value.outcome_unknown is (point is Failpoint.ISSUE_CREATED)
        assert site.users() == set()
        assert site.rows() == 0


async def test_no_password_reaches_the_server_s_log(own_site: Site):
    """D-17: not even with the statement of a failing creation, at log_statement = ddl."""
    site = own_site
    create = """CREATE ROLE "{{name}}" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'"""
    roles = {
        ROLE: site.role(),
        "failing": site.role(creation_statements=(create, "SELECT nonsense")),
    }
    engine = site.engine(roles)
    drawn: list[str] = []
    async with closing(engine):
        grant = await engine.issue(ROLE, fresh())
        drawn.append(grant.data["password"].reveal())
        site.log_in(grant).close()
        with pytest.raises(Exception, match=r"creation_statements\[1\]"):
            await engine.issue("failing", fresh())
        await engine.revoke(grant.id)

    log = site.database.cluster.log_file.read_text()
    assert f'CREATE ROLE "{username(grant)}"' in log
    assert "SCRAM-SHA-256$4096:" in log
    assert [password for password in drawn if password in log] == []
