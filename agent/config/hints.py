"""What an unknown key may have meant: a misspelt one, one of another table, or one of Vault Agent's.

Whoever comes with a configuration of Vault Agent is told what takes the place of each key that is not there.
"""

from typing import get_args

import attrs

from agent.config import model, values
from agent.config.upstreams import MethodType

TABLES: dict[type, str] = {
    model.Agent: "[agent]",
    model.Audit: "[audit]",
    model.UnixListener: "[listener.unix]",
    model.HealthListener: "[listener.health]",
    model.PostgreSQL: "[postgresql]",
    model.Vault: "[vault]",
    model.Method: "[auto_auth.method]",
    model.MethodConfig: "[auto_auth.method.config]",
    model.TokenSink: "[[auto_auth.sink]]",
    model.TokenSinkConfig: "[auto_auth.sink.config]",
    model.AutoAuth: "[auto_auth]",
    model.Role: "[role.NAME]",
    model.Template: "[[template]]",
    model.TemplateConfig: "[template_config]",
    model.VerifyTarget: "[[role.NAME.verify]]",
    model.Connection: "role.NAME.connection",
    model.Listener: "[listener]",
    model.Config: "the file's top level",
}
"""Every class of the model, and how its table is written."""

_MAX_NEAREST = 20
_MAX_LISTED = 9

_RETRIES = "is not needed: a login that fails is tried again, first after 1s, later once a minute, and never given up"
_FRESH = "is not needed: files are read anew at every login, and a change in them is noticed"
_ENCRYPTED = "is not there: wrap_ttl keeps a token from whoever reads the file second, and shows that he did"
_JINJA = "is not there: templates are Jinja, which writes {{ … }}"

_VAULT_AGENTS: dict[type, dict[str, str]] = {
    model.Config: {
        "cache": "is not needed: a role has one lease, whoever asks and however often",
        "api_proxy": "is not there: apps read roles at [listener.unix]; one that must talk to Vault itself finds a "
        "token in an [[auto_auth.sink]]",
        "exit_after_auth": "is not there: `leasehold once` obtains everything and ends",
        "pid_file": "is not there: a second agent at the same socket does not start",
        "env_template": 'is not there: write a [[template]] with format = "dotenv" and let the app read that file',
        "telemetry": "is not there: /metrics are at the socket for operators, or at [listener.health] for all",
    },
    model.Vault: {
        "retry": "is not needed: failed calls are tried again, first after 1s, later once a minute, and never given up",
        "ca_path": "is not there: write the CAs into one file, and name it in ca_cert",
    },
    model.AutoAuth: {"enable_reauth_on_new_credentials": _FRESH},
    model.Method: {
        **dict.fromkeys(("min_backoff", "max_backoff", "exit_on_err"), _RETRIES),
        **{name: f'is written type = "{name}", with [auto_auth.method.config]' for name in get_args(MethodType)},
    },
    model.MethodConfig: {
        **dict.fromkeys(("remove_jwt_after_reading", "jwt_read_period", "reload", "credential_poll_interval"), _FRESH),
        "ca_cert": "belongs to [vault]",
        "ca_path": "is not there: write the CAs into one file, and name it in ca_cert of [vault]",
    },
    model.TokenSink: dict.fromkeys(("dh_type", "dh_path", "derive_key", "aad", "aad_env_var"), _ENCRYPTED),
    model.TokenSinkConfig: {
        "owner": "is called user here",
        "uid": 'is written user = "1000"',
        "gid": 'is written group = "1000"',
    },
    model.Template: {
        "error_on_missing_key": "is not needed: a name that is missing is always a mistake",
        "create_dest_dirs": "is not needed: the directory is made if missing",
        "backup": "is not there: a copy would keep a credential that has ended",
        "left_delimiter": _JINJA,
        "right_delimiter": _JINJA,
    },
    model.TemplateConfig: {
        "static_secret_render_interval": "is poll, in the role",
        "exit_on_retry_failure": "is not needed: trying goes on, and readiness says how it stands",
    },
}


class Hints:
    """Says what an unknown key may have meant; compares only the first few, since comparing is slow."""

    def __init__(self) -> None:
        self._left = _MAX_NEAREST

    def unknown(self, key: str, table: type) -> str:
        """What to say of `key`, which `table` does not have."""
        told = _VAULT_AGENTS.get(table, {}).get(key)
        if told is not None:
            return f"unknown key; Vault Agent's {key} {told}"
        known = list(attrs.fields_dict(table))
        near = self._nearest(key, known)
        if near:
            return f'unknown key; did you mean "{near}"?'
        homes = [name for other, name in TABLES.items() if key in attrs.fields_dict(other)]
        if homes:
            return f"unknown key here; it belongs to {' or '.join(homes)}"
        return f"unknown key; known here: {', '.join(known)}" if len(known) <= _MAX_LISTED else "unknown key"

    def _nearest(self, key: str, known: list[str]) -> str | None:
        self._left -= 1
        return values.nearest(key, known) if self._left >= 0 else None
