"""Small configuration documents for the tests: one sound server and role, and room for what a test adds."""

from collections.abc import Mapping

from agent.config.load import load
from agent.config.model import Config
from agent.errors import ConfigError

SERVER = """
host = "db"
dbname = "app"
user = "leasehold"
password_file = "/etc/leasehold/admin"
"""
ROLE = """
upstream = "postgresql"
group = "readers"
"""
FILE = """
destination = "/etc/secrets/db"
format = "json"
roles = ["database/creds/app"]
"""

ROLE_PATH = 'role."database/creds/app"'
PATH_RULE = 'must be an absolute path without "." or "..", and without a "/" at its end'
NAME_RULE = "is no role name; letters, digits, . _ - in parts between slashes, at most 255 bytes"
TAKEN_RULE = 'is taken by the agent\'s own paths; a role does not begin with "sys" or end with "rotate"'
CREDS_RULE = 'is no name for a role on [postgresql]; name it <mount>/creds/<name>, as "database/creds/app"'
ALLOW_RULE = 'must be "uid:N" or "gid:N" with a number, or "any"'
URL_RULE = "is a URL or a connection string; write the host alone, the rest has keys of its own"
HOST_RULE = "is no host name, no address and no absolute directory"
CLEAR_RULE = (
    "lets passwords and data travel in clear; only a Unix socket directory or a loopback host may do without TLS: "
    'write "require", better "verify-full"'
)
OWNER_RULE = 'is neither a name nor a number such as "1000"'
LONG_RULE = "is longer than 63 bytes, PostgreSQL's limit for a name"


VAULT = """
[vault]
address = "https://vault:8200"
"""
METHOD = """
[auto_auth.method]
type = "kubernetes"
[auto_auth.method.config]
role = "app"
token_path = "/run/secrets/vault/token"
"""
AT_VAULT = """
[role."database/creds/app"]
upstream = "vault"
verify = []
"""


def at_vault(
    *,
    vault: str = VAULT,
    more_vault: str = "",
    method: str = METHOD,
    role: str = AT_VAULT,
    more_role: str = "",
    rest: str = "",
) -> str:
    """A configuration with one Vault, a method and one role there; `rest` follows."""
    return "\n".join((vault, more_vault, method, role, more_role, rest))


def with_method(kind: str, config: str, *, more: str = "", more_vault: str = "") -> str:
    """A configuration that logs in like this."""
    method = f'[auto_auth.method]\ntype = "{kind}"\n{more}\n[auto_auth.method.config]\n{config}'
    return at_vault(method=method, more_vault=more_vault)


def with_sink(config: str = 'path = "/run/token"', *, more: str = "") -> str:
    """A configuration with a token sink."""
    return at_vault(rest=f"[[auto_auth.sink]]\n{more}\n[auto_auth.sink.config]\n{config}")


def document(
    *,
    top: str = "",
    server: str = SERVER,
    role: str = ROLE,
    more_server: str = "",
    more_role: str = "",
    rest: str = "",
) -> str:
    """A configuration with one server and one role, `database/creds/app`; `rest` follows after both."""
    parts = (top, "[postgresql]", server, more_server, '[role."database/creds/app"]', role, more_role, rest)
    return "\n".join(parts)


def with_file(more: str = "", *, file: str = FILE, more_role: str = "") -> str:
    """A configuration with one template."""
    return document(more_role=more_role, rest=f"[[template]]\n{file}\n{more}")


def with_socket(more: str = "", *, address: str = 'address = "/run/leasehold/agent.sock"') -> str:
    """A configuration with a socket."""
    return document(rest=f"[listener.unix]\n{address}\n{more}")


def server_with(host: str = "db", dbname: str = "app", user: str = "u", more: str = "") -> str:
    """A configuration whose server is this one."""
    return document(server=f'host = "{host}"\ndbname = "{dbname}"\nuser = "{user}"\npassword_file = "/p"\n{more}')


def role_named(name: str) -> str:
    """A configuration whose role has this name."""
    return f'[postgresql]\n{SERVER}\n[role."{name}"]\n{ROLE}'


def verified(more: str, host: str = "db", dbname: str = "app") -> str:
    """A configuration whose role is verified here."""
    return document(rest=f'[[role."database/creds/app".verify]]\nhost = "{host}"\ndbname = "{dbname}"\n{more}')


def read(text: str | bytes, environ: Mapping[str, str] | None = None, *, allow_short: bool = False) -> Config:
    """The configuration in `text`."""
    return load(text, environ=environ or {}, allow_short=allow_short)


def wrong(text: str | bytes, environ: Mapping[str, str] | None = None, *, allow_short: bool = False) -> list[str]:
    """The mistakes in `text`; empty if there are none."""
    try:
        read(text, environ, allow_short=allow_short)
    except ConfigError as error:
        return list(error.mistakes) or ["an error without a mistake"]
    return []
