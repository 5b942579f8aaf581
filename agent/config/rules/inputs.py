"""What the agent reads: files that nothing it writes may overwrite, or remove at its end.

Pure: paths are compared as they are written, links are not followed.
"""

from collections.abc import Iterator

from agent.config.model import Config, Method
from agent.config.places import METHOD, SERVER, VAULT, Path, Problem, dotted


def mistakes(config: Config) -> Iterator[Problem]:
    """Files to write that stand where the agent reads, or in the directory of its state."""
    read = {_key(path): dotted(place) for place, path in reversed(list(_files(config)))}
    for place, path in _outputs(config):
        if _key(path) in read:
            yield place, f"is what the agent reads as {read[_key(path)]}; write to another path"
    state = config.agent.state_dir
    for place, path in _secrets(config):
        if state is not None and f"{_key(path)}/".startswith(f"{_key(state)}/"):
            yield place, "is in agent.state_dir, which is for the agent's records alone; write to another directory"


def _key(path: str) -> str:
    """Two ways to write one place have one key: /var/run is a link to /run."""
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _outputs(config: Config) -> Iterator[tuple[Path, str]]:
    if config.listener.unix is not None:
        yield ("listener", "unix", "address"), config.listener.unix.address
    if config.audit is not None:
        yield ("audit", "file"), config.audit.file
    yield from _secrets(config)


def _secrets(config: Config) -> Iterator[tuple[Path, str]]:
    """What is written for apps."""
    for n, sink in enumerate(config.auto_auth.sink):
        yield ("auto_auth", "sink", n, "config", "path"), sink.config.path
    for n, template in enumerate(config.template):
        yield ("template", n, "destination"), template.destination


def _files(config: Config) -> Iterator[tuple[Path, str]]:
    """Place and path of everything that is read."""
    yield from _of_logins(config)
    for name, vault in config.vault.items():
        yield from _keys((VAULT, name), vault, "ca_cert", "client_cert", "client_key")
    for name, server in config.postgresql.items():
        yield from _keys((SERVER, name), server, "password_file", "sslrootcert", "sslcert", "sslkey")
    for name, role in config.role.items():
        for n, target in enumerate(role.verify or ()):
            yield from _keys(("role", name, "verify", n), target, "sslrootcert")
        if role.on_failed:
            yield ("role", name, "on_failed", 0), role.on_failed[0]
    for n, template in enumerate(config.template):
        yield from _keys(("template", n), template, "source")


def _of_logins(config: Config) -> Iterator[tuple[Path, str]]:
    methods: dict[Path, Method | None] = {METHOD: config.auto_auth.method}
    methods |= {(VAULT, name, "method"): vault.method for name, vault in config.vault.items()}
    for place, method in methods.items():
        for key, path in (method.files if method is not None else {}).items():
            yield (*place, "config", key), path


def _keys(place: Path, table: object, *keys: str) -> Iterator[tuple[Path, str]]:
    for key in keys:
        path = getattr(table, key)
        if path is not None:
            yield (*place, key), path
