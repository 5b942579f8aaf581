"""The command line: arguments, signals, exit codes, one-line errors. Thin: whatever it does, another file does."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agent import __version__, codes
from agent.codes import duration, say
from agent.errors import ConfigError, LeaseholdError, StartError

_CODES: tuple[tuple[type[LeaseholdError], int], ...] = (
    (ConfigError, codes.MISTAKE),
    (StartError, codes.CANNOT_START),
    (codes.Unknown, codes.REFUSED),
    (LeaseholdError, codes.NO_AGENT),
)
_SOCKET = "/run/leasehold/leasehold.sock"
_CONFIG = "/etc/leasehold/agent.toml"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    arguments = _parser().parse_args(argv)
    try:
        return int(arguments.run(arguments))
    except LeaseholdError as error:
        for line in error.mistakes if isinstance(error, ConfigError) else (str(error),):
            say(line)
        return next(code for kind, code in _CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has gone, as in `leasehold status | head -1`.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        return codes.OK
    except Exception as bug:  # noqa: BLE001 - a traceback would show what the exception says, which may be a secret
        from agent.log import place_of

        say(f"a bug, please report it: {type(bug).__name__} at {place_of(bug)}")
        return codes.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="leasehold",
        description="Short-lived database credentials for the app next door: obtained, renewed, replaced with overlap, "
        "handed over as a file and on a Unix socket.",
        epilog=codes.EXPLAINED,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"leasehold {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str, more: str = "") -> Any:
        made = commands.add_parser(
            name, help=text, description=f"{text}. {more}", epilog=codes.EXPLAINED,
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
    dev.add_argument("--ttl", default="30s", help="length of a lease, at least 5s (default 30s)")
    dev.add_argument("--max-ttl", default="90s", help="renewals end here and the user is replaced (default 90s)")
    dev.add_argument("--json", action="store_true", help="one line of JSON once it is ready, and nothing else")

    check = command("check", _check_file, "say everything that is wrong with a configuration file")
    _config_argument(check)
    check.add_argument("file", nargs="?", metavar="FILE", help="the file, in place of --config")
    check.add_argument("--live", action="store_true", help="mint, log in and revoke once for every role")

    get = command(
        "get", _asking("get"), "print a credential", "ROLE is its path, or the path's last part where that is unique."
    )
    get.add_argument("role", metavar="ROLE")
    get.add_argument("--field", metavar="NAME", help="only this value, e.g. password")
    get.add_argument("--json", action="store_true", help="the agent's whole answer")
    _socket_argument(get)

    status = command(
        "status", _asking("status"), "how every role is doing", "Exit code 1 while the agent is not ready."
    )
    status.add_argument("--watch", action="store_true", help="again every second, until Ctrl-C")
    status.add_argument("--json", action="store_true", help="the agent's own report")
    _socket_argument(status)

    rotate = command("rotate", _asking("rotate"), "replace a credential now, with overlap, and wait for the new one")
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
    from agent.clock import SystemClock

    async def serve() -> int:
        stop, hurry = asyncio.Event(), asyncio.Event()
        handle_signals(stop, hurry)
        # What start-up made lives for ever: the collector need not look at it again at every read.
        ended = await App(config, clock=SystemClock()).run(stop, hurry=hurry, on_started=gc.freeze)
        return codes.FAILED if ended.crashed else codes.LEFT_BEHIND if ended.left else codes.OK

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


def handle_signals(stop: Any, hurry: Any, *, terminal: bool = False) -> None:
    """SIGTERM and SIGINT set `stop`, a second one `hurry`. SIGHUP does nothing yet (there is no reload), except where

    the program belongs to a `terminal`: there it says that the terminal was closed, and is a stop like the others.
    """
    import asyncio

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, asked if terminal else lambda: None)


def _dev(arguments: argparse.Namespace) -> int:
    from agent import harden
    from agent.dev.session import Wishes, run_dev

    harden.drop_ambient(os.environ)
    wishes = Wishes(
        directory=Path(arguments.dir) if arguments.dir else None,
        ttl=duration("--ttl", arguments.ttl),
        max_ttl=duration("--max-ttl", arguments.max_ttl),
        json=arguments.json,
    )
    return run_dev(wishes, handle_signals=handle_signals, run_loop=run_loop)


def _check_file(arguments: argparse.Namespace) -> int:
    from agent.checking import check

    return check(arguments, run_loop=run_loop)


def _asking(name: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        from agent import asking

        return int(getattr(asking, name)(arguments))

    return run
