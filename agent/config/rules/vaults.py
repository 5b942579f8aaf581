"""[vault]: what must hold for a Vault or OpenBao cluster."""

import re
from collections.abc import Iterator

from agent.config.addresses import split_url
from agent.config.model import Config, Method, Vault, method_of
from agent.config.places import METHOD, VAULT, Path, Problem
from agent.config.rules import shapes

CALL = 10.0
"""Seconds that a call may take in all, as the schedule has it."""

CALLS = 4
"""Calls at once, one per thread of the wire: a further one would wait for a thread within its deadline, and a server
that is merely slow would look dead."""

_SERVER_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9a-fA-F:.]{2,45}", re.ASCII)


def mistakes(config: Config, *, short: bool) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    for name, vault in config.vault.items():
        place = (VAULT, name)
        yield from shapes.upstream(place, name)
        yield from _addresses(place, vault)
        yield from shapes.namespace((*place, "namespace"), vault.namespace)
        yield from _tls(place, vault)
        yield from _limits(place, vault, short=short)
        if vault.method is None and config.auto_auth.method is None:
            yield place, "has no method to log in with; add [auto_auth.method], or a method table of its own below it"


def _addresses(place: Path, vault: Vault) -> Iterator[Problem]:
    yield from shapes.url((*place, "address"), vault.address)
    seen = {vault.address}
    for n, address in enumerate(vault.fallback_addresses):
        at = (*place, "fallback_addresses", n)
        yield from shapes.url(at, address)
        if address in seen:
            yield at, "is there already; every address once"
        seen.add(address)
    for n, host in enumerate(vault.redirect_hosts):
        yield from shapes.location((*place, "redirect_hosts", n), host)
    if vault.proxy is not None:
        found = split_url(vault.proxy)
        if found is None or found[0] != "http":
            yield (*place, "proxy"), 'must be "http://HOST:PORT", with nothing before or behind it'
        if any(address.startswith("http://") for address in (vault.address, *vault.fallback_addresses)):
            text = 'never carries what goes in clear; take it away, or write "https" in every address'
            yield (*place, "proxy"), text


def _tls(place: Path, vault: Vault) -> Iterator[Problem]:
    yield from shapes.absolute((*place, "ca_cert"), vault.ca_cert)
    yield from shapes.pair(place, vault, "client_cert", "client_key")
    if vault.tls_server_name is not None and not _SERVER_NAME.fullmatch(vault.tls_server_name):
        yield (*place, "tls_server_name"), "is no host name and no address; write the name that the certificate has"


def _limits(place: Path, vault: Vault, *, short: bool) -> Iterator[Problem]:
    yield from shapes.count((*place, "max_calls"), vault.max_calls, 1, CALLS)
    yield from shapes.between((*place, "connect_timeout"), vault.connect_timeout, 0.05 if short else 1.0, CALL)


def warnings(config: Config) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    for name, vault in config.vault.items():
        place = (VAULT, name)
        used = {role.upstream for role in config.role.values()} | {sink.upstream for sink in config.auto_auth.sink}
        if name not in used:
            yield place, "is used by no role"
        yield from _careless(place, vault)
    if config.vault and config.auto_auth.method and all(vault.method for vault in config.vault.values()):
        yield METHOD, "has no effect: every vault has a method of its own"


def _careless(place: Path, vault: Vault) -> Iterator[Problem]:
    if vault.tls_skip_verify:
        text = "accepts any certificate: whoever stands between may read tokens and credentials; name the CA in ca_cert"
        yield (*place, "tls_skip_verify"), text
        for key in ("ca_cert", "tls_server_name"):
            if getattr(vault, key) is not None:
                yield (*place, key), "has no effect beside tls_skip_verify"
    if vault.accept_endless_token:
        text = "lets the agent work with a root token, say: what it is robbed of then has no end either"
        yield (*place, "accept_endless_token"), text


def advice(config: Config) -> Iterator[Problem]:
    """Per cluster where it is asked, and how the agent logs in there."""
    for name, vault in config.vault.items():
        others = f" and {len(vault.fallback_addresses)} more" if vault.fallback_addresses else ""
        yield (VAULT, name), f"at {vault.address}{others}, {_login(method_of(config, name))}"


def _login(method: Method) -> str:
    if method.type == "token_file":
        return f"works with the token in {method.config.token_file_path}"
    known = method.config.role or method.config.name
    return f"logs in by {method.type} at auth/{method.mount}" + (f" as {known}" if known else "")
