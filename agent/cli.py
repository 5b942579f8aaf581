"""The command line: arguments, signals, exit codes, one-line errors. Thin: whatever it does, another file does."""

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from agent import codes
from agent.arguments import parser
from agent.codes import duration, say
from agent.errors import ConfigError, LeaseholdError, StartError

Command = Callable[[argparse.Namespace], int]

_CODES: tuple[tuple[type[LeaseholdError], int], ...] = (
    (ConfigError, codes.MISTAKE),
    (StartError, codes.CANNOT_START),
    (codes.Unknown, codes.REFUSED),
    (LeaseholdError, codes.NO_AGENT),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit code."""
    try:
        code = _outcome(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has gone, as in `leasehold status | head -1`; what is buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.OK
    return code


def _outcome(argv: Sequence[str] | None) -> int:
    try:
        arguments = parser(os.environ).parse_args(argv)
        return COMMANDS[arguments.command](arguments)
    except LeaseholdError as error:
        for line in error.mistakes if isinstance(error, ConfigError) else (str(error),):
            say(line)
        return next(code for kind, code in _CODES if isinstance(error, kind))
    except KeyboardInterrupt:
        return 130
    except SystemExit as ended:  # argparse: help, the version, or a mistake that it has told
        return int(ended.code or codes.OK)
    except BrokenPipeError:
        raise
    except Exception as bug:  # noqa: BLE001 - a traceback would show what the exception says, which may be a secret
        from agent.log import place_of

        say(f"a bug, please report it: {type(bug).__name__} at {place_of(bug)}")
        return codes.FAILED


# -- the commands -----------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    from agent import garbage

    garbage.spare_start()
    garbage.one_heap()
    from agent import running

    work = running.once if arguments.command == "once" else running.run
    return work(arguments, handle_signals=handle_signals, run_loop=run_loop)


def _dev(arguments: argparse.Namespace) -> int:
    from pathlib import Path

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


def _check(arguments: argparse.Namespace) -> int:
    from agent.checking import check

    return check(arguments, run_loop=run_loop)


def _ask(arguments: argparse.Namespace) -> int:
    from agent import asking

    ask: Command = {"get": asking.get, "status": asking.status, "rotate": asking.rotate}[arguments.command]
    return ask(arguments)


def _wait(arguments: argparse.Namespace) -> int:
    from agent import waiting

    return waiting.probe(arguments) if arguments.command == "probe" else waiting.wait(arguments)


def _manage(arguments: argparse.Namespace) -> int:
    if getattr(arguments, "everyone", False):
        return _book(arguments)
    from agent import managing

    manage: Command = {"leases": managing.leases, "stats": managing.stats, "revoke": managing.revoke}[arguments.command]
    return manage(arguments)


def _book(arguments: argparse.Namespace) -> int:
    from agent import booking

    book = {
        "leases": booking.leases,
        "revoke": booking.revoke,
        "sweep": booking.sweep,
        "audit": booking.audit,
    }[arguments.command]
    return book(arguments, run_loop)


def _completion(arguments: argparse.Namespace) -> int:
    from agent import completing

    return completing.completion(arguments)


COMMANDS: dict[str, Command] = {
    **dict.fromkeys(("run", "once"), _run),
    "dev": _dev,
    "check": _check,
    **dict.fromkeys(("get", "status", "rotate"), _ask),
    **dict.fromkeys(("wait", "probe"), _wait),
    **dict.fromkeys(("leases", "stats", "revoke"), _manage),
    **dict.fromkeys(("sweep", "audit"), _book),
    "completion": _completion,
}
"""What runs each command; each imports what it needs, and nothing else does."""


# -- the process ------------------------------------------------------------------------------------------------------


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
    SIGUSR1 and SIGUSR2 mean nothing here: what they do by default would end the agent with its users left behind.
    """
    import asyncio

    def asked() -> None:
        (hurry if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked)
    loop.add_signal_handler(signal.SIGHUP, asked if terminal else lambda: None)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        loop.add_signal_handler(number, lambda: None)
