"""A hostile tenant: what a lease's user may make, and what is compared to see that it gained nothing."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import psycopg

from agent.engines.postgres import PostgresEngine
from agent.leases.lease import Grant
from tests.integration.postgres.site import ROLE, Site, as_itself, fresh, lease, username

SOON = 2.0
"""Seconds that each step of another's lease may take, whatever the tenant does."""

Session = psycopg.Connection[tuple[Any, ...]]

# Whatever runs these tells under whose name it did: `caught` stays empty unless somebody walks into a trap.
_TRAPS = (
    "CREATE FUNCTION app.trap() RETURNS int LANGUAGE plpgsql AS"
    " $$BEGIN INSERT INTO public.caught VALUES (current_user, session_user); RETURN 1; END$$",
    "CREATE FUNCTION app.still() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT app.trap()'",
    "CREATE FUNCTION app.definer() RETURNS int LANGUAGE plpgsql SECURITY DEFINER AS"
    " $$BEGIN INSERT INTO public.caught VALUES (current_user, session_user); RETURN 1; END$$",
    "CREATE FUNCTION app.on_row() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN PERFORM app.trap(); RETURN NULL; END$$",
    "CREATE PROCEDURE app.doing() LANGUAGE sql AS 'SELECT app.trap()'",
    "CREATE TYPE app.thing AS (n int)",
    "CREATE FUNCTION app.to_text(app.thing) RETURNS text LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM app.trap(); RETURN ''; END$$",
    "CREATE CAST (app.thing AS text) WITH FUNCTION app.to_text(app.thing) AS IMPLICIT",
    "CREATE FUNCTION app.same(app.thing, app.thing) RETURNS bool LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM app.trap(); RETURN true; END$$",
    "CREATE OPERATOR app.= (LEFTARG = app.thing, RIGHTARG = app.thing, FUNCTION = app.same)",
    "CREATE FUNCTION app.add(int, int) RETURNS int LANGUAGE sql AS 'SELECT app.trap()'",
    "CREATE AGGREGATE app.total (int) (SFUNC = app.add, STYPE = int, INITCOND = '0')",
    "CREATE DOMAIN app.judged AS int CHECK (app.still() > 0)",
    "CREATE TABLE app.made (n int DEFAULT app.trap(), g int GENERATED ALWAYS AS (app.still()) STORED, t app.thing)",
    "CREATE INDEX ON app.made (app.still())",
    "CREATE STATISTICS app.counted ON n, g FROM app.made",
    "ALTER TABLE app.made ADD CHECK (app.still() > 0)",
    "ALTER TABLE app.made ENABLE ROW LEVEL SECURITY",
    "ALTER TABLE app.made FORCE ROW LEVEL SECURITY",
    "CREATE POLICY trap ON app.made USING (app.trap() > 0)",
    "CREATE TRIGGER trap AFTER INSERT ON app.made FOR EACH ROW EXECUTE FUNCTION app.on_row()",
    "CREATE RULE trap AS ON DELETE TO app.made DO ALSO SELECT app.trap()",
    "CREATE VIEW app.seen AS SELECT app.trap()",
    "CREATE MATERIALIZED VIEW app.kept AS SELECT app.still() WITH NO DATA",
    "CREATE SEQUENCE app.counter",
    'CREATE COLLATION app.plain FROM "C"',
    "CREATE TEXT SEARCH CONFIGURATION app.words (COPY = pg_catalog.simple)",
    "CREATE TEXT SEARCH DICTIONARY app.roots (TEMPLATE = pg_catalog.simple)",
    "SELECT lo_create(0)",
)
_POSSESSIONS = (
    "CREATE SCHEMA {db}_own",
    "CREATE TABLE {db}_own.t (n int)",
    "CREATE PUBLICATION {db}_told FOR TABLE app.made",
    "CREATE SERVER {db}_far FOREIGN DATA WRAPPER {db}_wrapper",
    "CREATE USER MAPPING FOR CURRENT_USER SERVER {db}_far",
    "CREATE USER MAPPING FOR PUBLIC SERVER {db}_far",
    "CREATE FOREIGN TABLE app.far (n int) SERVER {db}_far",
    "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC",
    'ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT ALL ON FUNCTIONS TO "{group}"',
    'GRANT ALL ON app.made TO PUBLIC, "{group}", leasehold_lease, "{sibling}", "{admin}"',
    'GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA app TO "{admin}" WITH GRANT OPTION',
)
_ALIVE = (
    "LISTEN bait",
    "CREATE TEMP TABLE lease (id uuid)",
    "SELECT pg_advisory_lock(n) FROM generate_series(1, 500) n",
    "BEGIN",
    "DECLARE held CURSOR WITH HOLD FOR SELECT * FROM app.made",
    "COMMIT",
)

REFUSED = (
    "SELECT * FROM leasehold.lease",
    "INSERT INTO leasehold.lease (id) VALUES ('00000000-0000-0000-0000-000000000000')",
    "UPDATE leasehold.lease SET expires = 'infinity'",
    "TRUNCATE leasehold.lease",
    "LOCK TABLE leasehold.lease",
    "ALTER TABLE leasehold.lease OWNER TO CURRENT_USER",
    "CREATE RULE trap AS ON UPDATE TO leasehold.lease DO INSTEAD NOTHING",
    "CREATE TRIGGER trap AFTER INSERT ON leasehold.lease FOR EACH ROW EXECUTE FUNCTION app.on_row()",
    "CREATE POLICY trap ON leasehold.lease USING (true)",
    "CREATE TABLE leasehold.other (n int)",
    "CREATE FUNCTION leasehold.clock_timestamp() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "ALTER SCHEMA leasehold RENAME TO mine",
    "DROP SCHEMA leasehold CASCADE",
    "COMMENT ON TABLE leasehold.lease IS 'mine'",
    "CREATE TABLE app.heir () INHERITS (leasehold.lease)",
    "CREATE TABLE app.referring (id uuid REFERENCES leasehold.lease)",
    "SELECT rolpassword FROM pg_authid",
    "SELECT * FROM pg_shadow",
    'SET SESSION AUTHORIZATION "{admin}"',
    'SET ROLE "{admin}"',
    'SET ROLE "{sibling}"',
    "SET session_replication_role = replica",
    'GRANT "{group}" TO "{sibling}"',
    'GRANT "{group}" TO CURRENT_USER WITH ADMIN OPTION',
    'GRANT leasehold_lease TO "{admin}"',
    'GRANT "{admin}" TO CURRENT_USER',
    "GRANT pg_signal_backend TO CURRENT_USER",
    "REVOKE leasehold_lease FROM CURRENT_USER",
    'REVOKE leasehold_lease FROM "{sibling}"',
    "ALTER ROLE CURRENT_USER CREATEROLE",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "ALTER ROLE CURRENT_USER VALID UNTIL 'infinity'",
    "ALTER ROLE CURRENT_USER CONNECTION LIMIT -1",
    "ALTER ROLE CURRENT_USER RENAME TO somebody",
    "ALTER ROLE CURRENT_USER SET session_replication_role = replica",
    "ALTER ROLE CURRENT_USER SET session_preload_libraries = 'evil'",
    "ALTER ROLE CURRENT_USER SET event_triggers = off",
    "ALTER ROLE \"{admin}\" PASSWORD 'own'",
    'ALTER ROLE "{admin}" SET search_path = app',
    "ALTER ROLE \"{sibling}\" PASSWORD 'own'",
    'ALTER ROLE "{sibling}" SET role = none',
    "ALTER ROLE ALL SET search_path = app",
    'ALTER DATABASE "{db}" SET search_path = app',
    "COMMENT ON ROLE \"{sibling}\" IS 'mine'",
    "CREATE ROLE another",
    'DROP ROLE "{sibling}"',
    'REASSIGN OWNED BY "{admin}" TO CURRENT_USER',
    'DROP OWNED BY "{admin}"',
    'ALTER DEFAULT PRIVILEGES FOR ROLE "{admin}" GRANT ALL ON TABLES TO PUBLIC',
    'ALTER TABLE app.made OWNER TO "{admin}"',
    'ALTER FUNCTION app.definer() OWNER TO "{admin}"',
    'CREATE SCHEMA planted AUTHORIZATION "{admin}"',
    "CREATE EVENT TRIGGER at_drop ON sql_drop EXECUTE FUNCTION public.on_event()",
    "CREATE EVENT TRIGGER at_login ON login EXECUTE FUNCTION public.on_event()",
    "CREATE FUNCTION app.c() RETURNS int LANGUAGE c AS 'evil', 'evil'",
    "CREATE FOREIGN DATA WRAPPER mine",
    "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 password=x' PUBLICATION p WITH (connect = false)",
    "CREATE PUBLICATION everything FOR ALL TABLES",
    "CREATE DATABASE mine",
    "ALTER SYSTEM SET log_statement = 'all'",
    "COPY app.made TO PROGRAM 'true'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_reload_conf()",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{admin}'",
    "SELECT pg_create_physical_replication_slot('mine')",
    "LOAD 'evil'",
)


@dataclass(frozen=True, kw_only=True)
class Powers:
    """Who has what: roles, memberships, and every object by catalog and oid with its owner and its rights."""

    roles: frozenset[tuple[Any, ...]]
    memberships: tuple[tuple[Any, ...], ...]
    objects: dict[tuple[str, int], tuple[str, str]]

    def owned_by(self, *owners: str) -> set[tuple[str, int]]:
        """What they own."""
        return {key for key, (owner, _) in self.objects.items() if owner in owners}


_ROLES = (
    "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,"
    " rolconnlimit, rolvaliduntil::text, rolconfig::text, md5(coalesce(rolpassword, '')) FROM pg_authid a"
    " LEFT JOIN LATERAL (SELECT setconfig::text AS rolconfig FROM pg_db_role_setting WHERE setrole = a.oid) s ON true"
)
# The server makes these for sessions with temporary tables, and keeps them for the next.
_LASTING = " AND nspname !~ '^pg_(toast_)?temp_'"
_OBJECTS = " UNION ALL ".join(
    f"SELECT '{catalog}', oid::bigint, pg_get_userbyid({owner}), coalesce({acl}::text, '') FROM {catalog} o"
    " WHERE NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = o.oid AND d.deptype = 'e')"
    f"{_LASTING if catalog == 'pg_namespace' else ''}"
    for catalog, owner, acl in (
        ("pg_class", "relowner", "relacl"),
        ("pg_proc", "proowner", "proacl"),
        ("pg_type", "typowner", "typacl"),
        ("pg_namespace", "nspowner", "nspacl"),
        ("pg_database", "datdba", "datacl"),
        ("pg_language", "lanowner", "lanacl"),
        ("pg_largeobject_metadata", "lomowner", "lomacl"),
        ("pg_foreign_data_wrapper", "fdwowner", "fdwacl"),
        ("pg_foreign_server", "srvowner", "srvacl"),
        ("pg_default_acl", "defaclrole", "defaclacl"),
        ("pg_operator", "oprowner", "NULL"),
        ("pg_collation", "collowner", "NULL"),
        ("pg_statistic_ext", "stxowner", "NULL"),
        ("pg_ts_config", "cfgowner", "NULL"),
        ("pg_ts_dict", "dictowner", "NULL"),
        ("pg_publication", "pubowner", "NULL"),
        ("pg_event_trigger", "evtowner", "NULL"),
    )
)


def powers(site: Site) -> Powers:
    """As things are now."""
    return Powers(
        roles=frozenset(site.database.execute(_ROLES)),
        memberships=tuple(site.memberships()),
        objects={(catalog, oid): (owner, acl) for catalog, oid, owner, acl in site.database.execute(_OBJECTS)},
    )


def be_generous(site: Site) -> None:
    """Give the group all that an operator might, short of a role's attributes."""
    words = {"db": site.database.dbname, "group": site.database.group}
    site.as_admin("CREATE SCHEMA app", f'GRANT ALL ON SCHEMA app TO "{site.database.group}"')
    for statement in (
        "CREATE TABLE public.caught (as_user text, in_session text)",
        "GRANT INSERT ON public.caught TO PUBLIC",
        "GRANT CREATE, TEMP ON DATABASE {db} TO {group}",
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "CREATE FOREIGN DATA WRAPPER {db}_wrapper",
        "GRANT USAGE ON FOREIGN DATA WRAPPER {db}_wrapper TO {group}",
        "CREATE FUNCTION public.on_event() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
    ):
        site.database.execute(statement.format(**words))


def words_of(site: Site, sibling: Grant) -> dict[str, str]:
    """For the braces of the statements here."""
    database = site.database
    return {"db": database.dbname, "group": database.group, "admin": site.user, "sibling": username(sibling)}


def arm(site: Site, grant: Grant, sibling: Grant) -> Session:
    """The tenant lays its traps and keeps a session open that holds what a session can hold."""
    session = as_itself(site, grant)
    for statement in (*_TRAPS, *_POSSESSIONS, *_ALIVE):
        session.execute((statement if statement in _TRAPS else statement.format(**words_of(site, sibling))).encode())
    return session


def caught(site: Site) -> list[tuple[Any, ...]]:
    """Who walked into a trap."""
    return site.database.execute("SELECT * FROM public.caught")


async def others_live_on(site: Site, engine: PostgresEngine) -> None:
    """A lease from its issue to its end, and another reaped, each step within the usual time."""
    took: dict[str, float] = {}

    @contextlib.contextmanager
    def timed(step: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        took[step] = time.monotonic() - began

    with timed("issue"):
        grant = await engine.issue(ROLE, fresh())
    with timed("renew"):
        await engine.renew(lease(grant), 60.0)
    with timed("revoke"):
        await engine.revoke(grant.id)
    expired = await engine.issue(ROLE, fresh())
    site.expire(expired)
    with timed("sweep"):
        swept = await engine.sweep()
    assert swept.reaped == 1
    assert not site.exists(grant)
    assert {step: seconds for step, seconds in took.items() if seconds > SOON} == {}
