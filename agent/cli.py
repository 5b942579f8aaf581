"""The command line: arguments, signals, exit codes, one-line errors. Thin: whatever it does, another file does."""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent import __version__
from agent.clock import SystemClock, pause
from agent.errors import ConfigError, LeaseholdError, StartError

OK, FAILED, MISTAKE, CANNOT_START, NO_AGENT, REFUSED, LEFT_BEHIND = range(7)
_EXIT_CODES = """exit codes:
  0  done
  1  it did not work out: a part of the agent crashed, or the agent is not ready
  2  a mistake in the arguments or the configuration
  3  the agent cannot start here (the text says what stands in the way)
  4  no agent answers on the socket
  5  the agent refused: not allowed, no such role, too soon, nothing to serve now
  6  ended in order, but something could not be revoked or removed (it is named)
"""
_SOCKET = "/run/leasehold/leasehold.sock"
_CONFIG = "/etc/leasehold/agent.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except ConfigError as error:
        for mistake in error.mistakes:
            _say(mistake)
        return MISTAKE
    except StartError as error:
        _say(str(error))
        return CANNOT_START
    except LeaseholdError as error:
        _say(str(error))
        return NO_AGENT
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `leasehold status | head -1`.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return OK
    except Exception as bug:  # noqa: BLE001 - a traceback would show what the exception says, which may be a secret
        from agent.log import place_of

        _say(f"a bug, please report it: {type(bug).__name__} at {place_of(bug)}")
        return FAILED


def _say(line: str) -> None:
    print(f"leasehold: {line}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leasehold",
        description="Short-lived database credentials for the app next door: obtained, renewed, replaced with overlap, "
        "handed over as a file and on a Unix socket.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, more: str = "") -> Any:
        made = commands.add_parser(
            name, help=text, description=f"{text}. {more}", epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        made.set_defaults(run=run)
        return made

    run = command("run", _run, "run the agent until SIGTERM", "A second signal skips the grace.")
    _config_argument(run)
    run.add_argument("--log-level", choices=["debug", "info", "warning", "error"], help="in place of the file's")
    run.add_argument("--log-filter", default="", metavar="PART", help="only lines of parts whose name holds this")

    dev = command("dev", _dev, "try it: a throwaway PostgreSQL, one role, its file and its socket", "Ctrl-C ends it.")
    dev.add_argument("--dir", help="where file and socket go; a fresh directory in memory by default")
    dev.add_argument("--ttl", default="30s", help="length of a lease (default 30s)")
    dev.add_argument("--max-ttl", default="90s", help="renewals end here and the user is replaced (default 90s)")
    dev.add_argument("--json", action="store_true", help="one line of JSON once it is ready, and nothing else")

    check = command("check", _check, "say everything that is wrong with a configuration file")
    _config_argument(check)
    check.add_argument("--live", action="store_true", help="mint, log in and revoke once for every role")

    get = command("get", _get, "print a credential", "ROLE is its path, or the path's last part where that is unique.")
    get.add_argument("role", metavar="ROLE")
    get.add_argument("--field", metavar="NAME", help="only this value, e.g. password")
    get.add_argument("--json", action="store_true", help="the agent's whole answer")
    _socket_argument(get)

    status = command("status", _status, "how every role is doing", "Exit code 1 while the agent is not ready.")
    status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    status.add_argument("--json", action="store_true", help="the agent's own report")
    _socket_argument(status)

    rotate = command("rotate", _rotate, "replace a credential now, with overlap, and wait for the new one")
    rotate.add_argument("role", metavar="ROLE")
    rotate.add_argument("--revoke-after", metavar="DURATION", help="revoke the old one this soon, e.g. 30s")
    rotate.add_argument("--timeout", default="30s", metavar="DURATION", help="longest wait (default 30s)")
    _socket_argument(rotate)
    return parser


def _config_argument(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("LEASEHOLD_CONFIG", _CONFIG)
    parser.add_argument("-c", "--config", default=default, metavar="FILE", help=f"default {default}")


def _socket_argument(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("LEASEHOLD_SOCKET", _SOCKET)
    parser.add_argument("-s", "--socket", default=default, metavar="PATH", help=f"default {default}")


# -- the agent --------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from agent import harden, log
    from agent.config.check import warnings
    from agent.config.load import load_file

    problems = harden.harden()
    config = load_file(Path(arguments.config), environ=dict(os.environ))
    ambient = harden.drop_ambient(os.environ)
    log.configure(
        level=arguments.log_level or config.agent.log_level,
        json={"auto": None, "json": True, "text": False}[config.agent.log_format],
        only=arguments.log_filter,
    )
    logger = log.get(__name__)
    for problem in problems:
        logger.warning(log.Event.HARDENING, warning=problem)
    for warning in warnings(config):
        logger.warning(log.Event.CONFIG_WARNING, warning=warning)
    for name in ambient:
        logger.warning(
            log.Event.AMBIENT_IGNORED, name=name, reason="credentials come from the configured upstream only"
        )
    return _serve(config)


def _serve(config: Any) -> int:
    import asyncio
    import gc

    from agent.app import App

    async def serve() -> int:
        stop, hurry = asyncio.Event(), asyncio.Event()
        handle_signals(stop, hurry)
        # What start-up made lives for ever: the collector need not look at it again at every read.
        ended = await App(config, clock=SystemClock()).run(stop, hurry=hurry, on_started=gc.freeze)
        return FAILED if ended.crashed else LEFT_BEHIND if ended.left else OK

    return run_loop(serve())


def run_loop(coroutine: Any) -> int:
    """Run `coroutine` to its end on the fastest loop there is."""
    import asyncio

    try:
        import uvloop
    except ImportError:
        return int(asyncio.run(coroutine))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(coroutine))


def handle_signals(stop: Any, hurry: Any) -> None:
    """SIGTERM and SIGINT set `stop`, a second one `hurry`; SIGHUP does nothing yet (there is no reload)."""
    import asyncio

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)


def _dev(arguments: argparse.Namespace) -> int:
    from agent import harden
    from agent.config.durations import parse_duration
    from agent.dev.session import Wishes, run_dev

    harden.drop_ambient(os.environ)
    wishes = Wishes(
        directory=Path(arguments.dir) if arguments.dir else None,
        ttl=_duration("--ttl", arguments.ttl, parse_duration),
        max_ttl=_duration("--max-ttl", arguments.max_ttl, parse_duration),
        json=arguments.json,
    )
    return run_dev(wishes, handle_signals=handle_signals, run_loop=run_loop)


def _duration(option: str, text: str, parse: Callable[[str], float]) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise ConfigError([f"{option}: {error}"]) from error


def _check(arguments: argparse.Namespace) -> int:
    from agent.config.check import advice, warnings
    from agent.config.load import load_file
    from agent.engines.postgres import check_statements
    from agent.files.files import check_template

    config = load_file(Path(arguments.config), environ=dict(os.environ))
    mistakes = [f'role."{n}": {m}' for n, role in config.role.items() for m in check_statements(n, role)]
    for position, template in enumerate(config.template):
        mistakes += [f"template[{position}]: {m}" for m in check_template(template, config.role)]
    if mistakes:
        raise ConfigError(mistakes)
    for line in warnings(config):
        print(f"warning: {line}")
    for line in advice(config):
        print(line)
    print(f"{arguments.config}: no mistakes")
    return _check_live(config) if arguments.live else OK


def _check_live(config: Any) -> int:
    import socket

    from agent import harden, log
    from agent.trial import try_roles

    harden.drop_ambient(os.environ)
    log.configure(level="warning")

    async def try_all() -> int:
        code = OK
        async for tried in try_roles(config, SystemClock(), holder=socket.gethostname()):
            if tried.failed:
                code = FAILED
                print(f"{tried.role}: could not {tried.failed}: {tried.error}")
            else:
                how = "logged in with it" if tried.verified else "did not try it (no verify target)"
                print(f"{tried.role}: minted a user, {how}, revoked it, in {tried.took * 1000:.0f} ms")
        return code

    return run_loop(try_all())


# -- a running agent --------------------------------------------------------------------------------------------------


def _health(path: str) -> Any:
    from agent.client import NoAgent, ask

    answer = ask(path, "GET", "/v1/sys/health")
    if answer.status != 200 or "roles" not in answer.body:
        raise NoAgent(f"{path}: {answer.error}")
    return answer.body


def _full_name(path: str, role: str) -> str:
    """`role` itself, or the one role whose path ends in it."""
    if "/" in role:
        return role.strip("/")
    roles = list(_health(path)["roles"])
    found = [name for name in roles if name.rpartition("/")[2] == role]
    if not found:
        raise ConfigError([f"{role}: no such role; this uid may read {', '.join(roles) or 'none'}"])
    if len(found) > 1:
        raise ConfigError([f"{role}: name one role by its whole path: {', '.join(found)}"])
    return str(found[0])


def _refused(role: str, error: str) -> int:
    _say(error if role in error else f"{role}: {error}")
    return REFUSED


def _get(arguments: argparse.Namespace) -> int:
    from agent.client import ask

    role = _full_name(arguments.socket, arguments.role)
    answer = ask(arguments.socket, "GET", f"/v1/{role}")
    if answer.status != 200:
        return _refused(role, answer.error)
    data = answer.body["data"]
    if arguments.json:
        print(json.dumps(answer.body, indent=2))
    elif arguments.field is None:
        shown = {**data, "lease_duration": answer.body["lease_duration"], "expires_at": answer.body["expires_at"]}
        print("\n".join(f"{name}: {value}" for name, value in shown.items()))
    elif arguments.field in data:
        print(data[arguments.field])
    else:
        raise ConfigError([f"--field {arguments.field}: {role} has {', '.join(data)}"])
    return OK


def _status(arguments: argparse.Namespace) -> int:
    from agent.table import health

    while True:
        report = _health(arguments.socket)
        if arguments.json:
            print(json.dumps(report, indent=None if arguments.watch else 2), flush=True)
        else:
            # Home, then every line to its end, then the rest of the screen: redrawing without a flicker.
            lines = health(report)
            live = arguments.watch and sys.stdout.isatty()
            print("\033[H" + "\033[K\n".join(lines) + "\033[K\n\033[J" if live else "\n".join(lines), flush=True)
        if not arguments.watch:
            return OK if report["ready"] else FAILED
        with contextlib.suppress(KeyboardInterrupt):
            pause(1.0)
            continue
        return OK


def _rotate(arguments: argparse.Namespace) -> int:
    from agent.client import ask
    from agent.config.durations import parse_duration

    timeout = _duration("--timeout", arguments.timeout, parse_duration)
    if arguments.revoke_after is not None:
        _duration("--revoke-after", arguments.revoke_after, parse_duration)
    role = _full_name(arguments.socket, arguments.role)
    now = SystemClock().now
    began = now()
    body = {} if arguments.revoke_after is None else {"revoke_after": arguments.revoke_after}
    answer = ask(arguments.socket, "POST", f"/v1/{role}/rotate", body=body)
    if answer.status != 202:
        return _refused(role, answer.error)
    before = answer.body["data"]["generation"]
    while now() < began + timeout:
        found = _health(arguments.socket)["roles"].get(role)
        if found is None:
            print(f"{role}: asked for; this uid may not see the outcome")
            return OK
        if found["generation"] not in (None, before):
            print(f"{role}: replaced in {now() - began:.2f} s; {found['draining']} draining")
            return OK
        pause(0.05)
    _say(f"{role}: no new credential within {arguments.timeout}; `leasehold status` says why")
    return FAILED
