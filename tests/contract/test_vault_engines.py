"""The engines for Vault and OpenBao over HTTP, on each kind of server: logins, refusals, static roles and secrets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from attrs import evolve

from agent import identity
from agent.clock import SystemClock
from agent.config.model import Duration, Role, Vault
from agent.config.upstreams import Method, MethodConfig
from agent.engines.vault import VaultEngine, VaultLogin, VaultSource
from agent.engines.vault.wire import HttpWire
from agent.errors import AuthExpired, Forbidden, LeaseEnded, LeaseGone, NoIdentity, NotFound, Unfit
from agent.leases.lease import Grant, Lease, Secret
from tests.contract.on_vault import OneLogin
from tests.fix_postgres import Database
from tests.issuers import Issuer
from tests.vault_setup import DatabaseMount, VaultSetup, Way

SESSION = "session:vault"


@dataclass(kw_only=True)
class Pod:
    """What a pod's agent has of one server; `made` is a database there."""

    setup: VaultSetup
    made: DatabaseMount
    wire: HttpWire

    def login(self, way: Way, **server: bool) -> VaultLogin:
        method = Method(
            type=way.type,
            mount_path=f"auth/{way.mount}" if way.mount else None,
            config=MethodConfig(**way.config),  # type: ignore[arg-type]
        )
        found = Vault(address=self.setup.place.address, method=method, **server)  # type: ignore[arg-type]
        login = VaultLogin("vault", found, self.wire, clock=SystemClock())
        login.log_in_as(identity.build(method, server=found, clock=SystemClock(), unwrap=login.unwrap))
        return login

    def engine(self, role: Role, token: str) -> VaultEngine:
        server = Vault(address=self.setup.place.address)
        return VaultEngine("vault", server, {"role": role}, self.wire, OneLogin(Secret(token)), SystemClock())

    def source(self, role: Role, token: str) -> VaultSource:
        return VaultSource("vault", {"role": role}, self.wire, OneLogin(Secret(token)))

    def knows(self, token: Secret) -> bool:
        return self.setup.place.ask("GET", "auth/token/lookup-self", token=token.reveal()).status == 200


@pytest.fixture
async def pod(vault_setup: VaultSetup, database: Database) -> AsyncIterator[Pod]:
    """A database with the role "app" at the server, and the way there."""
    made = await asyncio.to_thread(vault_setup.database, database, ttl=60.0, max_ttl=120.0)
    wire = HttpWire("vault", Vault(address=vault_setup.place.address), SystemClock())
    yield Pod(setup=vault_setup, made=made, wire=wire)
    await wire.close()


def kept(grant: Grant) -> Lease:
    return Lease(first=grant, last=grant, issued_at=0.0, granted_at=0.0, jitter=0.0)


def role(path: str, **keys: Any) -> Role:
    return evolve(Role(upstream="vault", path=path), **keys)


# -- logins -----------------------------------------------------------------------------------------------------------


async def test_a_login_is_renewed_and_ends_with_what_hangs_on_it(pod: Pod, issuer: Issuer):
    """R002-011, R004-003: with a projected token, without any other credential."""
    way = pod.setup.jwt(issuer, pod.setup.policy(pod.made.creds()), token_ttl="60s")
    login = pod.login(way)

    grant = await login.issue(SESSION, "proposed")
    renewed = await login.renew(kept(grant), 60.0)
    lease = await pod.engine(role(pod.made.creds()), grant.data["token"].reveal()).issue("role", "proposed")
    await login.revoke(grant.id)

    assert (grant.ttl, renewed.ttl) == (60.0, 60.0)
    assert grant.renewable
    assert renewed.id == grant.id != "proposed"
    assert not pod.knows(grant.data["token"])
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(pod.made.database.conninfo(lease.data["username"].reveal(), lease.data["password"]))
    with pytest.raises(LeaseGone):
        await login.renew(kept(grant), 60.0)
    await login.ping()


async def test_a_login_by_approle_opens_its_wrapped_secret_id_once(pod: Pod):
    """R002-011, D-31: another login takes the secret id that is known, not the wrapping token again."""
    way = pod.setup.approle(pod.setup.policy(), wrapped="60s", token_ttl="60s")
    login = pod.login(way)

    first = await login.issue(SESSION, "proposed")
    second = await login.issue(SESSION, "proposed-2")

    assert first.id != second.id
    with pytest.raises(NoIdentity, match="wrapping token"):
        await pod.login(way).issue(SESSION, "proposed")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda way: {"role": "nobody"}, "there is no such role"),
        (lambda way: {"jwt": way.token.read() + "x"}, "does not know the key that signed"),
    ],
    ids=["role", "signature"],
)
async def test_a_login_that_is_not_accepted_says_why(
    pod: Pod, issuer: Issuer, tmp_path: Path, break_it: Callable[[Way], dict[str, str]], says: str
):
    way = pod.setup.jwt(issuer, pod.setup.policy())
    broken = break_it(way)
    config = dict(way.config)
    if "jwt" in broken:
        head, body, _ = broken["jwt"].split(".")
        (tmp_path / "forged").write_text(f"{head}.{body}.{'A' * 342}")
        config["path"] = str(tmp_path / "forged")
    else:
        config |= broken
    login = pod.login(Way(type="jwt", mount=way.mount, config=config))

    with pytest.raises(NoIdentity, match=says):
        await login.issue(SESSION, "proposed")


async def test_a_login_for_another_audience_says_so(pod: Pod, issuer: Issuer):
    way = pod.setup.jwt(issuer, pod.setup.policy(), bound_audiences=["somebody-else"])

    with pytest.raises(NoIdentity, match="audience"):
        await pod.login(way).issue(SESSION, "proposed")


async def test_a_login_at_no_mount_says_so(pod: Pod, issuer: Issuer):
    way = pod.setup.jwt(issuer, pod.setup.policy())

    with pytest.raises((NoIdentity, NotFound), match="mounted"):
        await pod.login(Way(type="jwt", mount="nowhere", config=way.config)).issue(SESSION, "proposed")


async def test_a_login_for_some_calls_only_is_refused_and_ended(pod: Pod):
    way = pod.setup.approle(pod.setup.policy(), token_ttl="60s", token_num_uses=5)

    with pytest.raises(NoIdentity, match="token_num_uses = 0") as caught:
        await pod.login(way).issue(SESSION, "proposed")

    assert not caught.value.outcome_unknown


async def test_a_batch_token_is_used_until_its_end(pod: Pod):
    way = pod.setup.approle(pod.setup.policy(), token_ttl="60s", token_type="batch")
    login = pod.login(way)

    grant = await login.issue(SESSION, "proposed")
    await login.revoke(grant.id)

    assert (grant.id, grant.renewable, grant.key) == ("proposed", False, None)
    assert pod.knows(grant.data["token"])


async def test_a_token_from_a_file_is_renewed_to_its_own_length_and_left_alive(pod: Pod):
    way = pod.setup.token_file(pod.setup.policy(), ttl="60s", explicit_max_ttl="300s")
    login = pod.login(way)

    grant = await login.issue(SESSION, "proposed")
    renewed = await login.renew(kept(grant), 5.0)
    await login.revoke(grant.id)

    assert 55 <= grant.ttl <= 60
    assert 290 <= grant.max_ttl <= 300
    assert renewed.ttl >= 59
    assert pod.knows(grant.data["token"])


async def test_a_token_without_an_end_is_refused_unless_that_is_configured(pod: Pod, tmp_path: Path):
    """D-27."""
    (tmp_path / "root").write_text(pod.setup.place.root)
    way = Way(type="token_file", config={"token_file_path": str(tmp_path / "root")})

    with pytest.raises(NoIdentity, match="accept_endless_token"):
        await pod.login(way).issue(SESSION, "proposed")
    grant = await pod.login(way, accept_endless_token=True).issue(SESSION, "proposed")

    assert not grant.renewable


async def test_a_login_can_be_wrapped_and_opened_once(pod: Pod):
    login = pod.login(pod.setup.approle(pod.setup.policy(more={"sys/wrapping/wrap": ("update",)}), token_ttl="60s"))
    token = (await login.issue(SESSION, "proposed")).data["token"]

    wrapped = await login.wrap(token, 60.0)

    assert await login.unwrap(wrapped, "sys/wrapping/wrap") == {"token": token}
    with pytest.raises(NoIdentity):
        await login.unwrap(wrapped, "sys/wrapping/wrap")


async def test_a_ping_asks_in_the_topmost_namespace(pod: Pod):
    server = Vault(address=pod.setup.place.address, namespace="nowhere/")
    wire = HttpWire("vault", server, SystemClock())

    await VaultLogin("vault", server, wire, clock=SystemClock()).ping()

    await wire.close()


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
