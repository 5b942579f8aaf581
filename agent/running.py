"""`run` and `once`: hardening, the configuration, the log, and the agent until it ends."""

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import attrs

from agent import codes, garbage, harden, log
from agent.app import App, Ended
from agent.clock import Clock, SystemClock, wait_for
from agent.codes import duration, say
from agent.config.check import warnings
from agent.config.load import load_file
from agent.config.model import Config, Duration, Listener
from agent.errors import ConfigError, LeaseholdError
from agent.log import Event
from agent.notify import from_environment

_log = log.get(__name__)
_UNTENDED = (
    "there is no state_dir: nobody renews these leases, they live to their end; set state_dir on a volume that the "
    "sidecar mounts too, and it goes on with them"
)

HandleSignals = Callable[[asyncio.Event, asyncio.Event], None]
RunLoop = Callable[[Coroutine[Any, Any, int]], int]


def run(arguments: argparse.Namespace, *, handle_signals: HandleSignals, run_loop: RunLoop) -> int:
    """The agent until a signal; the process's exit code."""
    notifier = from_environment(os.environ)
    config, as_json = _prepared(arguments)

    async def serve() -> int:
        stop, hurry = asyncio.Event(), asyncio.Event()
        handle_signals(stop, hurry)
        app = App(config, clock=SystemClock(), notifier=notifier)
        ended = await app.run(stop, hurry=hurry, on_started=garbage.settle)
        return codes.FAILED if ended.crashed else codes.LEFT_BEHIND if ended.left else codes.OK

    return _told(run_loop, serve(), as_json)


def once(arguments: argparse.Namespace, *, handle_signals: HandleSignals, run_loop: RunLoop) -> int:
    """The start alone: credentials and files, and an end that leaves both; the process's exit code."""
    timeout = duration("--timeout", arguments.timeout)
    config, as_json = _prepared(arguments)
    config = for_once(config)

    async def obtain() -> int:
        stop = asyncio.Event()
        handle_signals(stop, asyncio.Event())
        missing, ended = await obtained(config, SystemClock(), stop, timeout)
        for line in missing:
            say(line)
            if as_json:
                _log.error(Event.START_FAILED, error=line)
        return codes.FAILED if missing or ended.crashed else codes.OK

    return _told(run_loop, obtain(), as_json)


def for_once(config: Config) -> Config:
    """`config` without what an init container has no use for: sockets, a grace, roles that nobody waits for.

    Raises:
        ConfigError: there is nothing to obtain.
    """
    roles = {name: role for name, role in config.role.items() if role.required and not role.lazy}
    if not roles:
        raise ConfigError(["role: `once` obtains required roles only, and here every role is lazy or required = false"])
    return attrs.evolve(
        config,
        # Unless all is there in time, whatever was issued is revoked.
        agent=attrs.evolve(config.agent, on_stop="revoke", stop_grace=Duration(0.0)),
        listener=Listener(),
        role=roles,
        template=tuple(template for template in config.template if set(template.roles) <= roles.keys()),
    )


async def obtained(config: Config, clock: Clock, stop: asyncio.Event, timeout: float) -> tuple[list[str], Ended]:
    """Run an agent until it has started, `timeout` seconds have passed, or `stop` is set.

    Returns:
        What is not there, a line each, and how the run ended. If nothing is missing, leases and files are left as
        they are; otherwise whatever was issued is revoked.
    """
    app = App(config, clock=clock)
    missing: list[str] = []
    complete = False

    def done() -> None:
        nonlocal complete
        if not stop.is_set():
            complete = True
            app.leave_all()
            if config.agent.state_dir is None:
                _log.warning(Event.CONFIG_WARNING, warning=_UNTENDED)
            stop.set()

    async def give_up() -> None:
        in_time = await wait_for(clock, stop, timeout)
        if not complete:
            why = "stopped" if in_time else f"gave up after {timeout:g} s"
            missing.extend(f"{line}; {why}" for line in app.missing())
            stop.set()

    watch = asyncio.create_task(give_up(), name="timeout")
    try:
        return missing, await app.run(stop, on_started=done)
    finally:
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)


def _prepared(arguments: argparse.Namespace) -> tuple[Config, bool]:
    """Harden the process, load the file, set the log up; the configuration, and whether the log is JSON."""
    problems = harden.harden()
    config = load_file(Path(arguments.config), environ=dict(os.environ))
    ambient = harden.drop_ambient(os.environ)
    as_json = {"auto": not sys.stderr.isatty(), "json": True, "text": False}[config.agent.log_format]
    log.configure(level=arguments.log_level or config.agent.log_level, json=as_json, only=arguments.log_filter)
    for problem in problems:
        _log.warning(Event.HARDENING, warning=problem)
    for warning in warnings(config):
        _log.warning(Event.CONFIG_WARNING, warning=warning)
    for name in ambient:
        _log.warning(Event.AMBIENT_IGNORED, name=name, reason="credentials come from the configured upstream only")
    return config, as_json


def _told(run_loop: RunLoop, work: Coroutine[Any, Any, int], as_json: bool) -> int:
    """Run `work`; who reads the log as JSON finds there, too, why there was no start."""
    try:
        return run_loop(work)
    except LeaseholdError as error:
        if as_json:
            for line in error.mistakes if isinstance(error, ConfigError) else (str(error),):
                _log.error(Event.START_FAILED, error=line)
        raise
