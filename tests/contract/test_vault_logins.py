"""The login engine for Vault and OpenBao over HTTP, on each kind of server."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.clock import SystemClock
from agent.config.model import Vault
from agent.engines.vault import VaultLogin
from agent.engines.vault.wire import HttpWire
from agent.errors import LeaseGone, NoIdentity, NotFound
from tests.acceptance.harness import eventually
from tests.contract.pod import SESSION, Pod, kept, role
from tests.issuers import Issuer
from tests.vault_setup import Way


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
    # The server answers before it has ended what hung on the login.
    user = lease.data["username"].reveal()
    rows = "SELECT 1 FROM pg_roles WHERE rolname = %s"
    assert await asyncio.to_thread(eventually, lambda: not pod.made.database.execute(rows, user))
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
