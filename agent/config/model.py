"""What the configuration file can say: one frozen class per table, each field with its unit and reason.

Only shapes and defaults stand here. `load` reads a file into these classes, `check` says what is wrong with them, and
`agent.app` turns them into the runtime values of the other rooms. No field holds a secret: passwords are read from
files at the moment of use. Key names are Vault Agent's wherever the idea is the same.
"""

from typing import Literal

from attrs import Factory, frozen

from agent.config.units import Duration as Duration
from agent.config.units import Mode as Mode
from agent.config.upstreams import AutoAuth as AutoAuth
from agent.config.upstreams import Method as Method
from agent.config.upstreams import MethodConfig as MethodConfig
from agent.config.upstreams import PostgreSQL as PostgreSQL
from agent.config.upstreams import SslMode as SslMode
from agent.config.upstreams import TokenSink as TokenSink
from agent.config.upstreams import TokenSinkConfig as TokenSinkConfig
from agent.config.upstreams import Vault as Vault
from agent.errors import ConfigError

Allow = tuple[str, ...]
"""Who may: "uid:1000", "gid:2000" or "any"; empty means the agent's own uid alone."""

PROFILES = {"short": 300.0, "service": 3600.0, "batch": 7200.0}
"""Default TTL in seconds by `profile`."""


@frozen(kw_only=True)
class Agent:
    """[agent]: the process.

    Attributes:
        log_level: least level that is logged.
        log_format: "auto" means text on a terminal, JSON elsewhere.
        start_splay: each role's first call is delayed by a random share of this, so that a fleet does not start as one.
        on_stop: "revoke" ends every lease at an orderly stop; "handover" leaves all to the next incarnation.
        state_dir: where live leases are recorded for the next incarnation; a memory volume of the agent alone. None:
            nothing survives.
        state_allow_disk: keep them there although it is not on a memory file system.
        holder: whom the leases are issued for; the host's name (in a pod, the pod's) by default.
        stop_grace: after SIGTERM, go on serving and renewing this long (a plain sidecar's app is still draining).
        stop_timeout: the deadline for everything after the grace; what is left then is named. Kubernetes kills at 30 s.
    """

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"
    start_splay: Duration = Duration(0.0)
    on_stop: Literal["revoke", "handover"] = "revoke"
    state_dir: str | None = None
    state_allow_disk: bool = False
    holder: str | None = None
    stop_grace: Duration = Duration(0.0)
    stop_timeout: Duration = Duration(20.0)


@frozen(kw_only=True)
class Audit:
    """[audit]: who did what to which lease, a JSON line each.

    Attributes:
        file: absolute path, or "stdout". A file is the agent's alone (0600).
        max_size: bytes; a file that would grow beyond is renamed to FILE.1, that to FILE.2, and so on.
        keep: renamed files that are kept.
    """

    file: str
    max_size: int = 10485760
    keep: int = 5


@frozen(kw_only=True)
class UnixListener:
    """[listener.unix]: the socket apps read from.

    Attributes:
        address: absolute path; its directory is made (0750) if missing.
        socket_mode: permission bits of the socket from its first instant.
        socket_user: owner, a name or a number; None keeps the agent's.
        socket_group: group, likewise; the app's group (fsGroup) in a pod.
        allow_admin: who may do what only operators may.
        max_connections: open connections in all.
        max_connections_per_uid: open connections of one uid.
        idle_timeout: a connection without a request is closed after this.
        request_timeout: a request must have arrived whole within this.
        max_header: bytes of a request's head.
        max_body: bytes of a request's body.
    """

    address: str
    socket_mode: Mode = Mode(0o660)
    socket_user: str | None = None
    socket_group: str | None = None
    allow_admin: Allow = ()
    max_connections: int = 1024
    max_connections_per_uid: int = 256
    idle_timeout: Duration = Duration(60.0)
    request_timeout: Duration = Duration(5.0)
    max_header: int = 16384
    max_body: int = 65536


@frozen(kw_only=True)
class HealthListener:
    """[listener.health]: a TCP port for probes, where nobody is known and nothing secret is told.

    Attributes:
        address: "ADDRESS:PORT", a loopback or the pod's address.
        metrics: whether it answers /metrics too, which name roles, upstreams and files.
        max_connections: open connections in all.
    """

    address: str
    metrics: bool = False
    max_connections: int = 64


@frozen(kw_only=True)
class Listener:
    """[listener]: where the agent listens."""

    unix: UnixListener | None = None
    health: HealthListener | None = None


@frozen(kw_only=True)
class Connection:
    """A place to log in to; without user and password, which the lease brings.

    Attributes:
        host: name, address or directory of a Unix socket.
        port: TCP port, or the suffix of the Unix socket's name.
        dbname: database.
        sslmode: libpq's; "require" unless a Unix socket or the file says otherwise.
    """

    host: str
    dbname: str
    port: int = 5432
    sslmode: SslMode = "require"


@frozen(kw_only=True)
class VerifyTarget(Connection):
    """[[role.X.verify]]: where a new credential must be able to log in before it is published.

    Attributes:
        probe: a query that must succeed there, e.g. "SELECT 1 FROM reports LIMIT 0"; none by default.
        sslrootcert: CA file for verify-ca and verify-full.
    """

    probe: str | None = None
    sslrootcert: str | None = None


@frozen(kw_only=True)
class Role:
    """[role."database/creds/app-readonly"]: a name apps ask for, served at /v1/<name>.

    Attributes:
        upstream: "postgresql", "postgresql.NAME", "vault" or "vault.NAME".
        path: at a Vault, below /v1/; None means the role's own name.
        kind: at a Vault: "lease" reads a leased path, "write" issues by writing `parameters` there (pki/issue,
            ssh/sign), "static" follows a static role (database/static-creds), "kv" polls a key-value secret.
        parameters: of a "write", and of a "lease" as the query.
        poll: how often a "kv" or a "static" is looked at; a "static" just after its rotation as well.
        description: what the role is for; for people.
        allow: who may read it.
        allow_rotate: who may ask for its replacement; None means the agent's own uid alone.
        required: readiness waits for it.
        lazy: obtained when first asked for, let go after one idle TTL.
        profile: "short" (5 min), "service" (1 h) or "batch" (2 h) as the default TTL.
        default_ttl: asked for at issue and renewal; None means the profile's, or 1 h.
        max_ttl: renewals end here and the credential is replaced; None means 24 h.
        max_lifetime: our own ceiling beneath that; None means none.
        lease_renewal_threshold: share of the lease after which it is renewed at the latest.
        overlap: the replacement is there this long before the old one ends; None means a quarter of the lease.
        margin: a credential is served until this long before its end; None means min(10 s, 5 %), at least 1 s.
        drain: a replaced credential is revoked after this; None means at its end.
        retries: failed attempts in a row before `on_failed` runs; trying goes on.
        on_failed: command to run then (argument list); it gets the role in LEASEHOLD_ROLE.
        rotate_min_interval: rotate-now is granted at most this often.
        max_leases: none is issued while this many of the role live, whoever holds them; None sets no limit. A pod has
            two while it replaces one.
        lease_warning: say so once when more leases of the role than this live, or have ended and keep their user; 0
            never does.
        connection: what files and socket add to `data` as host, port, dbname and sslmode.
        verify: where to try a new credential; None means the upstream's own server, an empty list means nowhere.
        verify_every: repeat it this often while the lease lives; 0 means never.
        group: NOLOGIN role that holds the privileges and owns what lease users create.
        creation_statements: SQL in place of the default `CREATE ROLE … IN ROLE group`.
        renewal_statements: SQL in place of `ALTER ROLE … VALID UNTIL`.
        revocation_statements: SQL run before the default revocation.
        rollback_statements: SQL run after a failed creation, beyond the transaction's own rollback.
        connection_limit: sessions that one lease's user may have at once; None means as many as the server has.
        password_length: characters.
        password_alphabet: "alnum" (62) or "base64" (64).
        password_bits: at least this much entropy; lengthens the password where needed.
        multiline: allow control characters in values (certificates); refused otherwise.
    """

    upstream: str
    path: str | None = None
    kind: Literal["lease", "write", "static", "kv"] = "lease"
    parameters: dict[str, str] = Factory(dict)
    poll: Duration = Duration(300.0)
    description: str = ""
    allow: Allow = ()
    allow_rotate: Allow | None = None
    required: bool = True
    lazy: bool = False
    profile: Literal["short", "service", "batch"] | None = None
    default_ttl: Duration | None = None
    max_ttl: Duration | None = None
    max_lifetime: Duration | None = None
    lease_renewal_threshold: float = 0.67
    overlap: Duration | None = None
    margin: Duration | None = None
    drain: Duration | None = None
    retries: int = 5
    on_failed: tuple[str, ...] = ()
    rotate_min_interval: Duration = Duration(10.0)
    max_leases: int | None = None
    lease_warning: int = 100
    connection: Connection | None = None
    verify: tuple[VerifyTarget, ...] | None = None
    verify_every: Duration = Duration(0.0)
    group: str | None = None
    creation_statements: tuple[str, ...] = ()
    renewal_statements: tuple[str, ...] = ()
    revocation_statements: tuple[str, ...] = ()
    rollback_statements: tuple[str, ...] = ()
    connection_limit: int | None = None
    password_length: int = 32
    password_alphabet: Literal["alnum", "base64"] = "alnum"  # noqa: S105 - names an alphabet
    password_bits: int | None = None
    multiline: bool = False

    @property
    def at_vault(self) -> bool:
        """Whether a Vault issues it; else the agent mints it itself."""
        return self.upstream.partition(".")[0] == "vault"

    @property
    def ttl(self) -> float:
        """Seconds asked for at issue and renewal: `default_ttl`, else the profile's, else one hour."""
        if self.default_ttl is not None:
            return self.default_ttl
        return PROFILES[self.profile] if self.profile is not None else 3600.0

    @property
    def longest(self) -> float:
        """Seconds after which the upstream renews no more: `max_ttl`, else 24 hours."""
        return self.max_ttl if self.max_ttl is not None else 86400.0


@frozen(kw_only=True)
class Template:
    """[[template]]: one file for the app.

    Attributes:
        destination: absolute path; its directory is made (0750) if missing.
        source: a Jinja template file; or
        contents: the template itself; or
        format: a ready-made one.
        roles: the roles it may use; exactly one for a ready-made format.
        prefix: of the keys of `dotenv` and `shell-export`.
        perms: permission bits.
        user, group: owner, a name or a number.
        allow_disk: write although the destination is not on a memory file system.
    """

    destination: str
    source: str | None = None
    contents: str | None = None
    format: Literal["dotenv", "json", "pgpass", "pg_service", "url", "shell-export"] | None = None
    roles: tuple[str, ...] = ()
    prefix: str = "DB_"
    perms: Mode = Mode(0o440)
    user: str | None = None
    group: str | None = None
    allow_disk: bool = False


@frozen(kw_only=True)
class TemplateConfig:
    """[template_config].

    Attributes:
        render_interval: every file is looked at again this often; equal bytes are not written.
        max_size: bytes one rendering may produce.
    """

    render_interval: Duration = Duration(300.0)
    max_size: int = 1048576


@frozen(kw_only=True)
class Config:
    """A whole configuration file.

    Attributes:
        postgresql: servers by upstream name: "postgresql" for [postgresql], "postgresql.NAME" for [postgresql.NAME].
        vault: clusters by upstream name, likewise: "vault" and "vault.NAME".
        role: roles by name.
    """

    agent: Agent = Factory(Agent)
    audit: Audit | None = None
    listener: Listener = Factory(Listener)
    postgresql: dict[str, PostgreSQL] = Factory(dict)
    vault: dict[str, Vault] = Factory(dict)
    auto_auth: AutoAuth = Factory(AutoAuth)
    role: dict[str, Role] = Factory(dict)
    template: tuple[Template, ...] = ()
    template_config: TemplateConfig = Factory(TemplateConfig)


def method_of(config: Config, upstream: str) -> Method:
    """How the agent logs in at the Vault called `upstream`: with its own method, else with [auto_auth.method].

    Raises:
        ConfigError: with neither; a configuration that was loaded has one.
    """
    method = config.vault[upstream].method or config.auto_auth.method
    if method is None:
        raise ConfigError([f"{upstream}: has no method to log in with; add [auto_auth.method]"])
    return method
