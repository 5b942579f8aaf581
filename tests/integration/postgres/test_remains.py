"""What a user can leave behind, and who has it afterwards."""

import psycopg
import pytest
from psycopg import sql

from agent.errors import Forbidden, Unavailable
from tests.fix_postgres import superuser
from tests.integration.postgres.site import NEWEST, ROLE, Site, as_itself, fresh, own_schema, username

FREE = ("CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'",)


async def test_what_an_application_creates_outlives_its_user(any_site: Site):
    """R000-018: it belongs to the group from the first moment."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with any_site.log_in(grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute(f"INSERT INTO {schema}.made VALUES (7)")

    await engine.revoke(grant.id)

    assert any_site.database.execute(f"SELECT n FROM {schema}.made") == [(7,)]
    owner = any_site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'")
    assert owner == [(any_site.database.group,)]
    assert not any_site.exists(grant)


async def test_what_a_user_created_as_itself_goes_to_its_group_and_never_to_the_admin(any_site: Site):
    """R000-018: a SECURITY DEFINER function of the user would else run with the admin's rights."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n serial)")
        session.execute(f"CREATE VIEW {schema}.seen AS SELECT * FROM {schema}.made")
        session.execute(f"CREATE TYPE {schema}.kind AS ENUM ('a')")
        session.execute(f"CREATE FUNCTION {schema}.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'")

    await engine.revoke(grant.id)

    owners = any_site.database.execute(
        "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace"
        " UNION SELECT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'app'::regnamespace"
        " UNION SELECT pg_get_userbyid(typowner) FROM pg_type WHERE typname = 'kind'"
    )
    assert owners == [(any_site.database.group,)]
    assert not any_site.exists(grant)


async def test_without_a_group_it_goes_to_a_role_that_nobody_is(any_site: Site):
    any_site.database.execute("CREATE SCHEMA app")
    creation = (*FREE, 'GRANT ALL ON SCHEMA app TO "{{name}}"')
    any_site.database.execute(f'GRANT ALL ON SCHEMA app TO "{any_site.user}" WITH GRANT OPTION')
    engine = any_site.engine({ROLE: any_site.role(group=None, creation_statements=creation)})
    for _ in range(2):
        grant = await engine.issue(ROLE, fresh())
        with any_site.log_in(grant) as session:
            session.execute(f"CREATE TABLE app.t_{username(grant)} (n int)")

        await engine.revoke(grant.id)

        assert not any_site.exists(grant)
    owners = any_site.database.execute("SELECT tableowner FROM pg_tables WHERE schemaname = 'app'")
    assert owners == [("leasehold_orphaned",)] * 2
    assert any_site.database.execute("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'leasehold_orphaned'") == [
        (False,)
    ]


@pytest.mark.parametrize("planted", ["LOGIN", "NOLOGIN"])
async def test_an_heir_that_somebody_could_be_gets_nothing(site: Site, planted):
    site.database.execute(f"CREATE ROLE leasehold_orphaned {planted}")
    if planted == "NOLOGIN":
        site.database.execute("CREATE ROLE neighbour NOLOGIN")
        site.database.execute("GRANT leasehold_orphaned TO neighbour")
    site.database.execute("CREATE SCHEMA app")
    site.database.execute(f'GRANT ALL ON SCHEMA app TO "{site.user}" WITH GRANT OPTION')
    creation = (*FREE, 'GRANT ALL ON SCHEMA app TO "{{name}}"')
    engine = site.engine({ROLE: site.role(group=None, creation_statements=creation)})
    grant = await engine.issue(ROLE, fresh())
    with site.log_in(grant) as session:
        session.execute("CREATE TABLE app.made (n int)")

    with pytest.raises(Forbidden, match="role leasehold_orphaned has LOGIN, another attribute or members"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    assert site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [(username(grant),)]


@pytest.mark.parametrize("how", ["itself", "through a membership"])
@pytest.mark.parametrize("attribute", ["CREATEROLE", "CREATEDB", "REPLICATION", "BYPASSRLS"])
async def test_a_group_that_has_got_an_attribute_since_inherits_nothing(site: Site, attribute, how):
    schema, group = own_schema(site), site.database.group
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
    if how == "itself":
        site.database.execute(f'ALTER ROLE "{group}" {attribute}')
    else:
        site.database.execute(f'CREATE ROLE powerful {attribute} ROLE "{group}"')

    await engine.revoke(grant.id)

    owner = site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'")
    assert owner == [("leasehold_orphaned",)]
    assert not site.exists(grant)


async def test_a_session_with_a_temporary_table_does_not_keep_its_user(any_site: Site):
    """R000-019."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    session = as_itself(any_site, grant)
    session.execute("CREATE TEMP TABLE mine (n int)")

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)
    session.close()


async def test_rights_and_objects_in_a_second_database_are_cleared(any_site: Site):
    """D-20: DROP OWNED sees one database only."""
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    user, group = sql.Identifier(username(grant)), sql.Identifier(any_site.database.group)
    with any_site.neighbour("b") as other:
        other.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(any_site.user)))
        other.execute("CREATE SCHEMA app")
        other.execute(sql.SQL("GRANT ALL ON SCHEMA app TO {}, {}").format(user, group))
        with any_site.log_in(grant, other.info.dbname) as session:
            session.execute("SET ROLE NONE")
            session.execute("CREATE TABLE app.made (n int)")

        await engine.revoke(grant.id)

        owner = other.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'").fetchall()
    assert owner == [(any_site.database.group,)]
    assert not any_site.exists(grant)


@NEWEST
async def test_a_second_database_the_admin_may_not_enter_is_named(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    with site.neighbour("b") as other:
        other.execute("CREATE SCHEMA app")
        other.execute(f'GRANT ALL ON SCHEMA app TO "{username(grant)}"')
        name = other.info.dbname
        other.execute(f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
        other.execute(f'ALTER DATABASE "{name}" OWNER TO postgres')

        with pytest.raises(Forbidden, match=f"into database {name}: GRANT CONNECT"):
            await engine.revoke(grant.id)

        other.execute(f'DROP OWNED BY "{username(grant)}"')
        await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_default_privileges_do_not_keep_a_user(any_site: Site):
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    with superuser(any_site.database.cluster, any_site.database.dbname) as conn:
        conn.execute(sql.SQL("SET SESSION AUTHORIZATION {}").format(sql.Identifier(any_site.user)))
        conn.execute(
            sql.SQL("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO {}").format(sql.Identifier(username(grant)))
        )

    await engine.revoke(grant.id)

    assert not any_site.exists(grant)


async def test_a_prepared_transaction_that_is_in_the_way_is_named(any_site: Site):
    schema = own_schema(any_site)
    engine = any_site.engine()
    grant = await engine.issue(ROLE, fresh())
    any_site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(any_site, grant) as session:
        session.execute("BEGIN")
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute("PREPARE TRANSACTION 'two\nphase'")

    with pytest.raises(Unavailable, match=r"two\?phase in database t[0-9a-f]+; COMMIT PREPARED or ROLLBACK") as caught:
        await engine.revoke(grant.id)

    assert username(grant) not in str(caught.value)
    with pytest.raises(psycopg.OperationalError):
        any_site.log_in(grant)
    any_site.database.execute("ROLLBACK PREPARED 'two\nphase'")
    assert (await engine.sweep()).reaped == 1
    assert not any_site.exists(grant)


async def test_a_table_locked_by_somebody_else_delays_only_the_drop(site: Site):
    schema = own_schema(site)
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.as_admin(f'GRANT ALL ON SCHEMA {schema} TO "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
    with superuser(site.database.cluster, site.database.dbname) as reader, reader.transaction():
        reader.execute(f"SELECT * FROM {schema}.made")

        with pytest.raises(Unavailable, match="LockNotAvailable"):
            await engine.revoke(grant.id)

        with pytest.raises(psycopg.OperationalError):
            site.log_in(grant)
    await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_rights_from_another_grantor_are_said_to_remain(site: Site):
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.database.execute(f'GRANT SELECT ON reports TO "{username(grant)}"')

    with pytest.raises(Forbidden, match="granted by another role than the agent's own"):
        await engine.revoke(grant.id)

    with pytest.raises(psycopg.OperationalError):
        site.log_in(grant)
    site.database.execute(f'REVOKE SELECT ON reports FROM "{username(grant)}"')
    await engine.revoke(grant.id)
    assert not site.exists(grant)


async def test_rights_that_the_group_gave_are_taken_back(any_site: Site):
    """A session of one user may, as their group, give rights on the group's tables to another."""
    schema = own_schema(any_site)
    engine = any_site.engine()
    giver, taker = await engine.issue(ROLE, fresh()), await engine.issue(ROLE, fresh())
    with any_site.log_in(giver) as session:
        session.execute(f"CREATE TABLE {schema}.made (n int)")
        session.execute(f'GRANT ALL ON {schema}.made TO "{username(taker)}"')

    await engine.revoke(taker.id)

    assert not any_site.exists(taker)


async def test_an_admin_without_its_group_s_rights_takes_them_when_they_are_needed(site: Site):
    """D-35: CREATEROLE is enough before 16; from 16 on the ADMIN option is, although it gives no rights by itself."""
    group, major = site.database.group, site.database.cluster.major
    site.database.execute(f'REVOKE "{group}" FROM "{site.user}"')
    if major >= 16:
        site.database.execute(f'GRANT "{group}" TO "{site.user}" WITH ADMIN TRUE, INHERIT FALSE, SET FALSE')
    engine = site.engine()
    grant = await engine.issue(ROLE, fresh())
    site.as_admin("CREATE SCHEMA app", f'GRANT ALL ON SCHEMA app TO "{group}", "{username(grant)}"')
    with as_itself(site, grant) as session:
        session.execute("CREATE TABLE app.made (n int)")
        session.execute("CREATE FUNCTION app.f() RETURNS int LANGUAGE sql AS 'SELECT 1'")

    await engine.revoke(grant.id)

    assert site.database.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'made'") == [(group,)]
    assert not site.exists(grant)
