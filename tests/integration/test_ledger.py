"""The journals as operators see them: every holder's leases, what happened to them, and their end in an incident."""

from collections.abc import AsyncIterator

import attrs
import psycopg
import pytest

from agent import booking, codes, ledger
from agent.clock import SystemClock
from agent.config.model import Config
from agent.errors import ConfigError, LeaseGone
from agent.ledger import Outcome, Search
from tests.fix_postgres import Database
from tests.integration.postgres.site import NEWEST, Site, fresh, lease, username

APP, OTHER, NEAR = "database/creds/app", "database/creds/other", "database/creds/app-2"


@pytest.fixture
async def site(database: Database) -> AsyncIterator[Site]:
    one = Site(database=database, user=database.admin, password_file=database.admin_password_file)
    yield one
    for engine in one.engines:
        await engine.close()


def config_of(site: Site, **server: object) -> Config:
    return Config(
        postgresql={"postgresql": site.config(**server)},
        role={name: site.role() for name in (APP, OTHER)},
    )


async def found(site: Site, **search: object) -> ledger.Found:
    return await ledger.find(config_of(site), SystemClock(), Search(**search))  # type: ignore[arg-type]


async def test_an_incident_ends_every_holders_leases_of_a_role_and_no_others(site: Site) -> None:
    """R000-036, R001-019, R001-020: a new login fails, the open session is closed, its agent cannot renew."""
    roles = {name: site.role() for name in (APP, OTHER, NEAR)}
    one, two = site.engine(roles, holder="web-0"), site.engine(roles, holder="web-1")
    hit = [await one.issue(APP, fresh()), await two.issue(APP, fresh())]
    spared = [await one.issue(OTHER, fresh()), await two.issue(NEAR, fresh())]
    session = site.log_in(hit[1])
    chosen = (await found(site, prefix="database/creds/app/", state="unrevoked")).entries
    outcomes: list[Outcome] = []

    await ledger.revoke(config_of(site), SystemClock(), chosen, outcomes.append)

    assert {entry.owner for entry in chosen} == {"web-0", "web-1"}
    assert [outcome.error for outcome in outcomes] == ["", ""]
    assert {outcome.entry.lease_id for outcome in outcomes} == {grant.id for grant in hit}
    assert site.users() == {username(grant) for grant in spared}
    with pytest.raises(psycopg.errors.AdminShutdown):
        session.execute("SELECT 1")
    for grant in hit:
        with pytest.raises(psycopg.OperationalError):
            site.log_in(grant)
    with pytest.raises(LeaseGone):
        await two.renew(lease(hit[1]), 60.0)
    outcomes.clear()
    await ledger.revoke(config_of(site), SystemClock(), chosen, outcomes.append)
    assert [outcome.error for outcome in outcomes] == ["", ""], "twice is fine"


@NEWEST
async def test_a_prefix_means_a_path_and_a_whole_mount_everything_below(site: Site) -> None:
    """R001-020: `E/` and `E/role`."""
    roles = {name: site.role() for name in (APP, OTHER, NEAR)}
    engine = site.engine(roles)
    for role in roles:
        await engine.issue(role, fresh())

    names = {
        prefix: {entry.role for entry in (await found(site, prefix=prefix)).entries}
        for prefix in ("database", "database/creds/", APP, f"/{APP}/", "/database/cred", "database/cred", "")
    }

    assert names == {
        "database": {APP, OTHER, NEAR},
        "database/creds/": {APP, OTHER, NEAR},
        APP: {APP},
        f"/{APP}/": {APP},
        "/database/cred": set(),
        "database/cred": set(),
        "": {APP, OTHER, NEAR},
    }


@NEWEST
async def test_a_lease_that_cannot_be_ended_is_told_and_holds_up_no_other(site: Site) -> None:
    engine = site.engine({APP: site.role()})
    stuck, fine = await engine.issue(APP, fresh()), await engine.issue(APP, fresh())
    site.database.execute(f'ALTER ROLE "{username(stuck)}" SUPERUSER')
    outcomes: list[Outcome] = []

    await ledger.revoke(config_of(site), SystemClock(), (await found(site)).entries, outcomes.append)

    errors = {outcome.entry.lease_id: outcome.error for outcome in outcomes}
    assert errors[fine.id] == ""
    assert "superuser" in errors[stuck.id]
    assert username(stuck) not in errors[stuck.id]


@NEWEST
async def test_a_user_leads_to_its_one_lease(site: Site) -> None:
    """R000-023: the database's log names a user; the journal says whose it was."""
    engine = site.engine({APP: site.role()}, holder="web-7")
    grants = [await engine.issue(APP, fresh()) for _ in range(3)]
    await engine.revoke(grants[1].id)

    (entry,) = (await found(site, username=username(grants[1]))).entries

    assert (entry.lease_id, entry.owner, entry.role, entry.state) == (grants[1].id, "web-7", APP, "revoked")


@NEWEST
async def test_the_journal_tells_what_happened_and_for_how_long(site: Site) -> None:
    """R000-037, R003-125: issue, renew, revoke, expire, with who and how long; oldest first."""
    engine = site.engine({APP: site.role()}, holder="web-0")
    renewed, revoked, expired = [await engine.issue(APP, fresh()) for _ in range(3)]
    site.database.execute(
        "UPDATE leasehold.lease SET issued = issued - interval '30 s', expires = expires - interval '30 s'"
        f" WHERE id = '{renewed.id}'"
    )
    await engine.renew(lease(renewed), 90.0)
    await engine.revoke(revoked.id)
    site.database.execute(
        "UPDATE leasehold.lease SET issued = issued - interval '2 min', expires = date_trunc('second',"
        f" expires - interval '2 min') WHERE id = '{expired.id}'"
    )
    overdue = (await found(site, state="overdue")).entries
    await engine.sweep()

    acts = ledger.acts((await found(site)).entries)

    assert [entry.lease_id for entry in overdue] == [expired.id]
    told = {
        grant.id: [(act.what, act.granted_ttl) for act in acts if act.entry.lease_id == grant.id]
        for grant in (renewed, revoked, expired)
    }
    assert told == {
        renewed.id: [("issue", None), ("renew", 90.0)],
        revoked.id: [("issue", 60.0), ("revoke", None)],
        expired.id: [("issue", 60.0), ("expire", None), ("sweep", None)],
    }
    assert [act.at for act in acts] == sorted(act.at for act in acts)
    assert {act.entry.owner for act in acts} == {"web-0"}
    recent = ledger.acts((await found(site, since=10.0)).entries, since=10.0)
    assert sorted(act.what for act in recent) == ["issue", "renew", "revoke", "sweep"]


@NEWEST
async def test_a_search_is_bounded_and_says_so(site: Site) -> None:
    engine = site.engine({APP: site.role()})
    grants = [await engine.issue(APP, fresh()) for _ in range(3)]

    page = await found(site, most=2)
    whole = await found(site, most=3)

    assert [entry.lease_id for entry in page.entries] == [grants[2].id, grants[1].id], "the newest"
    assert (page.cut, whole.cut) == (("postgresql",), ())


@NEWEST
async def test_a_revocation_goes_on_beyond_what_one_answer_holds(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be ended, here on the first page and the last, neither hides the others nor is it tried for ever."""
    engine = site.engine({APP: site.role(), NEAR: site.role()})
    grants = [await engine.issue(APP, fresh()) for _ in range(5)]
    spared = await engine.issue(NEAR, fresh())
    stuck = [grants[4], grants[0]]
    for grant in stuck:
        site.database.execute(f'ALTER ROLE "{username(grant)}" SUPERUSER')

    code = await booking.end(config_of(site), SystemClock(), Search(prefix=APP, state="unrevoked", most=2), yes=True)

    told = capsys.readouterr()
    assert (code, told.out.splitlines()[-1]) == (codes.LEFT_BEHIND, "revoked 3 of 5")
    assert len([line for line in told.err.splitlines() if "superuser" in line]) == 2
    assert site.users() == {username(grant) for grant in (*stuck, spared)}
    for grant in stuck:
        site.database.execute(f'ALTER ROLE "{username(grant)}" NOSUPERUSER')
    again = await booking.end(config_of(site), SystemClock(), Search(prefix=APP, state="unrevoked", most=1), yes=True)
    assert (again, capsys.readouterr().out.splitlines()[-1]) == (codes.OK, "revoked 2 of 2")
    assert site.users() == {username(spared)}


@NEWEST
async def test_leases_of_one_instant_are_each_met_once(site: Site) -> None:
    engine = site.engine({APP: site.role()})
    ids = [(await engine.issue(APP, fresh())).id for _ in range(4)]
    site.database.execute("UPDATE leasehold.lease SET issued = (SELECT min(issued) FROM leasehold.lease)")

    met = [
        entry.lease_id
        async for page in ledger.pages(config_of(site), SystemClock(), Search(most=1))
        for entry in page.entries
    ]

    assert met == sorted(ids)


@NEWEST
async def test_a_search_for_everything_revokes_nothing(site: Site) -> None:
    grant = await site.engine({APP: site.role()}).issue(APP, fresh())

    for search in (Search(state="unrevoked"), Search(prefix=" /", lease_id=" ")):
        with pytest.raises(ConfigError, match="name a lease, or a path"):
            await booking.end(config_of(site), SystemClock(), search, yes=True)

    assert site.users() == {username(grant)}


@NEWEST
async def test_who_looks_makes_no_journal(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    """The name of the database may be mistyped: nothing is left there, and the line names it."""
    one = config_of(site, schema="nowhere", marker_group="leasehold_nowhere")

    page = await ledger.find(one, SystemClock(), Search())
    swept = [each async for each in ledger.sweep(one, SystemClock(), timeout=1.0)]
    revoked = await booking.end(one, SystemClock(), Search(prefix=APP), yes=True)

    (line,) = page.errors
    assert line == (
        f"postgresql: there is no journal in database {site.database.dbname}: no nowhere.lease, which the first agent "
        "makes; see `dbname` and `schema`"
    )
    assert [each.error for each in swept] == [line]
    assert revoked == codes.NO_AGENT
    assert line in capsys.readouterr().err
    assert not site.database.execute("SELECT FROM pg_namespace WHERE nspname = 'nowhere'")
    assert not site.database.execute("SELECT FROM pg_roles WHERE rolname = 'leasehold_nowhere'")


@NEWEST
async def test_what_was_asked_long_ago_is_not_in_a_recent_search(site: Site) -> None:
    engine = site.engine({APP: site.role()})
    old, living = await engine.issue(APP, fresh()), await engine.issue(APP, fresh())
    await engine.revoke(old.id)
    site.database.execute(
        "UPDATE leasehold.lease SET issued = issued - interval '2 days', revoked_at = revoked_at - interval '1 day'"
    )

    recent = (await found(site, since=3600.0)).entries

    assert [entry.lease_id for entry in recent] == [living.id], "it lives, so something may have happened to it"


@NEWEST
async def test_a_sweep_goes_on_until_nothing_is_due(site: Site) -> None:
    """Design section 5: one shot for cron. What cannot be ended is named; strangers are counted, never touched."""
    engine = site.engine({APP: site.role()})
    grants = [await engine.issue(APP, fresh()) for _ in range(4)]
    for grant in grants[:3]:
        site.expire(grant)
    site.database.execute(f'ALTER ROLE "{username(grants[0])}" SUPERUSER')

    (swept,) = [each async for each in ledger.sweep(config_of(site), SystemClock(), timeout=2.0)]

    assert (swept.ended, swept.error) == (2, "")
    (line,) = swept.left
    assert "superuser" in line
    site.database.execute(f'ALTER ROLE "{username(grants[0])}" NOSUPERUSER')
    site.database.execute(f"DELETE FROM leasehold.lease WHERE id = '{grants[3].id}'")
    (again,) = [each async for each in ledger.sweep(config_of(site), SystemClock(), timeout=2.0)]
    assert (again.ended, again.left, again.strangers) == (1, (), 1)
    assert site.users() == {username(grants[3])}


@NEWEST
async def test_an_upstream_that_does_not_answer_hides_no_other(site: Site) -> None:
    await site.engine({APP: site.role()}).issue(APP, fresh())
    one = config_of(site)
    nowhere = attrs.evolve(one.postgresql["postgresql"], port=1)
    both = attrs.evolve(one, postgresql={"postgresql.down": nowhere, **one.postgresql})

    page = await ledger.find(both, SystemClock(), Search())
    swept = {each.upstream: each async for each in ledger.sweep(both, SystemClock(), timeout=2.0)}

    assert [entry.upstream for entry in page.entries] == ["postgresql"]
    (line,) = page.errors
    assert line.startswith("postgresql.down: ")
    assert swept["postgresql.down"].error.startswith("postgresql.down: ")
    assert swept["postgresql"].error == ""
