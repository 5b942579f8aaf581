"""Where a login is written to."""

from agent.config.upstreams import Method


def login_path(method: Method) -> str:
    """The login's path below /v1/; `mount_path` may begin with "auth/" or not, as Vault Agent's does (R004-054)."""
    mount = (method.mount_path or method.type).strip("/")
    return f"auth/{mount.removeprefix('auth/')}/login"
