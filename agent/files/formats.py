"""The ready-made formats: a file from one role's credential, without a template.

`dotenv` and `shell-export` name their keys as the common agents' samples do: <prefix>USER, PASS, LEASE_ID and TTL, and
with the role's `connection` HOST, PORT, NAME and SSLMODE. Any other field of the lease appears under its own name in
capitals.
"""

import json
import re
from collections.abc import Callable, Iterator

from agent.errors import RenderError
from agent.files import quoting
from agent.files.credential import Credential

Format = Callable[[Credential, str], str]

NEEDS_CONNECTION = frozenset({"url", "pg_service"})
"""Formats that mean nothing without host and database."""

_KEYS = {"username": "USER", "password": "PASS", "dbname": "NAME"}
_ORDER = ("username", "password", "host", "port", "dbname", "sslmode")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def dotenv(credential: Credential, prefix: str) -> str:
    """`NAME=value` lines; quoting.dotenv says who reads them."""
    return "".join(
        f"{key}={_quoted(credential, key, quoting.dotenv, text)}\n" for key, text in _pairs(credential, prefix)
    )


def shell_export(credential: Credential, prefix: str) -> str:
    """`export NAME=value` lines for a POSIX shell to source."""
    return "".join(f"export {key}={quoting.shell(text)}\n" for key, text in _pairs(credential, prefix))


def json_(credential: Credential, prefix: str) -> str:
    """One object, shaped like an answer on the socket."""
    del prefix
    return json.dumps(credential.as_mapping(), ensure_ascii=False, indent=2) + "\n"


def pgpass(credential: Credential, prefix: str) -> str:
    """libpq's password file; what is not known stands as `*`.

    libpq looks a socket in its default directory up as `localhost`, and which directory that is depends on how it was
    built: a credential for a socket gets both lines.
    """
    del prefix
    places = [_field(credential, name, quoting.pgpass) or "*" for name in ("host", "port", "dbname")]
    login = [_required(credential, name, quoting.pgpass) for name in ("username", "password")]
    lines = [[*places, *login]]
    if credential.data.get("host", "").startswith("/"):
        lines.append(["localhost", *places[1:], *login])
    return "".join(":".join(line) + "\n" for line in lines)


def pg_service(credential: Credential, prefix: str) -> str:
    """libpq's connection service file; the service is called as the last part of the role's name."""
    del prefix
    names = {"host": "host", "port": "port", "dbname": "dbname", "user": "username", "password": "password"}
    lines = [f"[{credential.role.rpartition('/')[2]}]"]
    for keyword, name in names.items():
        lines.append(f"{keyword}={_required(credential, name, quoting.pg_service)}")
    lines.append(f"sslmode={_field(credential, 'sslmode', quoting.pg_service) or 'require'}")
    return "\n".join(lines) + "\n"


def url(credential: Credential, prefix: str) -> str:
    """`postgresql://user:password@host:port/dbname?sslmode=…`, with no line end: the file is the URL.

    A directory of a Unix socket stands percent-encoded as the host, as libpq reads it.
    """
    del prefix
    user, password, host, port, dbname = (
        _required(credential, name, quoting.url) for name in ("username", "password", "host", "port", "dbname")
    )
    if ":" in credential.data["host"]:
        # An IPv6 address; libpq decodes what stands in the brackets as well (a zone's percent sign, for one).
        host = f"[{host.replace('%3A', ':')}]"
    sslmode = _field(credential, "sslmode", quoting.url) or "require"
    return f"postgresql://{user}:{password}@{host}:{port}/{dbname}?sslmode={sslmode}"


FORMATS: dict[str, Format] = {
    "dotenv": dotenv,
    "json": json_,
    "pgpass": pgpass,
    "pg_service": pg_service,
    "url": url,
    "shell-export": shell_export,
}


def _pairs(credential: Credential, prefix: str) -> Iterator[tuple[str, str]]:
    data = credential.data
    login, places = _ORDER[:2], _ORDER[2:]
    yield from ((prefix + _KEYS[name], data[name]) for name in login if name in data)
    yield prefix + "LEASE_ID", credential.lease_id
    yield prefix + "TTL", str(credential.lease_duration)
    yield from ((prefix + _KEYS.get(name, name.upper()), data[name]) for name in places if name in data)
    taken = {prefix + key for key in ("USER", "PASS", "LEASE_ID", "TTL", "HOST", "PORT", "NAME", "SSLMODE")}
    for name in sorted(set(data) - set(_ORDER)):
        key = prefix + name.upper()
        # Without a prefix, an upstream could choose the value of PATH or LD_PRELOAD.
        if not prefix or not _KEY.fullmatch(key) or key in taken:
            raise RenderError(
                f'role {credential.role}: field "{name}" cannot be named "{key}": write a template instead'
            )
        taken.add(key)
        yield key, data[name]


def _required(credential: Credential, name: str, quote: Callable[[str], str]) -> str:
    text = _field(credential, name, quote)
    if text is None:
        raise RenderError(f'role {credential.role}: the lease has no "{name}", which this format needs')
    return text


def _field(credential: Credential, name: str, quote: Callable[[str], str]) -> str | None:
    return None if name not in credential.data else _quoted(credential, name, quote, credential.data[name])


def _quoted(credential: Credential, name: str, quote: Callable[[str], str], text: str) -> str:
    try:
        return quote(text)
    except RenderError as error:
        raise RenderError(f'role {credential.role}: field "{name}": {error}') from None
