"""A visit to a Vault finds each right that is taken away and each one too many by itself, on servers of both kinds."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from agent.clock import SystemClock
from agent.config.model import Method, MethodConfig, Role, Vault
from agent.dev.cluster import Binaries
from agent.engines.finding import Finding, Inspection, Level
from agent.engines.vault.visit import Visit
from agent.errors import NotLoggedIn
from tests.fix_postgres import MAJORS, Database, binaries_of
from tests.fix_vault import StartPlace
from tests.vault_setup import LEASE_PATHS, TOKEN_PATHS, VaultSetup, Way

CAPABILITIES = {"sys/capabilities-self": ("update",)}
NAME = "database/creds/app"
LONG = {"token_ttl": "2h", "token_max_ttl": "48h"}


class Pod:
    """What one pod may do at a server, and its visit there."""

    def __init__(self, setup: VaultSetup, path: str) -> None:
        self.setup = setup
        self.path = path
        self.policy = setup.policy(path, more=CAPABILITIES)
        self.role = Role(upstream="vault", path=path)

    def allow(self, *, without: str = "", more: Mapping[str, tuple[str, ...]] | None = None) -> None:
        """The least policy, with a path less, or with more."""
        paths = {self.path: ("read",), **TOKEN_PATHS, **LEASE_PATHS, **CAPABILITIES, **(more or {})}
        paths.pop(without, None)
        self.setup.write_policy(self.policy, paths)

    @contextlib.asynccontextmanager
    async def visit(self, way: Way, **server: Any) -> AsyncIterator[Visit]:
        """One that ends in order."""
        one = self.begin(way, **server)
        yield one
        assert await one.leave() == ""

    def begin(self, way: Way, **server: Any) -> Visit:
        """One that the test ends itself."""
        config: dict[str, Any] = dict(way.config)
        method = Method(type=way.type, mount_path=way.mount or None, config=MethodConfig(**config))
        vault = evolve(Vault(address=self.setup.place.address), **server)
        return Visit("vault", vault, method, {NAME: self.role}, SystemClock())

    async def look(self, way: Way, **server: Any) -> Inspection:
        async with self.visit(way, **server) as one:
            return await one.inspect()


@pytest.fixture
def binaries() -> Binaries:
    """One PostgreSQL is enough: nothing here asks it."""
    return binaries_of(MAJORS[-1])


@pytest.fixture
def pod(vault_setup: VaultSetup, database: Database) -> Pod:
    return Pod(vault_setup, vault_setup.database(database).creds())


def overwrite(path: str, text: str) -> None:
    Path(path).write_text(text)


def graver(found: Inspection) -> list[Finding]:
    """What is not well."""
    return [one for one in found.findings if one.level is not Level.OK]


async def test_the_least_policy_is_neither_too_little_nor_too_much(pod: Pod) -> None:
    found = await pod.look(pod.setup.approle(pod.policy, **LONG))

    assert graver(found) == []
    assert found.sound
    assert found.reached
    assert {one.subject.split()[0] for one in found.findings} == {"server", "login", "policy"}
    assert found.user.startswith("approle at auth/approle-")


async def test_each_right_that_is_missing_is_named_with_the_line_that_gives_it(pod: Pod) -> None:
    way = pod.setup.approle(pod.policy, **LONG)
    rights = {pod.path: "read", "auth/token/lookup-self": "read", **dict.fromkeys(LEASE_PATHS, "update")}
    rights |= dict.fromkeys(("auth/token/renew-self", "auth/token/revoke-self"), "update")
    soft = {"auth/token/lookup-self", "sys/leases/revoke"}
    for path, right in rights.items():
        pod.allow(without=path)
        visit = pod.begin(way)

        found = await visit.inspect()
        left = await visit.leave()

        (one,) = graver(found)
        assert (one.subject, one.level) == (f"path {path}", Level.WARNING if path in soft else Level.MISSING)
        assert one.remedy == (f'path "{path}" {{ capabilities = ["{right}"] }}',)
        assert found.sound is (path in soft)
        assert bool(left) is (path == "auth/token/revoke-self"), "then the login of the check cannot be ended"
        assert "7200" in left or not left


async def test_what_is_too_much_is_found_however_it_was_given(pod: Pod) -> None:
    """R004-042: wildcards, sudo, and what only administrators need; none of it is a failure."""
    way = pod.setup.approle(pod.policy, **LONG)
    beside = pod.path.rpartition("/")[0]
    everything = ("create", "read", "update", "delete", "list", "sudo")
    cases: list[tuple[dict[str, tuple[str, ...]], list[str]]] = [
        ({f"{beside}/*": ("read",)}, [f"path {beside}/…"]),
        ({pod.path: ("read", "update", "delete")}, [f"path {pod.path}"]),
        ({pod.path: ("read", "sudo")}, [f"path {pod.path}"]),
        ({"sys/policies/acl/*": ("update",)}, ["path sys/policies/acl/"]),
        ({"auth/token/create": ("update",)}, ["path auth/token/create"]),
        ({"*": everything}, ["policy"]),
    ]
    for more, subjects in cases:
        pod.allow(more=more)

        found = await pod.look(way)

        excess = [one for one in found.findings if one.level is Level.TOO_MUCH]
        assert len(excess) == len(subjects), (more, excess)
        assert all(one.subject.startswith(subject) for one, subject in zip(excess, subjects, strict=True)), excess
        assert found.sound


async def test_a_root_token_is_too_much(pod: Pod, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(pod.setup.place.root)
    way = Way(type="token_file", config={"token_file_path": str(file)})

    refused = await pod.look(way)
    accepted = await pod.look(way, accept_endless_token=True)

    assert not refused.reached
    assert "accept_endless_token" in refused.findings[0].text
    assert [one.text for one in accepted.findings if one.level is Level.TOO_MUCH] == [
        'may do anything: it has the policy "root"; give its role a policy of its own'
    ]
    assert pod.setup.place.ask("GET", "auth/token/lookup-self", token=pod.setup.place.root).status == 200, "not ended"


async def test_where_the_policy_lets_nobody_look_that_is_said_and_no_failure(pod: Pod) -> None:
    """As the shipped policy: the trial of each role then shows by doing."""
    pod.allow(without="sys/capabilities-self")

    found = await pod.look(pod.setup.approle(pod.policy, **LONG))

    (one,) = graver(found)
    assert (one.level, one.subject) == (Level.WARNING, "policy")
    assert one.remedy == ('path "sys/capabilities-self" { capabilities = ["update"] }',)


async def test_how_long_a_login_lives_is_found_out(pod: Pod) -> None:
    way = pod.setup.approle(pod.policy, token_ttl="100s", token_max_ttl="300s")

    async with pod.visit(way) as short:
        await short.log_in()
    pod.setup.write_role(way, token_ttl="100s", token_max_ttl="0", token_period="90s")
    async with pod.visit(way) as periodic:
        await periodic.log_in()
    pod.setup.write_role(way, token_ttl="100s", token_max_ttl="300s", token_period="0", token_type="batch")
    async with pod.visit(way) as batch:
        found = await batch.inspect()

    assert (short.facts.ttl, short.facts.renewable, short.facts.period) == (100, True, 0)
    assert 298 <= short.facts.longest <= 300
    assert (periodic.facts.ttl, periodic.facts.period) == (90, 90)
    assert (batch.facts.batch, batch.facts.renewable) == (True, False)
    assert any("batch" in one.text for one in graver(found))


async def test_a_login_that_is_refused_is_told_and_nothing_else_is_asked(pod: Pod) -> None:
    way = pod.setup.approle(pod.policy, **LONG)
    overwrite(way.config["secret_id_file_path"], "no-such-secret-id")

    found = await pod.look(way)

    assert (found.reached, found.sound) == (False, False)
    (one,) = graver(found)
    assert one.subject.startswith("login approle at auth/approle-")
    assert "secret id is wrong" in one.text
    assert "no-such-secret-id" not in one.text


async def test_a_wrapped_secret_id_is_left_to_the_agent(pod: Pod) -> None:
    way = pod.setup.approle(pod.policy, wrapped="60s", **LONG)

    async with pod.visit(way) as one:
        found = await one.inspect()
        with pytest.raises(NotLoggedIn, match="once only"):
            await one.log_in()

    assert (found.reached, found.sound) == (False, True)
    assert [each.text for each in graver(found)] == [
        "was not tried: the secret id is wrapped, and can be unwrapped once only: that is left to the agent"
    ]
    assert pod.setup.place.ask("POST", "sys/wrapping/unwrap", token=way.body()["secret_id"]).status == 200


async def test_a_sealed_server_and_one_that_is_away_are_told_by_address(own_vault_place: StartPlace) -> None:
    """One that serves is enough; where none does, no login is tried."""
    place, away = own_vault_place(), "http://127.0.0.1:1"
    method = Method(type="token_file", config=MethodConfig(token_file_path="/no/such/file"))

    async def looked(address: str, *others: str) -> Inspection:
        visit = Visit("vault", Vault(address=address, fallback_addresses=others), method, {}, SystemClock())
        found = await visit.inspect()
        assert await visit.leave() == ""
        return found

    half = await looked(away, place.address)
    place.seal()
    none = await looked(away, place.address)

    levels = {one.subject: one.level for one in half.findings}
    assert levels[f"server {away}"] is Level.WARNING
    assert levels[f"server {place.address}"] is Level.OK
    assert any(one.subject.startswith("login token file") for one in half.findings)
    assert {one.subject: one.level for one in none.findings} == dict.fromkeys(
        (f"server {away}", f"server {place.address}"), Level.MISSING
    )
    assert "is sealed" in none.findings[1].text
