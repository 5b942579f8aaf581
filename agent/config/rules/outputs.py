"""[agent], [audit], [listener], [[template]] and [template_config]: what must hold for the process and its doors."""

import re
from collections.abc import Iterator

from agent.config.addresses import everywhere, split_address
from agent.config.durations import format_duration
from agent.config.model import Audit, Config, HealthListener, Template, UnixListener
from agent.config.places import SINK, Path, Problem, dotted
from agent.config.rules import shapes

_SOCKET: Path = ("listener", "unix")
_HEALTH: Path = ("listener", "health")
_MAX_ADDRESS = 100  # sun_path holds 107 bytes; the socket is bound at a longer, private name first
_PREFIX = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,63})?", re.ASCII)
_GRACE = 30.0
_FORMAT_KEYS = ("source", "contents", "format")


def mistakes(config: Config) -> Iterator[Problem]:
    """What cannot work, or must not be done."""
    yield from _process(config)
    if config.audit is not None:
        yield from _audit(config.audit)
    if config.listener.unix is not None:
        yield from _listener(config.listener.unix)
    if config.listener.health is not None:
        yield from _health(config.listener.health)
    seen: dict[str, str] = {}
    if config.listener.unix is not None:
        seen[config.listener.unix.address] = "the socket, listener.unix.address"
    if config.audit is not None:
        seen[config.audit.file] = "audit.file"
    for n, sink in enumerate(config.auto_auth.sink):
        yield from _unique((*SINK, n, "config", "path"), sink.config.path, seen)
    for n, template in enumerate(config.template):
        place = ("template", n)
        yield from _destination(place, template.destination, seen)
        yield from _content(place, template)
        yield from _roles(place, template, config)
        yield from shapes.mode((*place, "perms"), template.perms, needs=0o400)
        yield from shapes.owner((*place, "user"), template.user)
        yield from shapes.owner((*place, "group"), template.group)


def _process(config: Config) -> Iterator[Problem]:
    yield from shapes.between(("agent", "stop_timeout"), config.agent.stop_timeout, 1.0, 3600.0)
    yield from shapes.between(("agent", "stop_grace"), config.agent.stop_grace, 0.0, 86400.0)
    yield from shapes.between(("agent", "start_splay"), config.agent.start_splay, 0.0, 3600.0)
    if config.agent.state_dir is not None:
        yield from shapes.absolute(("agent", "state_dir"), config.agent.state_dir)
    elif config.agent.on_stop == "handover":
        yield ("agent", "on_stop"), 'is "handover", but nothing would be handed over: set state_dir'
    if config.agent.holder == "":
        yield ("agent", "holder"), "is empty: name the pod, or leave it out"
    table = config.template_config
    yield from shapes.between(("template_config", "render_interval"), table.render_interval, 1.0, 86400.0)
    yield from shapes.count(("template_config", "max_size"), table.max_size, 1, 16 << 20)


def _audit(audit: Audit) -> Iterator[Problem]:
    if audit.file != "stdout":
        yield from shapes.absolute(("audit", "file"), audit.file)
    yield from shapes.count(("audit", "max_size"), audit.max_size, 65536, 1 << 40)
    yield from shapes.count(("audit", "keep"), audit.keep, 1, 1000)


def _listener(unix: UnixListener) -> Iterator[Problem]:
    place = (*_SOCKET, "address")
    yield from shapes.absolute(place, unix.address)
    if len(unix.address.encode()) > _MAX_ADDRESS:
        yield place, f"is longer than {_MAX_ADDRESS} bytes; the system allows a socket little more"
    # Connecting takes the right to write. The kernel names whoever connects, and `allow` decides.
    yield from shapes.mode((*_SOCKET, "socket_mode"), unix.socket_mode, needs=0o600, public=True)
    yield from shapes.owner((*_SOCKET, "socket_user"), unix.socket_user)
    yield from shapes.owner((*_SOCKET, "socket_group"), unix.socket_group)
    yield from shapes.allow((*_SOCKET, "allow_admin"), unix.allow_admin)
    yield from shapes.count((*_SOCKET, "max_connections"), unix.max_connections, 1, 65536)
    yield from shapes.count((*_SOCKET, "max_connections_per_uid"), unix.max_connections_per_uid, 1, 65536)
    yield from shapes.between((*_SOCKET, "idle_timeout"), unix.idle_timeout, 0.05, 86400.0)
    yield from shapes.between((*_SOCKET, "request_timeout"), unix.request_timeout, 0.05, 300.0)
    yield from shapes.count((*_SOCKET, "max_header"), unix.max_header, 1024, 1 << 20)
    yield from shapes.count((*_SOCKET, "max_body"), unix.max_body, 0, 16 << 20)


def _health(health: HealthListener) -> Iterator[Problem]:
    if split_address(health.address) is None:
        yield (
            (*_HEALTH, "address"),
            'must be an address and a port, such as "127.0.0.1:8210", "[::1]:8210" or "${POD_IP}:8210"',
        )
    yield from shapes.count((*_HEALTH, "max_connections"), health.max_connections, 1, 65536)


def _destination(place: Path, destination: str, seen: dict[str, str]) -> Iterator[Problem]:
    yield from shapes.absolute((*place, "destination"), destination)
    yield from _unique((*place, "destination"), destination, seen)


def _unique(place: Path, path: str, seen: dict[str, str]) -> Iterator[Problem]:
    if path in seen:
        yield place, f"is the same path as {seen[path]}; every file needs one of its own"
    seen.setdefault(path, dotted(place))


def _content(place: Path, template: Template) -> Iterator[Problem]:
    given = [key for key in _FORMAT_KEYS if getattr(template, key) is not None]
    if not given:
        yield place, "says nothing to write; give one of source, contents and format"
    elif len(given) > 1:
        yield place, f"has {' and '.join(given)}; give only one of them"
    yield from shapes.absolute((*place, "source"), template.source)
    if not _PREFIX.fullmatch(template.prefix):
        yield (*place, "prefix"), "must be letters, digits and _, the first no digit"


def _roles(place: Path, template: Template, config: Config) -> Iterator[Problem]:
    if not template.roles:
        yield (*place, "roles"), "is empty; list the roles this file may use"
    if template.format is not None and len(template.roles) > 1:
        yield (*place, "roles"), f'format = "{template.format}" takes exactly one role'
    seen: set[str] = set()
    for n, name in enumerate(template.roles):
        if name in seen:
            yield (*place, "roles", n), "is listed twice"
        elif name not in config.role:
            known = shapes.listed(config.role)
            yield (*place, "roles", n), "is no configured role" + (f"; there are: {known}" if known else "")
        elif config.role[name].lazy:
            yield (*place, "roles", n), "is lazy, but a file is always a reader; write lazy = false in the role"
        seen.add(name)


def warnings(config: Config) -> Iterator[Problem]:
    """What is accepted, and may surprise."""
    stop = config.agent.stop_grace + config.agent.stop_timeout
    if stop > _GRACE:
        text = f"with stop_grace, a stop may take {format_duration(stop)}; Kubernetes kills after "
        yield (
            ("agent", "stop_timeout"),
            text + f"{format_duration(_GRACE)} unless terminationGracePeriodSeconds says more",
        )
    unix = config.listener.unix
    if unix is None and not config.template:
        yield ("listener",), "is missing, and there is no [[template]]: credentials are obtained and handed to nobody"
    if unix is not None and unix.socket_mode & 0o002:
        yield (*_SOCKET, "socket_mode"), f'"{unix.socket_mode:04o}" lets everybody connect; `allow` alone decides then'
    if unix is not None and "any" in unix.allow_admin:
        yield (*_SOCKET, "allow_admin"), '"any" makes everybody who reaches the socket an operator'
    health = config.listener.health
    if health is not None and everywhere(health.address):
        yield (*_HEALTH, "address"), 'is every address of the machine; "${POD_IP}:PORT" or a loopback one would do'
    for n, template in enumerate(config.template):
        if template.perms & 0o004:
            yield ("template", n, "perms"), f'"{template.perms:04o}" lets everybody read the credential'
