"""The engines for Vault and OpenBao over HTTP, on each kind of server: refusals, secrets, certificates."""

import asyncio

import psycopg
import pytest
from attrs import evolve

from agent.config.model import Duration
from agent.errors import AuthExpired, Forbidden, LeaseEnded, LeaseGone, NotFound, Unfit
from tests.contract.pod import Pod, kept, role

# -- refusals ---------------------------------------------------------------------------------------------------------


async def test_a_403_by_policy_is_told_from_a_403_for_a_dead_login(pod: Pod):
    token = pod.setup.token(pod.setup.policy())
    engine = pod.engine(role(pod.made.creds()), token)

    with pytest.raises(Forbidden, match='capabilities = \\["read"\\]'):
        await engine.issue("role", "proposed")
    await engine.ping()
    pod.setup.place.admin("POST", "auth/token/revoke", {"token": token})
    with pytest.raises(AuthExpired):
        await engine.issue("role", "proposed")
    with pytest.raises(AuthExpired):
        await engine.ping()


async def test_a_login_that_may_not_look_at_itself_is_known_all_the_same(pod: Pod):
    name = pod.setup.policy()
    pod.setup.write_policy(name, {"nothing/here": ("read",)})
    engine = pod.engine(role(pod.made.creds()), pod.setup.token(name))

    with pytest.raises(Forbidden):
        await engine.issue("role", "proposed")
    await engine.ping()


async def test_a_role_that_is_unknown_or_not_allowed_is_said(pod: Pod):
    pod.setup.database_role(pod.made, "other")
    where = f"{pod.made.mount}/config/{pod.made.config}"
    pod.setup.place.admin("POST", where, {"allowed_roles": ["app"], "verify_connection": False})
    root = pod.setup.place.root

    with pytest.raises(NotFound, match="does not know that role"):
        await pod.engine(role(pod.made.creds("nobody")), root).issue("role", "proposed")
    with pytest.raises(NotFound, match="allowed_roles"):
        await pod.engine(role(pod.made.creds("other")), root).issue("role", "proposed")
    with pytest.raises(NotFound, match="nothing at nowhere"):
        await pod.engine(role("nowhere/creds/app"), root).issue("role", "proposed")
    with pytest.raises(Unfit, match='kind = "lease"'):
        await pod.engine(role(pod.made.creds(), kind="write"), root).issue("role", "proposed")


async def test_a_user_that_was_dropped_behind_the_server_is_found_out_by_the_renewal(pod: Pod):
    engine = pod.engine(role(pod.made.creds()), pod.setup.place.root)
    grant = await engine.issue("role", "proposed")
    pod.made.database.execute(f'DROP ROLE "{grant.data["username"].reveal()}"')

    with pytest.raises(LeaseGone):
        await engine.renew(kept(grant), 60.0)


async def test_renewals_near_the_max_ttl_shrink_and_then_end(pod: Pod):
    path = pod.setup.database_role(pod.made, "short", ttl=2.0, max_ttl=2.0)
    engine = pod.engine(role(path), pod.setup.place.root)
    grant = await engine.issue("role", "proposed")
    granted = [grant.ttl]

    async def renew_on() -> None:
        while True:
            granted.append((await engine.renew(kept(grant), 2.0)).ttl)
            await asyncio.sleep(0.1)

    with pytest.raises(LeaseEnded):
        await renew_on()

    assert granted == sorted(granted, reverse=True)
    assert granted[-1] < granted[0]


async def test_a_role_that_asks_for_more_gets_it_with_the_renewal(pod: Pod):
    engine = pod.engine(role(pod.made.creds(), default_ttl=Duration(100.0)), pod.setup.place.root)
    grant = await engine.issue("role", "proposed")

    assert grant.ttl == 60.0
    assert 98 <= (await engine.renew(kept(grant), 60.0)).ttl <= 100


async def test_capabilities_are_those_of_the_policy(pod: Pod):
    engine = pod.engine(
        role(pod.made.creds()),
        pod.setup.token(pod.setup.policy(pod.made.creds(), more={"sys/capabilities-self": ("update",)})),
    )

    found = await engine.capabilities([pod.made.creds(), "sys/leases/revoke", "secret/other"])

    assert found == {pod.made.creds(): ("read",), "sys/leases/revoke": ("update",), "secret/other": ("deny",)}


# -- what is not leased -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [1, 2])
async def test_a_secret_is_read_until_it_is_deleted(pod: Pod, version):
    mount, admin = pod.setup.kv(version), pod.setup.place.admin
    path = f"{mount}/data/app" if version == 2 else f"{mount}/app"
    content = {"k": "v", "n": 1, "deep": {"a": [None]}}
    source = pod.source(role(path, kind="kv"), pod.setup.token(pod.setup.policy(path)))

    admin("POST", path, {"data": content} if version == 2 else content)
    first = await source.fetch("role")
    admin("POST", path, {"data": {"k": "w"}} if version == 2 else {"k": "w"})
    second = await source.fetch("role")
    admin("DELETE", path)
    with pytest.raises(NotFound):
        await source.fetch("role")

    assert {key: value.reveal() for key, value in first.data.items()} == {"k": "v", "n": "1", "deep": '{"a":[null]}'}
    assert first.version != second.version


async def test_a_static_role_tells_when_its_password_changes(pod: Pod):
    path = pod.setup.static_role(pod.made, period=60.0)
    source = pod.source(role(path, kind="static"), pod.setup.token(pod.setup.policy(path)))

    found = await source.fetch("role")

    assert 0 <= found.changes_in <= 60.0
    psycopg.connect(pod.made.database.conninfo(found.data["username"].reveal(), found.data["password"])).close()
    assert (await source.fetch("role")).version == found.version


async def test_a_leased_path_that_is_polled_leaves_no_users(pod: Pod):
    source = pod.source(role(pod.made.creds(), kind="kv"), pod.setup.place.root)

    with pytest.raises(Unfit, match='kind = "lease"'):
        await source.fetch("role")

    users = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 'v-%%' AND pg_has_role(oid, %s, 'member')"
    assert pod.made.database.execute(users, pod.made.database.group) == [(0,)]


# -- certificates -----------------------------------------------------------------------------------------------------


async def test_a_certificate_ends_by_its_expiration(pod: Pod):
    mount, admin = pod.setup.mount("pki"), pod.setup.place.admin
    admin("POST", f"{mount}/root/generate/internal", {"common_name": "ca", "ttl": "1h"})
    admin("POST", f"{mount}/roles/app", {"allowed_domains": "example.com", "allow_subdomains": True, "max_ttl": "30m"})
    asked = {"common_name": "a.example.com", "ttl": "5m"}
    wanted = role(f"{mount}/issue/app", kind="write", parameters=asked, multiline=True)

    grant = await pod.engine(wanted, pod.setup.place.root).issue("role", "proposed")

    assert 290 <= grant.ttl <= 301
    assert (grant.id, grant.parent, grant.renewable) == ("proposed", "", False)
    assert grant.data["certificate"].reveal().startswith("-----BEGIN CERTIFICATE-----\n")
    with pytest.raises(Unfit, match="multiline"):
        await pod.engine(evolve(wanted, multiline=False), pod.setup.place.root).issue("role", "proposed")
    bad = evolve(wanted, parameters={"common_name": "evil"})
    with pytest.raises(Unfit, match="parameters"):
        await pod.engine(bad, pod.setup.place.root).issue("role", "proposed")
