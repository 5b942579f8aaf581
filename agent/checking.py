"""`leasehold check`: the file, the machine it is checked on, and where asked the servers that it names."""

import argparse
import json
import os
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent import codes, harden, log, reports
from agent.atomicfile import on_memory
from agent.clock import SystemClock
from agent.config.check import advice, warnings
from agent.config.load import load_file
from agent.config.model import Config, method_of
from agent.engines.postgres import check_statements, lint_role
from agent.errors import ConfigError
from agent.examine import Found, Questions, examine, sound
from agent.files.files import check_template


def check(arguments: argparse.Namespace, *, run_loop: Callable[[Coroutine[Any, Any, int]], int]) -> int:
    """Say everything that is wrong with a file, and where asked with what its servers allow.

    --live tries every role; --engine first looks at the rights of the agent's login, then tries every role; --users
    says who is there, and only that.
    """
    path = str(arguments.file or arguments.config)
    config = load_file(Path(path), environ=dict(os.environ))
    minted = [(name, role) for name, role in config.role.items() if not role.at_vault]
    mistakes = [f'role."{n}": {m}' for n, role in minted for m in check_statements(n, role)]
    for position, template in enumerate(config.template):
        mistakes += [f"template[{position}]: {m}" for m in check_template(template, config.role)]
    if mistakes:
        raise ConfigError(mistakes)
    live = arguments.engine or arguments.live
    questions = Questions(rights=arguments.engine, roles=live, users=arguments.users)
    warned = list(_warnings(config))
    if not arguments.json and questions != Questions(users=True):
        for line in (*(f"warning: {line}" for line in warned), *advice(config), f"{path}: the file has no mistakes"):
            print(line)
    if not questions and not arguments.json:
        return codes.OK
    harden.drop_ambient(os.environ)
    log.configure(level="warning")
    return run_loop(_ask(config, questions, path=path, warned=warned, as_json=arguments.json))


async def _ask(config: Config, questions: Questions, *, path: str, warned: Sequence[str], as_json: bool) -> int:
    """Ask the servers; for people each answer is printed as it comes, for scripts all of them at the end."""
    everything: list[Found] = []
    async for found in examine(config, SystemClock(), holder=socket.gethostname(), questions=questions):
        everything.append(found)
        if not as_json:
            print("\n".join(reports.lines(found)), flush=True)
    if as_json:
        print(json.dumps(reports.document(path, warned, everything), indent=2))
    return codes.OK if all(map(sound, everything)) else codes.FAILED


def _warnings(config: Config) -> Iterator[str]:
    yield from warnings(config)
    for name, role in config.role.items():
        if not role.at_vault:
            yield from (f'role."{name}".{line}' for line in lint_role(name, role))
    yield from (f"on this machine, {line}" for line in surroundings(config))


def surroundings(config: Config) -> Iterator[str]:
    """What `run` would meet here: the file may be checked on another machine than it is for, so these only warn."""
    written = [(template.destination, template.allow_disk) for template in config.template]
    written += [(sink.config.path, sink.config.allow_disk) for sink in config.auto_auth.sink]
    for path, allow_disk in written:
        if not allow_disk and not on_memory(Path(path)):
            yield f"{path} does not lie on a memory file system: `run` would refuse it"
    for name, key, path in _read(config):
        if not os.access(path, os.R_OK):
            yield f"{name}: {key} {path} is missing or cannot be read by this uid"
    unix = config.listener.unix
    if unix is not None:
        directory = next(up for up in Path(unix.address).parents if up.exists())
        if not directory.is_dir() or not os.access(directory, os.W_OK):
            yield f"{directory} cannot be written by this uid: the socket {unix.address} could not be made"


def _read(config: Config) -> Iterator[tuple[str, str, str]]:
    """Upstream, key and path of each file that a login reads."""
    for name, server in config.postgresql.items():
        if server.password_file is not None:
            yield name, "password_file", server.password_file
    for name in config.vault:
        for key, path in method_of(config, name).files.items():
            yield name, key, path
        for key in ("ca_cert", "client_cert", "client_key"):
            path = getattr(config.vault[name], key)
            if path is not None:
                yield name, key, path
