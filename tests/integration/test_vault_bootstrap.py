"""deploy/vault on a real OpenBao or Vault and a real PostgreSQL: what a first pod needs is there, and no more."""

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from agent.dev.cluster import Binaries
from tests import bootstrap
from tests.bootstrap import ADMIN, GROUP, SPECIAL
from tests.fix_postgres import Database
from tests.fix_vault import make, program
from tests.issuers import Authority, TokenReviewer
from tests.vault_place import Reply, VaultPlace

CREDS = "database/creds/app-readonly"


@pytest.fixture(scope="module")
def server() -> Iterator[VaultPlace]:
    """A real one for this module alone: the script writes at fixed places."""
    one = make("bao")
    one.start()
    yield one
    one.destroy()


class Estate:
    """The script has run."""

    def __init__(
        self, server: VaultPlace, database: Database, reviewer: TokenReviewer, authority: Authority, directory: Path
    ) -> None:
        self.server = server
        self.reviewer = reviewer
        self.database = database
        self.directory = directory / "vault"
        bootstrap.prepare(database, self.directory)
        (self.directory / "reviewer").write_text(reviewer.token)
        self.environment = {
            "KUBERNETES_HOST": reviewer.address,
            "KUBERNETES_CA_FILE": str(authority.file),
            "REVIEWER_TOKEN_FILE": str(self.directory / "reviewer"),
        }
        self.run()

    def run(self, **more: str) -> None:
        """Once (more)."""
        done = bootstrap.run(program(), self.directory, {**self.environment, **more}, at=self.server)
        assert done.returncode == 0, done.stdout + done.stderr

    def log_in(self, namespace: str = "default", name: str = "app", audience: str = "vault") -> Reply:
        """As a pod of that service account."""
        jwt = self.reviewer.issuer.service_account_token(namespace, name, audience=[audience])
        return self.server.ask("POST", "auth/kubernetes/login", {"role": "app-service-role", "jwt": jwt})

    def token(self) -> str:
        """Of the first pod."""
        reply = self.log_in()
        assert reply.status == 200, reply.errors
        token: str = reply.auth["client_token"]
        return token

    def connect(self, data: dict[str, str]) -> "psycopg.Connection[tuple[object, ...]]":
        """An app's login."""
        return psycopg.connect(
            host=self.database.host,
            port=self.database.port,
            dbname=self.database.dbname,
            user=data["username"],
            password=data["password"],
            sslmode="disable",
            autocommit=True,
            connect_timeout=10,
        )


@pytest.fixture
def estate(
    server: VaultPlace,
    binaries: Binaries,
    database: Database,
    token_reviewer: TokenReviewer,
    authority: Authority,
    tmp_path: Path,
) -> Iterator[Estate]:
    if binaries.major < 14:
        pytest.skip("deploy/vault is for PostgreSQL 14 and later")
    yield Estate(server, database, token_reviewer, authority, tmp_path)
    # Users that a test left go before the server forgets how to reach their database.
    server.admin("POST", f"sys/leases/revoke-prefix/{CREDS}", {"sync": True})


def test_a_pod_gets_a_user_whose_end_is_the_end_of_its_sessions(estate: Estate) -> None:
    """R004-005 to R004-007, by a password of which every character must be escaped in a URL."""
    estate.run()
    token = estate.token()

    lease = estate.server.ask("GET", CREDS, token=token)

    assert lease.status == 200, lease.errors
    with estate.connect(lease.data) as app:
        assert app.execute("SELECT current_user, count(*) FROM reports").fetchall() == [(GROUP, 1)]
        renewed = {"lease_id": lease.body["lease_id"], "increment": 600}
        assert estate.server.ask("POST", "sys/leases/renew", renewed, token=token).body["lease_duration"] == 600
        revoked = {"lease_id": lease.body["lease_id"], "sync": True}
        assert estate.server.ask("POST", "sys/leases/revoke", revoked, token=token).status == 204
        with pytest.raises(psycopg.OperationalError):
            app.execute("SELECT 1")
    assert estate.database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", lease.data["username"]) == []


def test_what_an_app_leaves_belongs_to_the_group(estate: Estate) -> None:
    """What it made as the group, and what as itself."""
    estate.database.execute(f"GRANT CREATE ON SCHEMA public TO {GROUP}")
    token = estate.token()
    lease = estate.server.ask("GET", CREDS, token=token)
    with estate.connect(lease.data) as app:
        app.execute("CREATE TABLE kept (id int)")
        app.execute("SET ROLE NONE")
        app.execute("CREATE TABLE its_own (id int)")

        revoked = {"lease_id": lease.body["lease_id"], "sync": True}
        assert estate.server.ask("POST", "sys/leases/revoke", revoked, token=token).status == 204

    owners = estate.database.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE tablename IN ('kept', 'its_own')")
    assert owners == [(GROUP,)]
    assert estate.database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", lease.data["username"]) == []


def test_a_user_that_somebody_dropped_is_no_obstacle_to_its_revocation(estate: Estate) -> None:
    """Neither to its own lease's nor to the next one's below the same prefix."""
    token = estate.token()
    first, second, third = (estate.server.ask("GET", CREDS, token=token) for _ in range(3))
    for gone in (first, second):
        estate.database.execute(f'DROP ROLE "{gone.data["username"]}"')

    revoked = {"lease_id": first.body["lease_id"], "sync": True}
    assert estate.server.ask("POST", "sys/leases/revoke", revoked, token=token).status == 204
    estate.server.admin("POST", f"sys/leases/revoke-prefix/{CREDS}", {"sync": True})

    for lease in (first, second, third):
        asked = {"lease_id": lease.body["lease_id"]}
        assert estate.server.ask("POST", "sys/leases/lookup", asked, token=estate.server.root).status == 400
    assert estate.database.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", third.data["username"]) == []


def test_a_pod_may_do_nothing_else(estate: Estate) -> None:
    """R004-042: not another role, not another's lease, no look around."""
    token = estate.token()
    lease = estate.server.ask("GET", CREDS, token=token).body["lease_id"]
    tried = [
        ("GET", "database/creds/app-admin", None),
        ("GET", "database/roles/app-readonly", None),
        ("GET", "database/roles?list=true", None),
        ("GET", "database/config/postgres", None),
        ("POST", "sys/leases/lookup", {"lease_id": lease}),
        ("POST", "sys/leases/renew", {"lease_id": "database/creds/app-admin/x"}),
        ("POST", "sys/leases/revoke", {"lease_id": "database/creds/app-admin/x"}),
        ("POST", "sys/leases/revoke", {"lease_id": "auth/token/create/x"}),
        ("POST", f"sys/leases/revoke-prefix/{CREDS}", {}),
        ("POST", f"sys/leases/revoke/{lease}", {}),
        ("POST", "auth/token/create", {}),
        ("GET", "sys/mounts", None),
        ("GET", "cubbyhole/x", None),
    ]

    allowed = [
        (method, path)
        for method, path, body in tried
        if estate.server.ask(method, path, body, token=token).status != 403
    ]

    assert allowed == []
    assert estate.server.ask("GET", "auth/token/lookup-self", token=token).data["policies"] == [
        "leasehold-app-readonly"
    ]
    assert estate.server.ask("POST", "auth/token/revoke-self", token=token).status == 204


@pytest.mark.parametrize("who", [{"namespace": "other"}, {"name": "default"}, {"audience": "https://kubernetes"}])
def test_nobody_else_logs_in(estate: Estate, who: dict[str, str]) -> None:
    assert estate.log_in(**who).status in (400, 403)


def test_the_admins_password_can_be_made_unknown(estate: Estate) -> None:
    estate.run(ROTATE_ADMIN="yes")

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        estate.connect({"username": ADMIN, "password": SPECIAL})
    assert estate.server.ask("GET", CREDS, token=estate.token()).status == 200
