"""`leasehold check`: the file, the machine it is checked on, and with --live the servers that it names."""

import argparse
import os
import socket
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

from agent import codes, harden, log
from agent.atomicfile import on_memory
from agent.clock import SystemClock
from agent.config.check import advice, warnings
from agent.config.load import load_file
from agent.config.model import Config
from agent.engines.postgres import check_statements
from agent.errors import ConfigError
from agent.files.files import check_template
from agent.trial import try_roles


def check(arguments: argparse.Namespace, *, run_loop: Callable[[Coroutine[Any, Any, int]], int]) -> int:
    """Say everything that is wrong with a file, and with --live also with the servers that it names."""
    path = arguments.file or arguments.config
    config = load_file(Path(path), environ=dict(os.environ))
    mistakes = [f'role."{n}": {m}' for n, role in config.role.items() for m in check_statements(n, role)]
    for position, template in enumerate(config.template):
        mistakes += [f"template[{position}]: {m}" for m in check_template(template, config.role)]
    if mistakes:
        raise ConfigError(mistakes)
    for line in [*warnings(config), *(f"on this machine, {line}" for line in surroundings(config))]:
        print(f"warning: {line}")
    for line in advice(config):
        print(line)
    print(f"{path}: the file has no mistakes")
    return _check_live(config, run_loop) if arguments.live else codes.OK


def _check_live(config: Config, run_loop: Callable[[Coroutine[Any, Any, int]], int]) -> int:
    harden.drop_ambient(os.environ)
    log.configure(level="warning")

    async def try_all() -> int:
        code = codes.OK
        async for tried in try_roles(config, SystemClock(), holder=socket.gethostname()):
            if tried.failed:
                code = codes.FAILED
                print(f"{tried.role}: could not {tried.failed}: {tried.error}")
            else:
                how = "logged in with it" if tried.verified else "did not try it (no verify target)"
                print(f"{tried.role}: minted a user, {how}, revoked it, in {tried.took * 1000:.0f} ms")
        return code

    return run_loop(try_all())


def surroundings(config: Config) -> Iterator[str]:
    """What `run` would meet here: the file may be checked on another machine than it is for, so these only warn."""
    for template in config.template:
        if not template.allow_disk and not on_memory(Path(template.destination)):
            yield f"{template.destination} does not lie on a memory file system: `run` would refuse it"
    for name, server in config.postgresql.items():
        if server.password_file is not None and not os.access(server.password_file, os.R_OK):
            yield f"{name}: password_file {server.password_file} is missing or cannot be read by this uid"
    unix = config.listener.unix
    if unix is not None:
        directory = next(up for up in Path(unix.address).parents if up.exists())
        if not directory.is_dir() or not os.access(directory, os.W_OK):
            yield f"{directory} cannot be written by this uid: the socket {unix.address} could not be made"
