"""Roles, schemas and tables that look like ours: nothing is inferred from a name, comment or VALID UNTIL (ADR 1)."""

import psycopg
import pytest

from agent.errors import Forbidden
from tests.integration.postgres.site import NEWEST, ROLE, Site, as_itself, fresh, own_schema, username


@NEWEST
async def test_roles_that_look_like_ours_are_left_alone_whatever_they_carry(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    planted = {
        f"{username(grant)}x": "IN ROLE leasehold_lease",
        f"{username(grant)[:-1]}": "",
        "v_app_readonly_aaaaaaaaaaaa": "VALID UNTIL '2001-01-01'",
        "v_app_readonly_bbbbbbbbbbbb": "VALID UNTIL '2001-01-01' IN ROLE leasehold_lease",
        "leasehold_0123456789abcdef": "IN ROLE leasehold_lease",
        username(grant).upper(): "IN ROLE leasehold_lease",
    }
    for name, how in planted.items():
        any_site.database.execute(f'CREATE ROLE "{name}" LOGIN {how}')
        any_site.database.execute(f"COMMENT ON ROLE \"{name}\" IS 'leasehold lease, expired'")
    any_site.expire(grant)

    swept = await engine.sweep()

    assert swept.reaped == 1
    assert swept.strangers == 4
    left = any_site.database.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY(%s)", list(planted))
    assert {name for (name,) in left} == set(planted)
    assert not any_site.exists(grant)


@NEWEST
async def test_a_role_made_anew_under_a_user_s_name_is_not_touched(site: Site):
    """Somebody drops the user and makes a login of their own: it is not in the marker group."""
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute(f'DROP ROLE "{username(grant)}"')
    site.database.execute(f"CREATE ROLE \"{username(grant)}\" LOGIN PASSWORD 'theirs'")
    site.expire(grant)

    swept = await engine.sweep()

    assert swept.reaped == 0
    (line,) = swept.failed
    assert "taken out of leasehold_lease: it is not touched" in line
    assert site.database.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = %s", username(grant)) == [(True,)]


@NEWEST
async def test_journals_of_a_tenant_s_own_are_never_read(any_site: Site):
    """A table `lease` in public, in a schema of its own, and in its temporary one; rows in them are nobody's leases."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    any_site.database.execute("GRANT CREATE ON SCHEMA public TO PUBLIC")
    grant, victim = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    columns = any_site.database.execute(
        "SELECT string_agg(format('%I %s', attname, format_type(atttypid, atttypmod)), ', ' ORDER BY attnum)"
        " FROM pg_attribute WHERE attrelid = 'leasehold.lease'::regclass AND attnum > 0"
    )[0][0]
    session = as_itself(any_site, grant)
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    for place in ("public.lease", f"{schema}.lease", "pg_temp.lease"):
        session.execute(f"CREATE TABLE {place} ({columns})".encode())
        session.execute(
            f"INSERT INTO {place} (id, role, username, holder, incarnation, expires) VALUES"
            f" (gen_random_uuid(), 'r', '{username(victim)}', 'pod', 1, '2001-01-01')".replace(
                "gen_random_uuid()", "'00000000-0000-0000-0000-000000000001'"
            ).encode()
        )

    swept = await any_site.engine(holder="another").sweep()

    assert (swept.reaped, swept.failed, swept.strangers) == (0, (), 0)
    any_site.log_in(victim).close()
    session.close()
    await engine.revoke(grant.id)
    assert not any_site.exists(grant)


@NEWEST
async def test_a_tenant_that_made_the_journal_s_schema_first_is_found_out(site: Site):
    """With CREATE on the database a tenant of another agent may be there before ours."""
    other = site.engine(schema="elsewhere", holder="another")
    grant = await other.issue(ROLE, fresh())
    site.database.execute(f'GRANT CREATE ON DATABASE {site.database.dbname} TO "{site.database.group}"')
    with site.log_in(grant) as session:
        session.execute("CREATE SCHEMA leasehold")
        session.execute("CREATE TABLE leasehold.lease (id uuid)")

    with pytest.raises(
        Forbidden, match="schema leasehold belongs to another role: it cannot be trusted as the journal"
    ):
        await site.engine().issue(ROLE, fresh())

    await other.revoke(grant.id)
    with pytest.raises(Forbidden, match="schema leasehold belongs to another role"):
        await site.engine().ping()
    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
