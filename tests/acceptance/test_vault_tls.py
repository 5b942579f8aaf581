"""TLS to a Vault: its CA, our certificate, a proxy on the way, and certificates that change while the pod lives."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.forward import ForwardProxy
from tests.acceptance.harness import eventually
from tests.acceptance.living import can_log_in, reading, replace, works
from tests.acceptance.scenes import ROLE, file_of, place_of
from tests.fix_postgres import Database
from tests.fix_vault import StartPlace, tls_of
from tests.issuers import Authority, Issuer
from tests.vault_agent import agent_document, vault_of
from tests.vault_place import Tls
from tests.vault_setup import VaultSetup

SESSION = "session:vault"


@pytest.fixture
def forward() -> Iterator[ForwardProxy]:
    """The way out."""
    with ForwardProxy() as one:
        yield one


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_client_certificate_logs_in_through_a_proxy_and_may_be_replaced(
    own_vault_place: StartPlace,
    authority: Authority,
    forward: ForwardProxy,
    database: Database,
    place: Path,
    tmp_path: Path,
    run_agent: RunAgent,
) -> None:
    """R002-012, design.md section 4: custom CA, certificate, explicit proxy; a new certificate is a new login."""
    server = own_vault_place(tls=tls_of(authority))
    setup = VaultSetup(server, tmp_path)
    made = setup.database(database, ttl=60, max_ttl=600)
    way = setup.cert(authority, setup.policy(made.creds()), token_ttl="40s", token_max_ttl="600s")
    keys = {ROLE: {"path": made.creds(), "connection": place_of(database)}}
    vault = vault_of(server, proxy=forward.address)
    agent = run_agent(agent_document(place, vault, way, keys, templates=[file_of(place)])).wait_ready()
    first = agent.read(ROLE)

    with reading(lambda: agent, database, ROLE) as reads:
        authority.client()  # the same files, another certificate
        assert eventually(lambda: len(agent.logged("issued", role=SESSION)) == 2, within=30.0)
        assert eventually(lambda: agent.read(ROLE).username != first.username, within=40.0), agent.role(ROLE)
        assert can_log_in(database, first), "it drains"

    assert reads.dead == []
    assert reads.refused == []
    assert set(forward.asked) == {f"127.0.0.1:{server.port}"}
    assert agent.stop() == 0, agent.stderr
    setup.undo()


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_server_certificate_of_another_ca_is_trusted_as_soon_as_the_file_says_so(
    own_vault_place: StartPlace,
    authority: Authority,
    forward: ForwardProxy,
    issuer: Issuer,
    database: Database,
    place: Path,
    tmp_path: Path,
    run_agent: RunAgent,
) -> None:
    """Until then the report says what is wrong, and what is there is served."""
    tls = tls_of(authority)
    server = own_vault_place(tls=tls)
    setup = VaultSetup(server, tmp_path)
    made = setup.database(database, ttl=12, max_ttl=600)
    way = setup.jwt(issuer, setup.policy(made.creds()), token_ttl="600s", token_max_ttl="3600s")
    keys = {ROLE: {"path": made.creds(), "connection": place_of(database)}}
    trusted = tmp_path / "trusted.pem"
    trusted.write_text(tls.ca.read_text())
    vault = vault_of(server, proxy=forward.address, ca_cert=str(trusted))
    agent = run_agent(agent_document(place, vault, way, keys, templates=[file_of(place)])).wait_ready()
    first = agent.read(ROLE)
    other = Authority(tmp_path / "other", "another CA")

    with reading(lambda: agent, database, ROLE) as reads:
        for old, new in zip((tls.cert, tls.key), other.server(), strict=True):
            replace(old, new.read_text())
        server.reload()
        server.tls = Tls(cert=tls.cert, key=tls.key, ca=other.file)
        assert eventually(lambda: server.health() == 200), "not reloaded"
        forward.cut()
        assert eventually(lambda: "ca_cert" in (agent.role(ROLE)["error"] or "")), agent.role(ROLE)
        assert agent.ask(f"/v1/{ROLE}").status == 200
        replace(trusted, tls.ca.read_text() + other.file.read_text())
        assert eventually(lambda: agent.role(ROLE)["error"] is None), agent.role(ROLE)

    assert reads.dead == []
    assert reads.refused == []
    assert reads.users == [first.username]
    assert works(agent, database, ROLE)
    assert len(agent.logged("issued", role=SESSION)) == 1
    assert agent.stop() == 0, agent.stderr
    setup.undo()
