"""The shapes of single values: hosts, paths, owners, modes, identifiers, ranges.

Each function yields what is wrong with one value at one place, and never repeats a string.
"""

import itertools
import posixpath
import re
from collections.abc import Iterable, Iterator

from agent.config.addresses import link_local, loopback, split_place, split_url
from agent.config.durations import format_duration
from agent.config.model import Allow, Connection, PostgreSQL
from agent.config.places import Path, Problem
from agent.config.values import number

Problems = Iterator[Problem]

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,255}", re.ASCII)
_OWNER = re.compile(r"[0-9]{1,10}|[A-Za-z_][A-Za-z0-9_.-]{0,31}\$?", re.ASCII)
_ALLOW = re.compile(r"any|[ug]id:(?:0|[1-9][0-9]{0,9})", re.ASCII)
_LISTED = re.compile(r"[A-Za-z0-9._/-]{1,100}", re.ASCII)
_PARTS = re.compile(r"(?!.{256})[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*/?", re.ASCII)
_LABEL = re.compile(r"[A-Za-z0-9_-]{1,63}", re.ASCII)
_MAX_ID = 2**32 - 2
_MAX_IDENTIFIER = 63
_MAX_LABEL = 63


def at_least(place: Path, value: float | None, least: float) -> Problems:
    """A duration."""
    if value is not None and not value >= least:
        yield place, f'"{format_duration(value)}" is too short; at least "{format_duration(least)}"'


def between(place: Path, value: float | None, low: float, high: float) -> Problems:
    """A duration."""
    if value is not None and not low <= value <= high:
        span = f'"{format_duration(low)}" to "{format_duration(high)}"'
        yield place, f'"{format_duration(value)}" is out of range; {span}'


def count(place: Path, value: int | None, low: int, high: int) -> Problems:
    """A whole number."""
    if value is not None and not low <= value <= high:
        yield place, f"{number(value)} is out of range; {low} to {high}"


def absolute(place: Path, path: str | None) -> Problems:
    """The path of a file."""
    if path is not None and (path[:1] != "/" or path[:2] in ("/", "//") or posixpath.normpath(path) != path):
        yield place, 'must be an absolute path without "." or "..", and without a "/" at its end'


def pair(place: Path, table: object, one: str, other: str) -> Problems:
    """Two files that belong together, a certificate and its key; both absolute."""
    for key in (one, other):
        yield from absolute((*place, key), getattr(table, key))
    if (getattr(table, one) is None) != (getattr(table, other) is None):
        missing = other if getattr(table, other) is None else one
        yield (*place, missing), f"is missing; {one} and {other} belong together"


def mode(place: Path, bits: int, *, needs: int, public: bool = False) -> Problems:
    """Permission bits; `needs` are those its owner cannot do without, `public` lets everybody write."""
    if bits > 0o777:
        yield place, f'"{bits:04o}" has setuid, setgid or sticky bits; write nothing but permissions, such as "0440"'
    elif bits & 0o002 and not public:
        yield place, f'"{bits:04o}" lets everybody write; take away the last digit\'s 2'
    elif bits & needs != needs:
        yield place, f'"{bits:04o}" does not let the owner use it; at least "{needs:04o}"'


def owner(place: Path, name: str | None) -> Problems:
    """A user or group of the system."""
    if name is not None and not _OWNER.fullmatch(name):
        yield place, 'is neither a name nor a number such as "1000"'


def allow(place: Path, entries: Allow) -> Problems:
    """Who may."""
    for n, entry in enumerate(entries):
        if not _ALLOW.fullmatch(entry) or int(entry.partition(":")[2] or 0) > _MAX_ID:
            yield (*place, n), 'must be "uid:N" or "gid:N" with a number, or "any"'


def listed(names: Iterable[str]) -> str:
    """A few names, for a message; only such as can be nothing but names."""
    shown = sorted(f'"{name}"' for name in itertools.islice(names, 100) if _LISTED.fullmatch(name))
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")


def namespace(place: Path, text: str | None) -> Problems:
    """A namespace of a Vault, such as "team/app"."""
    if text is not None and not _PARTS.fullmatch(text):
        yield place, 'is no namespace; parts of letters, digits, . _ - between slashes, such as "team/app"'


def upstream(place: Path, name: str) -> Problems:
    """What stands behind the dot of "postgresql.NAME"."""
    _, dot, label = name.partition(".")
    if dot and not _LABEL.fullmatch(label):
        yield place, "is no name for an upstream; letters, digits, _ and -, at most 63 of them"


def identifier(place: Path, name: str, *, what: str) -> Problems:
    """A name in the database."""
    if not name:
        yield place, f"is empty; name the {what}"
    elif len(name.encode()) > _MAX_IDENTIFIER:
        yield place, f"is longer than {_MAX_IDENTIFIER} bytes, PostgreSQL's limit for a name"


def local(host: str) -> bool:
    """Whether a connection to `host` stays on this machine."""
    return host.startswith("/") or loopback(host)


def server(place: Path, at: Connection | PostgreSQL) -> Problems:
    """Where to log in, and how."""
    yield from _host((*place, "host"), at.host)
    yield from _database((*place, "dbname"), at.dbname)
    yield from count((*place, "port"), at.port, 1, 65535)
    if at.sslmode in ("disable", "prefer") and at.host and not local(at.host):
        yield (
            (*place, "sslmode"),
            f'"{at.sslmode}" lets passwords and data travel in clear; only a Unix socket directory or a loopback host '
            'may do without TLS: write "require", better "verify-full"',
        )


def url(place: Path, text: str, *, near: bool = False) -> Problems:
    """Where a server is asked; `near` where it is the machine's own metadata service, without TLS.

    A name is not enough there: whoever answers for it in the DNS would be shown what proves who the pod is.
    """
    found = split_url(text.removesuffix("/"))
    if found is None:
        yield place, 'must be "https://HOST:PORT", with nothing before or behind it'
        return
    scheme, host, _ = found
    yield from _labels(place, host)
    if scheme == "https" or local(host) or (near and link_local(host)):
        return
    only = "a loopback or link-local address" if near else "a loopback host"
    yield place, f'lets tokens and credentials travel in clear; only {only} may do without TLS: write "https"'


def location(place: Path, text: str) -> Problems:
    """A host and a port."""
    found = split_place(text)
    if found is None:
        yield place, 'must be "HOST:PORT", with nothing before or behind it'
    else:
        yield from _labels(place, found[0])


def _host(place: Path, host: str) -> Problems:
    if not host:
        yield place, "is empty; name the server's host, or the directory of its Unix socket"
    elif host.startswith("/"):
        yield from absolute(place, host)
    elif "://" in host or "=" in host or "@" in host:
        yield place, "is a URL or a connection string; write the host alone, the rest has keys of its own"
    elif not _HOST.fullmatch(host):
        yield place, "is no host name, no address and no absolute directory"
    else:
        yield from _labels(place, host)


def _labels(place: Path, host: str) -> Problems:
    if not all(0 < len(label) <= _MAX_LABEL for label in host.removesuffix(".").split(".")):
        yield place, f"has a part between dots that is empty or longer than {_MAX_LABEL} characters"


def _database(place: Path, name: str) -> Problems:
    if "://" in name or "=" in name:
        yield place, "is a URL or a connection string; write the database's name alone"
    else:
        yield from identifier(place, name, what="database")


def root_certificate(place: Path, sslmode: str, sslrootcert: str | None) -> Problems:
    """The CA that a verifying sslmode needs."""
    if sslrootcert == "system":
        if sslmode != "verify-full":
            yield (*place, "sslrootcert"), '"system" trusts every public CA, so it needs sslmode = "verify-full"'
        return
    yield from absolute((*place, "sslrootcert"), sslrootcert)
    if sslrootcert is None and sslmode.startswith("verify-"):
        yield (*place, "sslrootcert"), f'sslmode = "{sslmode}" needs it: a CA file, or "system"'
