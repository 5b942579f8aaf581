"""What a pod needs at a Vault, written under names of its own: mounts, roles, a policy and logins; see VaultSetup.

The statements and the policy are those that an operator would write; what differs in a test are the lengths.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from psycopg import sql

from agent.config.upstreams import MethodType
from tests.fix_postgres import Database
from tests.issuers import Authority, Issuer, ProjectedToken, TokenReviewer
from tests.vault_place import Refused, Reply, VaultPlace

CREATION = "CREATE ROLE \"{{name}}\" LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE \"%s\""
REVOCATION = (
    "DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{{name}}') THEN "
    'ALTER ROLE "{{name}}" NOLOGIN; '
    "PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}'; "
    'DROP ROLE "{{name}}"; END IF; END $$',
)
"""A user that is gone already is no failure: the server would try again for ever, and keep the lease."""
TOKEN_PATHS = {
    "auth/token/lookup-self": ("read",),
    "auth/token/renew-self": ("update",),
    "auth/token/revoke-self": ("update",),
}
LEASE_PATHS = {"sys/leases/renew": ("update",), "sys/leases/revoke": ("update",)}


@dataclass(frozen=True, kw_only=True)
class Way:
    """One way to log in.

    Attributes:
        type: as [auto_auth.method] has it.
        mount: of the login, "auth/…" left out.
        config: [auto_auth.method.config].
        body: what a login sends, made afresh.
        token: the projected token, where there is one.
        certificate: the client certificate and its key, where there is one.
        role_path, role: where the server keeps the login's role, and what was written there; see `write_role`.
    """

    type: MethodType
    mount: str = ""
    config: Mapping[str, str] = field(default_factory=dict)
    body: Callable[[], Mapping[str, Any]] = dict
    token: ProjectedToken | None = None
    certificate: tuple[Path, Path] | None = None
    role_path: str = ""
    role: Mapping[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> dict[str, Any]:
        """[auto_auth.method]."""
        mount = {"mount_path": f"auth/{self.mount}"} if self.mount else {}
        return {"type": self.type, **mount, "config": dict(self.config)}


@dataclass(frozen=True, kw_only=True)
class DatabaseMount:
    """A database engine on one database.

    Attributes:
        mount: its path; `config` is the connection's name there.
    """

    mount: str
    config: str
    database: Database

    def creds(self, role: str = "app") -> str:
        """The leased path of a role."""
        return f"{self.mount}/creds/{role}"

    def static_creds(self, role: str) -> str:
        """The path of a static role's credential."""
        return f"{self.mount}/static-creds/{role}"


class VaultSetup:
    """Writes into one server what one test needs; `undo` removes it.

    Args:
        directory: where the pod's files are put.
    """

    def __init__(self, place: VaultPlace, directory: Path) -> None:
        self.place = place
        self.mark = f"t{secrets.token_hex(4)}"
        self._directory = directory
        self._mounts: list[str] = []
        self._ways: list[str] = []
        self._policies: list[str] = []

    # -- engines -----------------------------------------------------------------------------------------------------

    def mount(self, kind: str, **options: str) -> str:
        """A secrets engine of that type; its path."""
        path = f"{kind}-{self.mark}-{len(self._mounts)}"
        self.place.admin("POST", f"sys/mounts/{path}", {"type": kind, **({"options": options} if options else {})})
        self._mounts.append(path)
        return path

    def database(self, database: Database, *, ttl: float = 3600.0, max_ttl: float = 14400.0) -> DatabaseMount:
        """A database engine with the role "app"; its users may read `reports`."""
        admin = sql.Identifier(database.admin).as_string()
        database.execute(f"GRANT pg_signal_backend TO {admin}")  # to end the sessions of those it revokes
        made = DatabaseMount(mount=self.mount("database"), config="db", database=database)
        where = f"{database.host}:{database.port}/{database.dbname}"
        connection = {
            "plugin_name": "postgresql-database-plugin",
            "connection_url": f"postgresql://{{{{username}}}}:{{{{password}}}}@{where}?sslmode=disable",
            "username": database.admin,
            "password": database.admin_password.reveal(),
            "allowed_roles": ["*"],
        }
        self.place.admin("POST", f"{made.mount}/config/{made.config}", connection)
        self.database_role(made, ttl=ttl, max_ttl=max_ttl)
        return made

    def database_role(
        self, made: DatabaseMount, role: str = "app", *, ttl: float = 3600.0, max_ttl: float = 14400.0, **keys: Any
    ) -> str:
        """Write a role, again where it is there already; its leased path. `keys` replace the statements."""
        written = {
            "db_name": made.config,
            "default_ttl": f"{ttl:g}s",
            "max_ttl": f"{max_ttl:g}s",
            "creation_statements": [CREATION % made.database.group],
            "revocation_statements": list(REVOCATION),
            **keys,
        }
        self.place.admin("POST", f"{made.mount}/roles/{role}", written)
        return made.creds(role)

    def static_role(self, made: DatabaseMount, role: str = "fixed", *, period: float = 60.0) -> str:
        """A user that stays, with a password that the server changes; the path of the credential."""
        user = f"{role}_{made.database.dbname}"
        admin, name = (sql.Identifier(word).as_string() for word in (made.database.admin, user))
        made.database.execute(f"CREATE ROLE {name} LOGIN")
        made.database.execute(f"GRANT {name} TO {admin} WITH ADMIN OPTION")
        statements = ["ALTER ROLE \"{{name}}\" PASSWORD '{{password}}'"]
        written = {"db_name": made.config, "username": user, "rotation_period": f"{period:g}s"}
        self.place.admin("POST", f"{made.mount}/static-roles/{role}", {**written, "rotation_statements": statements})
        return made.static_creds(role)

    def kv(self, version: int = 2) -> str:
        """A key-value engine; its path. Version 2 keeps values below `data/`."""
        path = self.mount("kv", version=str(version))
        if version == 2:
            # OpenBao upgrades a new mount behind its answer, and refuses until it has.
            self.place.wait_for(lambda: self._takes(f"{path}/data/first"))
        return path

    def _takes(self, path: str) -> bool:
        return self.place.ask("POST", path, {"data": {"here": "yes"}}, token=self.place.root).status == 200

    # -- what the pod may --------------------------------------------------------------------------------------------

    def policy(self, *reads: str, more: Mapping[str, Sequence[str]] | None = None) -> str:
        """The least a pod needs that reads these paths; the policy's name."""
        name = f"pod-{self.mark}-{len(self._policies)}"
        self._policies.append(name)
        self.write_policy(name, {**dict.fromkeys(reads, ("read",)), **TOKEN_PATHS, **LEASE_PATHS, **(more or {})})
        return name

    def write_policy(self, name: str, paths: Mapping[str, Sequence[str]]) -> None:
        """Write the policy anew: what is not in `paths` is not allowed any more."""
        stanzas = (
            f'path "{path}" {{\n  capabilities = [{", ".join(f"{one!r}" for one in allowed)}]\n}}\n'.replace("'", '"')
            for path, allowed in paths.items()
        )
        self.place.admin("POST", f"sys/policies/acl/{name}", {"policy": "".join(stanzas)})

    def token(self, *policies: str, **how: Any) -> str:
        """A token with these policies and no other."""
        body = {"policies": list(policies), "no_default_policy": True, **how}
        made: str = self.place.admin("POST", "auth/token/create", body)["auth"]["client_token"]
        return made

    # -- ways to log in ----------------------------------------------------------------------------------------------

    def kubernetes(
        self, reviewer: TokenReviewer, policy: str, *, audience: str = "vault", account: str = "app", **keys: Any
    ) -> Way:
        """auth/kubernetes, asking `reviewer`; `keys` (token_ttl, token_max_ttl, …) are the role's."""
        mount = self._enable("kubernetes")
        server = {
            "kubernetes_host": reviewer.address,
            "kubernetes_ca_cert": reviewer.ca,
            "token_reviewer_jwt": reviewer.token,
            "disable_iss_validation": True,
            "disable_local_ca_jwt": True,
        }
        self.place.admin("POST", f"auth/{mount}/config", server)
        role: dict[str, Any] = {
            "bound_service_account_names": [account],
            "bound_service_account_namespaces": ["default"],
            "audience": audience,
        }
        role |= self._tokens(policy, keys)
        path = self._write(f"auth/{mount}/role/app", role)
        token = self._projected(lambda: reviewer.issuer.service_account_token("default", account, audience=[audience]))
        return Way(
            type="kubernetes",
            mount=mount,
            config={"role": "app", "token_path": str(token.path)},
            body=lambda: {"role": "app", "jwt": token.read()},
            token=token,
            role_path=path,
            role=role,
        )

    def jwt(self, issuer: Issuer, policy: str, *, audience: str = "vault", account: str = "app", **keys: Any) -> Way:
        """auth/jwt with the issuer's key."""
        mount = self._enable("jwt")
        self.place.admin("POST", f"auth/{mount}/config", {"jwt_validation_pubkeys": [issuer.public_pem]})
        role: dict[str, Any] = {
            "role_type": "jwt",
            "user_claim": "sub",
            "bound_subject": f"system:serviceaccount:default:{account}",
            "bound_audiences": [audience],
        }
        role |= self._tokens(policy, keys)
        path = self._write(f"auth/{mount}/role/app", role)
        token = self._projected(lambda: issuer.service_account_token("default", account, audience=[audience]))
        return Way(
            type="jwt",
            mount=mount,
            config={"role": "app", "path": str(token.path)},
            body=lambda: {"role": "app", "jwt": token.read()},
            token=token,
            role_path=path,
            role=role,
        )

    def approle(self, policy: str, *, wrapped: str | None = None, **keys: Any) -> Way:
        """auth/approle; with `wrapped` ("60s") the secret id's file holds a wrapping token that lives so long."""
        mount = self._enable("approle")
        role = self._tokens(policy, keys)
        path = self._write(f"auth/{mount}/role/app", role)
        role_id = self._file(f"{mount}.role-id", self.place.admin("GET", f"{path}/role-id")["data"]["role_id"])
        secret_path = f"{path}/secret-id"
        if wrapped is None:
            secret = self.place.admin("POST", secret_path, {})["data"]["secret_id"]
        else:
            secret = self.place.admin("POST", secret_path, {}, wrap_ttl=wrapped)["wrap_info"]["token"]
        secret_id = self._file(f"{mount}.secret-id", secret)
        config = {"role_id_file_path": str(role_id), "secret_id_file_path": str(secret_id)}
        if wrapped is not None:
            config["secret_id_response_wrapping_path"] = secret_path
        return Way(
            type="approle",
            mount=mount,
            config=config,
            body=lambda: {"role_id": role_id.read_text(), "secret_id": secret_id.read_text()},
            role_path=path,
            role=role,
        )

    def cert(self, authority: Authority, policy: str, *, name: str = "app", **keys: Any) -> Way:
        """auth/cert for clients of that authority; the server must speak TLS."""
        mount = self._enable("cert")
        role: dict[str, Any] = {"certificate": authority.file.read_text(), "allowed_common_names": [name]}
        role |= self._tokens(policy, keys)
        path = self._write(f"auth/{mount}/certs/app", role)
        pair = authority.client(name)
        return Way(
            type="cert",
            mount=mount,
            config={"name": "app", "client_cert": str(pair[0]), "client_key": str(pair[1])},
            body=lambda: {"name": "app"},
            certificate=pair,
            role_path=path,
            role=role,
        )

    def token_file(self, policy: str, **how: Any) -> Way:
        """A token in a file, made as `token` makes it."""
        file = self._file(f"token-{self.mark}-{secrets.token_hex(2)}", self.token(policy, **how))
        return Way(type="token_file", config={"token_file_path": str(file)})

    def log_in(self, way: Way) -> Reply:
        """One login over plain HTTP; status and all are the server's."""
        path = f"auth/{way.mount}/login"
        return self.place.ask("POST", path, dict(way.body()), certificate=way.certificate)

    def write_role(self, way: Way, **keys: Any) -> None:
        """Change what the logins of that way give from now on (token_ttl, token_type, …)."""
        self._write(way.role_path, {**way.role, "token_type": "service", **keys})

    def _enable(self, kind: str) -> str:
        path = f"{kind}-{self.mark}-{len(self._ways)}"
        self.place.admin("POST", f"sys/auth/{path}", {"type": kind})
        self._ways.append(path)
        return path

    @staticmethod
    def _tokens(policy: str, keys: Mapping[str, Any]) -> dict[str, Any]:
        """What every login's role says of the tokens it gives."""
        return {"token_policies": [policy], "token_no_default_policy": True, **keys}

    def _write(self, path: str, role: Mapping[str, Any]) -> str:
        self.place.admin("POST", path, role)
        return path

    def _projected(self, make: Callable[[], str]) -> ProjectedToken:
        return ProjectedToken(self._directory / f"projected-{self.mark}-{len(self._ways)}", make)

    def _file(self, name: str, content: str) -> Path:
        path = self._directory / name
        path.touch(0o600)
        path.write_text(content)
        return path

    # -- afterwards --------------------------------------------------------------------------------------------------

    def undo(self) -> None:
        """Take everything away again, with what is leased there, as far as the server is up and can."""
        if self.place.health() != 200:
            return
        for path in self._mounts:
            # The database may be gone already: nothing is revoked there then.
            self._forget("POST", f"sys/leases/revoke-force/{path}")
            self._forget("DELETE", f"sys/mounts/{path}")
        for path in self._ways:
            self._forget("DELETE", f"sys/auth/{path}")
        for path in self._policies:
            self._forget("DELETE", f"sys/policies/acl/{path}")

    def _forget(self, method: str, path: str) -> None:
        try:
            self.place.admin(method, path)
        except Refused as refused:
            if refused.status >= 500:
                raise
