"""The configuration's words as the other rooms' values."""

from agent.api.access import AllowList, RoleAccess
from agent.config.model import Config, PostgreSQL, Role, Vault, method_of
from agent.leases.schedule import MIN_TTL, Policy


def policy_of(role: Role, *, min_ttl: float = MIN_TTL) -> Policy:
    """The role's configuration as the scheduler's policy."""
    return Policy(
        threshold=role.lease_renewal_threshold,
        overlap=role.overlap,
        margin=role.margin,
        drain=role.drain,
        max_lifetime=role.max_lifetime if role.max_lifetime is not None else float("inf"),
        min_ttl=min_ttl,
        attempts=role.retries,
    )


def certificates_of(config: Config) -> dict[tuple[str, str], str]:
    """The files of certificates by upstream and key."""
    servers: list[tuple[str, PostgreSQL | Vault, tuple[str, str]]]
    servers = [(name, server, ("sslcert", "sslrootcert")) for name, server in config.postgresql.items()]
    servers += [(name, server, ("client_cert", "ca_cert")) for name, server in config.vault.items()]
    found = {(name, key): getattr(server, key) for name, server, keys in servers for key in keys}
    found |= {(name, "method.client_cert"): method_of(config, name).config.client_cert for name in config.vault}
    return {name: path for name, path in found.items() if path not in (None, "system")}


def logins_of(config: Config) -> list[str]:
    """The Vaults at which the agent logs in: those that a role or a token sink asks for."""
    used = {role.upstream for role in config.role.values()} | {sink.upstream for sink in config.auto_auth.sink}
    return [name for name in config.vault if name in used]


def access_of(role: Role, own_uid: int) -> RoleAccess:
    """Who may read and rotate the role, and what its answers add."""
    place = role.connection
    return RoleAccess(
        read=AllowList.parse(role.allow, own_uid),
        rotate=AllowList.parse(role.allow_rotate or (), own_uid),
        rotate_min_interval=role.rotate_min_interval,
        lazy=role.lazy,
        connection=None
        if place is None
        else {"host": place.host, "port": place.port, "dbname": place.dbname, "sslmode": place.sslmode},
    )
