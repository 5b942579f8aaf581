"""[auto_auth]: what must hold for the way in which the agent logs in at a Vault, and for the files of its login."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import attrs

from agent.config.model import Config, Method, MethodConfig, TokenSink, TokenSinkConfig, Vault
from agent.config.places import METHOD, SINK, VAULT, Path, Problem
from agent.config.rules import shapes
from agent.config.upstreams import SERVICE_ACCOUNT_TOKEN

_MOUNT = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,255}", re.ASCII)
_DOTS = re.compile(r"(?:^|/)\.{1,2}(?:/|$)")


@dataclass(frozen=True, kw_only=True)
class _Keys:
    """Keys of [auto_auth.method.config] for one type of method."""

    needed: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


_KEYS = {
    "kubernetes": _Keys(needed=("role",), others=("token_path",)),
    "jwt": _Keys(needed=("role", "path")),
    "approle": _Keys(
        needed=("role_id_file_path",),
        others=(
            *("secret_id_file_path", "secret_id_response_wrapping_path"),
            "remove_secret_id_file_after_reading",
        ),
    ),
    "cert": _Keys(others=("name", "client_cert", "client_key")),
    "token_file": _Keys(needed=("token_file_path",)),
    "aws": _Keys(
        needed=("role",),
        others=(
            *("header_value", "region", "role_arn", "web_identity_token_file"),
            *("sts_endpoint", "metadata_endpoint"),
        ),
    ),
    "azure": _Keys(
        needed=("role",),
        others=(
            *("resource", "client_id", "tenant_id", "federated_token_file"),
            *("metadata_endpoint", "authority_host"),
        ),
    ),
    "gcp": _Keys(needed=("role",), others=("resource", "service_account", "metadata_endpoint")),
}
_FILES = (
    *("token_path", "path", "role_id_file_path", "secret_id_file_path", "token_file_path"),
    *("web_identity_token_file", "federated_token_file"),
)
_DEFAULTS = MethodConfig()


def mistakes(config: Config) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    if config.auto_auth.method is not None:
        yield from _method(METHOD, config.auto_auth.method)
        if not config.vault:
            yield METHOD, "logs in nowhere: there is no [vault]"
    for name, vault in config.vault.items():
        if vault.method is not None:
            yield from _method((VAULT, name, "method"), vault.method)
        yield from _certificate(name, vault, vault.method or config.auto_auth.method)
    for n, sink in enumerate(config.auto_auth.sink):
        yield from _sink((*SINK, n), sink, config)


def _method(place: Path, method: Method) -> Iterator[Problem]:
    if method.type == "token_file":
        for key in ("mount_path", "namespace"):
            if getattr(method, key) is not None:
                yield (*place, key), 'does not belong to type = "token_file", which logs in nowhere'
    elif _misnamed(method):
        yield (*place, "mount_path"), 'is no mount; write it like "auth/kubernetes" or "kubernetes"'
    yield from shapes.namespace((*place, "namespace"), method.namespace)
    at = (*place, "config")
    yield from _keys(at, method)
    yield from _values(at, method.config)


def _misnamed(method: Method) -> bool:
    """Whether what stands there is no mount; a login's whole path, say."""
    mount = method.mount
    if not _MOUNT.fullmatch(mount) or _DOTS.search(mount):
        return True
    return mount.startswith(("v1/", "auth/")) or mount.endswith("/login")


def _keys(at: Path, method: Method) -> Iterator[Problem]:
    keys = _KEYS[method.type]
    for field in attrs.fields(MethodConfig):
        value = getattr(method.config, field.name)
        if field.name in keys.needed:
            if not value:
                yield (*at, field.name), f'is required by type = "{method.type}"'
        elif field.name not in keys.others and value != getattr(_DEFAULTS, field.name):
            takes = ", ".join((*keys.needed, *keys.others))
            yield (*at, field.name), f'does not belong to type = "{method.type}", which takes {takes}'


def _values(at: Path, config: MethodConfig) -> Iterator[Problem]:
    for key in _FILES:
        yield from shapes.absolute((*at, key), getattr(config, key) or None)
    yield from shapes.pair(at, config, "client_cert", "client_key")
    for key in ("role", "name", "region", "service_account"):
        value = getattr(config, key)
        if value and not (_NAME.fullmatch(value.replace("@", "")) and not _DOTS.search(value)):
            yield (*at, key), "is no name; letters, digits, . _ - and @, at most 255 of them"
    for key in ("sts_endpoint", "authority_host", "metadata_endpoint"):
        value = getattr(config, key)
        if value is not None:
            yield from shapes.url((*at, key), value, near=key == "metadata_endpoint")
    if config.secret_id_file_path is not None and config.secret_id_file_path == config.role_id_file_path:
        yield (*at, "secret_id_file_path"), "is role_id_file_path as well; each is a file of its own"
    yield from _together(at, config)


def _together(at: Path, config: MethodConfig) -> Iterator[Problem]:
    """Keys that say nothing without others."""
    for key, other in (
        ("secret_id_response_wrapping_path", "secret_id_file_path"),
        ("remove_secret_id_file_after_reading", "secret_id_file_path"),
        ("role_arn", "web_identity_token_file"),
        ("federated_token_file", "client_id"),
        ("federated_token_file", "tenant_id"),
        ("tenant_id", "federated_token_file"),
        ("authority_host", "federated_token_file"),
    ):
        if getattr(config, key) not in (None, False) and getattr(config, other) is None:
            yield (*at, other), f"is missing; {key} says nothing without it"


def _certificate(name: str, vault: Vault, method: Method | None) -> Iterator[Problem]:
    """Logging in by certificate takes one, from the method or from the server's table."""
    if method is None or method.type != "cert":
        return
    if method.config.client_cert is None and vault.client_cert is None:
        yield (VAULT, name), 'has no client_cert, and its method, type = "cert", has none either; name one of them'
    text = 'has no TLS, but type = "cert" shows its certificate there: write "https"'
    if vault.address.startswith("http://"):
        yield (VAULT, name, "address"), text
    for n, address in enumerate(vault.fallback_addresses):
        if address.startswith("http://"):
            yield (VAULT, name, "fallback_addresses", n), text


def _sink(place: Path, sink: TokenSink, config: Config) -> Iterator[Problem]:
    if sink.upstream not in config.vault:
        known = shapes.listed(config.vault)
        remedy = f"there are: {known}" if known else "there is none"
        yield (*place, "upstream"), f"is no configured vault; {remedy}"
    if sink.wrap_ttl:
        yield from shapes.between((*place, "wrap_ttl"), sink.wrap_ttl, 10.0, 86400.0)
    at = (*place, "config")
    yield from shapes.absolute((*at, "path"), sink.config.path)
    yield from shapes.mode((*at, "mode"), sink.config.mode, needs=0o400)
    yield from shapes.owner((*at, "user"), sink.config.user)
    yield from shapes.owner((*at, "group"), sink.config.group)


def warnings(config: Config) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    if config.auto_auth.method is not None:
        yield from _shared(METHOD, config.auto_auth.method)
    for name, vault in config.vault.items():
        if vault.method is not None:
            yield from _shared((VAULT, name, "method"), vault.method)
    for n, sink in enumerate(config.auto_auth.sink):
        yield from _readers((*SINK, n, "config", "mode"), sink.config)


def _shared(place: Path, method: Method) -> Iterator[Problem]:
    for key, path in method.files.items():
        if f"/var{path.removeprefix('/var')}" == SERVICE_ACCOUNT_TOKEN:
            text = "is what every container of the pod may have, the app too: it could log in as the agent"
            yield (*place, "config", key), f"{text}; project a token with an audience of its own into the sidecar alone"


def _readers(place: Path, sink: TokenSinkConfig) -> Iterator[Problem]:
    if sink.mode & 0o004:
        yield place, f'"{sink.mode:04o}" lets everybody read the agent\'s login'
    elif sink.user is None and not sink.mode & 0o040:
        yield place, f'"{sink.mode:04o}" lets nobody but the agent read it; write "0440" with a group, or a user'
