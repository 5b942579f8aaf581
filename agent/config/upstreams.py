"""What the configuration file can say of upstreams, and of the logins at Vault and OpenBao; see `model`.

Key names are Vault Agent's wherever the idea is the same.
"""

from typing import Literal

from attrs import Factory, frozen

from agent.config.units import Duration, Mode

MethodType = Literal["kubernetes", "jwt", "approle", "cert", "token_file", "aws", "azure", "gcp"]

SslMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]

SERVICE_ACCOUNT_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"  # noqa: S105 - a path


@frozen(kw_only=True)
class PostgreSQL:
    """[postgresql] or [postgresql.NAME]: a server on which the agent itself mints users.

    Attributes:
        host, port, dbname: where the agent logs in, and where the journal is kept.
        user: the agent's own role: CREATEROLE, not a superuser.
        password_file: read at every login; None where a certificate or the socket's peer identity logs in.
        sslmode: "require" by default; "disable" only for a Unix socket or loopback, said explicitly.
        sslrootcert, sslcert, sslkey: files, as in libpq.
        schema: holds the journal table `lease`; owned by `user`.
        marker_group: every minted role is a member of this NOLOGIN group; only its members are ever dropped.
        username_style: "v" makes v_<role>_<random>, "shub" makes shub_<role>_<8>_<epoch>.
        username_prefix: in place of the style's own "v" or "shub".
        cleanup_interval: expired leases are reaped this often.
        journal_retention: revoked rows are kept this long; they are the audit trail.
        max_calls: calls at once; one while the server cannot be reached.
        connect_timeout: longest wait for a login of the agent's own.
    """

    host: str
    dbname: str
    user: str
    port: int = 5432
    password_file: str | None = None
    sslmode: SslMode = "require"
    sslrootcert: str | None = None
    sslcert: str | None = None
    sslkey: str | None = None
    schema: str = "leasehold"
    marker_group: str = "leasehold_lease"
    username_style: Literal["v", "shub"] = "v"
    username_prefix: str | None = None
    cleanup_interval: Duration = Duration(10.0)
    journal_retention: Duration = Duration(30 * 86400.0)
    max_calls: int = 4
    connect_timeout: Duration = Duration(5.0)


@frozen(kw_only=True)
class MethodConfig:
    """[auto_auth.method.config]: what proves who the pod is; which keys apply depends on the method's type.

    Attributes:
        role: at the login's mount (all but approle, cert and token_file).
        token_path: kubernetes: the projected token; read at every login.
        path: jwt: the file of the token; read at every login.
        role_id_file_path, secret_id_file_path: approle: files.
        secret_id_response_wrapping_path: approle: the secret id's file holds a wrapping token, which must have been
            made at this path, e.g. "auth/approle/role/app/secret-id".
        remove_secret_id_file_after_reading: approle: remove the file once a login with it has succeeded.
        name: cert: the role; None lets the server choose.
        client_cert, client_key: cert: files; None means those of [vault].
        token_file_path: token_file: a file with a token that somebody else renews or replaces.
        header_value: aws: value of X-Vault-AWS-IAM-Server-ID, where the mount asks for it.
        region: aws: of the STS endpoint.
        role_arn, web_identity_token_file: aws: both for IRSA, the file alone for EKS Pod Identity; without either the
            instance's own role is asked for.
        resource: azure: the audience of the token. gcp: likewise, None means "vault/ROLE".
        client_id, tenant_id, federated_token_file: azure: workload identity federation; None means the instance's own.
        service_account: gcp: whose token to ask the metadata server for.
        sts_endpoint, metadata_endpoint, authority_host: aws, azure, gcp: where to ask, in place of the public places.
    """

    role: str | None = None
    token_path: str = SERVICE_ACCOUNT_TOKEN
    path: str | None = None
    role_id_file_path: str | None = None
    secret_id_file_path: str | None = None
    secret_id_response_wrapping_path: str | None = None
    remove_secret_id_file_after_reading: bool = False
    name: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    token_file_path: str | None = None
    header_value: str | None = None
    region: str = "us-east-1"
    role_arn: str | None = None
    web_identity_token_file: str | None = None
    resource: str | None = None
    client_id: str | None = None
    tenant_id: str | None = None
    federated_token_file: str | None = None
    service_account: str = "default"
    sts_endpoint: str | None = None
    metadata_endpoint: str | None = None
    authority_host: str | None = None


_FILES = {
    "kubernetes": ("token_path",),
    "jwt": ("path",),
    "approle": ("role_id_file_path", "secret_id_file_path"),
    "cert": ("client_cert", "client_key"),
    "token_file": ("token_file_path",),
    "aws": ("web_identity_token_file",),
    "azure": ("federated_token_file",),
}
"""Which keys name files, by type."""


@frozen(kw_only=True)
class Method:
    """[auto_auth.method], or [vault.NAME.method]: how the agent logs in.

    Attributes:
        type: which proof is given.
        mount_path: of the login, "auth/kubernetes" or "kubernetes"; None means the type's own name.
        namespace: of the mount; None means the server's.
        config: the proof's particulars.
    """

    type: MethodType
    mount_path: str | None = None
    namespace: str | None = None
    config: MethodConfig = Factory(MethodConfig)

    @property
    def mount(self) -> str:
        """The login's mount below "auth/", such as "kubernetes"."""
        return (self.mount_path or self.type).removeprefix("auth/")

    @property
    def files(self) -> dict[str, str]:
        """Key to path of each file that it reads."""
        found = {key: getattr(self.config, key) for key in _FILES.get(self.type, ())}
        return {key: path for key, path in found.items() if path is not None}


@frozen(kw_only=True)
class TokenSinkConfig:
    """[auto_auth.sink.config].

    Attributes:
        path: absolute; its directory is made (0750) if missing.
        mode: permission bits.
        user, group: owner, a name or a number.
        allow_disk: write although it is not on a memory file system.
    """

    path: str
    mode: Mode = Mode(0o400)
    user: str | None = None
    group: str | None = None
    allow_disk: bool = False


@frozen(kw_only=True)
class TokenSink:
    """[[auto_auth.sink]]: the agent's login token in a file, for an app that must talk to the server itself.

    Attributes:
        type: only "file".
        upstream: whose login.
        wrap_ttl: the file holds a single-use wrapping token that lives this long; 0 writes the token itself.
        config: where.
    """

    config: TokenSinkConfig
    type: Literal["file"] = "file"
    upstream: str = "vault"
    wrap_ttl: Duration = Duration(0.0)


@frozen(kw_only=True)
class AutoAuth:
    """[auto_auth]: the login of every [vault] that has no method of its own."""

    method: Method | None = None
    sink: tuple[TokenSink, ...] = ()


@frozen(kw_only=True)
class Vault:
    """[vault] or [vault.NAME]: a Vault or OpenBao cluster.

    Attributes:
        address: "https://HOST:PORT" of one server, and
        fallback_addresses: of others of the same cluster, tried in turn while the first does not answer.
        namespace: of everything asked there.
        ca_cert: file of the CAs that its certificate is checked against; None means the system's.
        client_cert, client_key: files, for servers that ask for a client certificate.
        tls_server_name: name the certificate must carry, where it is not the address's.
        tls_skip_verify: accept any certificate; never for production.
        proxy: "http://HOST:PORT"; never taken from the environment. Only for addresses with https.
        redirect_hosts: "HOST:PORT" of standbys' redirects to follow with a token, beside the addresses themselves.
        max_calls: calls at once, 4 at most; one while the server cannot be reached.
        connect_timeout: longest wait for a connection to one address.
        accept_endless_token: log in although the token has no end (a root token, say); refused otherwise.
        revoke_on_stop: end our own login at an orderly stop, and with it whatever hangs on it. Never done to a token
            from a token file.
        method: how to log in here; None means [auto_auth.method].
    """

    address: str
    fallback_addresses: tuple[str, ...] = ()
    namespace: str | None = None
    ca_cert: str | None = None
    client_cert: str | None = None
    client_key: str | None = None
    tls_server_name: str | None = None
    tls_skip_verify: bool = False
    proxy: str | None = None
    redirect_hosts: tuple[str, ...] = ()
    max_calls: int = 4
    connect_timeout: Duration = Duration(3.0)
    accept_endless_token: bool = False
    revoke_on_stop: bool = True
    method: Method | None = None
