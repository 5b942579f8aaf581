"""VaultLogin over a scripted wire: logging in, and logins that are of no use."""

import asyncio

import pytest

from agent.config.model import Method
from agent.config.upstreams import MethodConfig, Vault
from agent.engines.vault import VaultLogin
from agent.engines.vault.answers import Request
from agent.engines.vault.values import LONGEST
from agent.errors import (
    BadResponse,
    NoIdentity,
    NotFound,
    Unavailable,
)
from agent.identity.proof import Proof
from agent.leases.lease import Secret
from tests.fakes import FakeClock
from tests.unit.engines.vault.logins import (
    JWT,
    KUBERNETES,
    LOGIN,
    RENEW_SELF,
    REVOKE_SELF,
    World,
    lease,
    logged_in,
    login,
)
from tests.unit.engines.vault.scripted import (
    NOTHING,
    FakeIdentity,
    FakeWire,
    bad,
    good,
)

# -- logging in -------------------------------------------------------------------------------------------------------


async def test_a_login_sends_the_proof_and_no_token_and_is_named_by_its_accessor():
    world = World({LOGIN: logged_in()})

    grant = await world.issue()

    assert [(each.call, each.body, each.token) for each in world.wire.sent] == [
        (f"POST {LOGIN}", {"role": "app", "jwt": JWT}, None)
    ]
    assert (grant.id, grant.ttl, grant.renewable, grant.parent) == ("ILskTfMGB9lV", 60.0, True, "")
    assert grant.data == {"token": Secret("hvs.new")}
    assert grant.key == Secret("hvs.new")
    assert world.identity.accepts == 1


async def test_every_login_proves_anew():
    """R004-003, D-09."""
    world = World({LOGIN: logged_in()})
    await world.issue()

    world.identity.proof = Proof(path=LOGIN, body={"role": "app", "jwt": Secret("eyJ.rotated.jwt")})
    await world.issue()

    assert [each.body["jwt"] for each in world.wire.sent if each.body] == [JWT, "eyJ.rotated.jwt"]


async def test_a_login_goes_to_its_own_namespace_with_its_own_certificate_and_so_does_its_renewal():
    proof = Proof(path="auth/cert/login", body={"name": "app"}, certificate=("c.pem", "k.pem"), namespace="team")
    world = World({"auth/cert/login": logged_in(), RENEW_SELF: logged_in(), REVOKE_SELF: NOTHING}, proof=proof)

    grant = await world.issue()
    await world.engine.renew(lease(grant), 60.0)
    await world.engine.revoke(grant.id)

    assert {(each.certificate, each.namespace) for each in world.wire.sent} == {(("c.pem", "k.pem"), "team")}


async def test_a_login_that_was_taken_over_is_kept_with_the_configured_certificate():
    method = Method(type="cert", namespace="team", config=MethodConfig(client_cert="/c.pem", client_key="/k.pem"))
    world = World({RENEW_SELF: logged_in()}, server=Vault(address="https://v:8200", method=method))

    await world.engine.renew(login(), 60.0)

    assert [(each.certificate, each.namespace) for each in world.wire.sent] == [(("/c.pem", "/k.pem"), "team")]


async def test_the_servers_certificate_is_shown_where_the_method_has_none():
    server = Vault(address="https://v:8200", client_cert="/c.pem", client_key="/k.pem", method=Method(type="cert"))
    world = World({RENEW_SELF: logged_in()}, server=server)

    await world.engine.renew(login(), 60.0)

    assert world.wire.sent[0].certificate == ("/c.pem", "/k.pem")


async def test_without_a_proof_nothing_is_sent():
    world = World({LOGIN: logged_in()}, proof=NoIdentity("the token's file is empty"))

    with pytest.raises(NoIdentity, match="file is empty"):
        await world.issue()

    assert world.wire.sent == []


async def test_a_login_without_an_identity_is_a_bug():
    engine = VaultLogin("vault", Vault(address="https://v:8200"), FakeWire({}), clock=FakeClock())

    with pytest.raises(RuntimeError):
        await engine.issue("session:vault", "proposed")


@pytest.mark.parametrize(
    ("answer", "error", "text"),
    [
        (bad(400, 'invalid role name "app"'), NoIdentity, "there is no such role"),
        (bad(400, 'role "app" could not be found'), NoIdentity, "there is no such role"),
        (
            bad(400, "error validating token: invalid audience (aud) claim: audience claim does not match"),
            NoIdentity,
            "another audience",
        ),
        (
            bad(400, "error validating token: invalid expiration time (exp) claim: token is expired"),
            NoIdentity,
            "expired",
        ),
        (bad(400, "error verifying token signature: no known key successfully validated"), NoIdentity, "signed"),
        (bad(400, "error validating token: invalid subject (sub) claim"), NoIdentity, "bound_subject"),
        (bad(403, "service account name not authorized"), NoIdentity, "bound_service_account_names"),
        (bad(400, "invalid role or secret ID"), NoIdentity, "role id or secret id"),
        (bad(400, "could not load configuration"), NoIdentity, "not configured"),
        (bad(400, "invalid certificate or no client certificate supplied"), NoIdentity, "client certificate"),
        (bad(400, 'claim "x" does not match'), NoIdentity, "bound_claims"),
        (bad(403, "permission denied"), NoIdentity, "nothing is mounted there, or the role is not bound"),
        (bad(400, "something new"), NoIdentity, "audit log"),
        (bad(404), NotFound, "check mount_path and namespace"),
    ],
)
async def test_a_refused_login_says_where_and_as_whom_and_what_to_look_at(answer, error, text):
    world = World({LOGIN: answer})

    with pytest.raises(error, match=text) as caught:
        await world.issue()

    said = str(caught.value)
    assert "auth/kubernetes" in said
    assert error is NotFound or 'role "app"' in said
    assert JWT not in said
    assert not any(text in said for text in answer.errors)
    assert world.identity.accepts == 0


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"role_id": Secret("rid"), "secret_id": Secret("sid")}, False),
        ({"role": Secret("rid")}, False),
        ({"name": "web"}, True),
    ],
)
async def test_a_role_is_named_unless_it_is_a_secret(body, named):
    path = "auth/other/login"

    with pytest.raises(NoIdentity) as caught:
        await World({path: bad(400, "invalid role or secret ID")}, proof=Proof(path=path, body=body)).issue()

    assert "rid" not in str(caught.value)
    assert ("as role" in str(caught.value)) is named


@pytest.mark.parametrize(
    "answer",
    [
        good({}),
        good(None, auth="x"),
        logged_in(client_token=""),
        logged_in(client_token="a b"),
        logged_in(client_token="a\r\nX-Evil: 1"),
        logged_in(client_token="ü"),
        logged_in(client_token="a" * 10_000),
        logged_in(client_token=5),
        logged_in(lease_duration=None),
        logged_in(lease_duration="60"),
        logged_in(lease_duration=-1),
        logged_in(lease_duration=1.5),
        logged_in(lease_duration=True),
        NOTHING,
    ],
)
async def test_a_login_that_answers_something_else_is_a_bad_response(answer):
    """D-04, D-27."""
    world = World({LOGIN: answer})

    with pytest.raises(BadResponse):
        await world.issue()

    assert world.identity.accepts == 0


async def test_a_second_factor_is_named():
    with pytest.raises(NoIdentity, match="MFA"):
        await World({LOGIN: logged_in(client_token="", mfa_requirement={"mfa_request_id": "x"})}).issue()


@pytest.mark.parametrize("ttl", [0, LONGEST + 1])
async def test_a_login_without_an_end_is_revoked_and_refused(ttl):
    """D-27."""
    world = World({LOGIN: logged_in(lease_duration=ttl), REVOKE_SELF: NOTHING})

    with pytest.raises(NoIdentity, match="accept_endless_token") as caught:
        await world.issue()

    assert [(each.call, each.token) for each in world.wire.sent[1:]] == [(f"POST {REVOKE_SELF}", "hvs.new")]
    assert not caught.value.outcome_unknown


async def test_a_login_without_an_end_is_taken_where_that_is_configured():
    world = World(
        {LOGIN: logged_in(lease_duration=0)}, server=Vault(address="https://v:8200", accept_endless_token=True)
    )

    grant = await world.issue()

    assert (grant.ttl, grant.renewable) == (LONGEST, False)


async def test_a_login_for_some_calls_only_is_revoked_and_refused():
    world = World({LOGIN: logged_in(num_uses=5), REVOKE_SELF: NOTHING})

    with pytest.raises(NoIdentity, match="token_num_uses = 0"):
        await world.issue()

    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new"]


async def test_what_could_not_be_revoked_when_it_was_refused_is_revoked_by_the_proposed_id():
    world = World({LOGIN: logged_in(num_uses=5), REVOKE_SELF: [Unavailable("down"), NOTHING]})

    with pytest.raises(NoIdentity) as caught:
        await world.issue()
    await world.engine.revoke("proposed")

    assert caught.value.outcome_unknown
    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new", "hvs.new"]


async def test_a_login_whose_caller_left_before_it_was_told_is_revoked_by_the_proposed_id():
    class Slow(FakeIdentity):
        async def accepted(self) -> None:
            raise asyncio.CancelledError

    world = World({LOGIN: logged_in(), REVOKE_SELF: NOTHING})
    world.engine.log_in_as(Slow(KUBERNETES))

    with pytest.raises(asyncio.CancelledError):
        await world.issue()
    await world.engine.revoke("proposed")

    assert [each.token for each in world.wire.to(REVOKE_SELF)] == ["hvs.new"]


async def test_a_login_whose_answer_comes_too_late_is_revoked():
    world = World({LOGIN: logged_in()})
    await world.issue()
    late = world.wire.sent[0].late
    assert late is not None

    assert late(logged_in()) == Request(method="POST", path=REVOKE_SELF, token=Secret("hvs.new"))
    assert late(good({})) is None


async def test_a_batch_token_is_neither_renewed_nor_revoked():
    world = World({LOGIN: logged_in(token_type="batch", accessor="", renewable=False)})

    grant = await world.issue()
    await world.engine.revoke(grant.id)

    assert (grant.id, grant.renewable, grant.key) == ("proposed", False, None)
    assert len(world.wire.sent) == 1


async def test_an_accessor_that_is_none_is_not_used():
    assert (await World({LOGIN: logged_in(accessor="a\nb")}).issue()).id == "proposed"
