"""Who the pod is: `build` makes the Identity that a [auto_auth.method] describes."""

from agent.clock import Clock
from agent.config.upstreams import Method, Vault
from agent.errors import ConfigError
from agent.identity.proof import Identity, Unwrap


def build(method: Method, *, server: Vault, clock: Clock, unwrap: Unwrap) -> Identity:
    """The identity for one method. Reads nothing and asks nobody yet; takes nothing from the environment.

    Args:
        server: whose client certificate stands in where the cert method names none.
        unwrap: opens wrapping tokens at that server.

    Raises:
        ConfigError: a key is missing that the method's type cannot do without.
    """
    match method.type:
        case "kubernetes" | "jwt" | "token_file":
            return _token(method, clock)
        case "approle":
            from agent.identity.approle import AppRole

            return AppRole(method, _needed(method.config.role_id_file_path, "role_id_file_path"), clock, unwrap)
        case "cert":
            from agent.identity.certificate import CertificateIdentity

            certificate = _needed(method.config.client_cert or server.client_cert, "client_cert")
            return CertificateIdentity(
                method, certificate, _needed(method.config.client_key or server.client_key, "client_key"), clock
            )
        case "aws" | "azure" | "gcp":
            return _cloud(method, clock)


def _token(method: Method, clock: Clock) -> Identity:
    from agent.identity.tokens import JwtIdentity, TokenFile

    config = method.config
    if method.type == "token_file":
        return TokenFile(method, _needed(config.token_file_path, "token_file_path"), clock)
    path = config.token_path if method.type == "kubernetes" else _needed(config.path, "path")
    return JwtIdentity(method, path, clock)


def _cloud(method: Method, clock: Clock) -> Identity:
    """The clouds' clients are imported by those who run there."""
    match method.type:
        case "aws":
            from agent.identity.aws import AwsIdentity

            return AwsIdentity(method, clock)
        case "azure":
            from agent.identity.azure import AzureIdentity

            return AzureIdentity(method, clock)
        case _:
            from agent.identity.gcp import GcpIdentity

            return GcpIdentity(method, clock)


def _needed(value: str | None, key: str) -> str:
    if value is None:
        raise ConfigError([f"auto_auth.method.config.{key}: is missing"])
    return value
