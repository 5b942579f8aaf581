"""The commands that ask a running agent over its socket: get, status, rotate. They print; they decide nothing."""

import argparse
import json
import sys
from typing import Any

from agent import codes, dial
from agent.client import ask, full_name, report, target
from agent.codes import duration, say, shown
from agent.errors import ConfigError
from agent.table import health


def _refused(role: str, error: str) -> int:
    say(error if role in error else f"{role}: {error}")
    return codes.REFUSED


def get(arguments: argparse.Namespace) -> int:
    """Print a credential, or one value of it."""
    role = full_name(arguments.socket, arguments.role)
    answer = ask(arguments.socket, "GET", target(role))
    if answer.status != 200:
        return _refused(role, answer.error)
    data = answer.body["data"]
    if arguments.json:
        print(json.dumps(answer.body, indent=2))
    elif arguments.field is None:
        values = {**data, "lease_duration": answer.body["lease_duration"], "expires_at": answer.body["expires_at"]}
        print("\n".join(f"{name}: {_fit(value)}" for name, value in values.items()))
    elif arguments.field in data:
        print(_fit(data[arguments.field]))
    else:
        raise ConfigError([f"--field {arguments.field}: {role} has {', '.join(data)}"])
    return codes.OK


def _fit(value: Any) -> str:
    """A value as it is for a script; on a terminal line by line, with nothing that the terminal would obey."""
    text = str(value)
    return "\n".join(shown(line) for line in text.split("\n")) if sys.stdout.isatty() else text


def status(arguments: argparse.Namespace) -> int:
    """Print how every role is doing, once or every second."""
    while True:
        found = report(arguments.socket)
        if arguments.json:
            print(json.dumps(found, indent=None if arguments.watch else 2), flush=True)
        else:
            # Home, then every line to its end, then the rest of the screen: redrawing without a flicker.
            lines = [shown(line) for line in health(found)]
            live = arguments.watch and sys.stdout.isatty()
            print("\033[H" + "\033[K\n".join(lines) + "\033[K\n\033[J" if live else "\n".join(lines), flush=True)
        if not arguments.watch:
            return codes.OK if found["ready"] else codes.FAILED
        try:
            dial.pause(1.0)
        except KeyboardInterrupt:
            return codes.OK


def rotate(arguments: argparse.Namespace) -> int:
    """Ask for a replacement, and wait until it is there."""
    timeout = duration("--timeout", arguments.timeout)
    if arguments.revoke_after is not None:
        duration("--revoke-after", arguments.revoke_after)
    role = full_name(arguments.socket, arguments.role)
    began = dial.now()
    body = {} if arguments.revoke_after is None else {"revoke_after": arguments.revoke_after}
    answer = ask(arguments.socket, "POST", f"{target(role)}/rotate", body=body)
    if answer.status != 202:
        return _refused(role, answer.error)
    before = answer.body["data"]["generation"]
    while dial.now() < began + timeout:
        found = report(arguments.socket)["roles"].get(role)
        if found is None:
            print(f"{role}: asked for; this uid may not see the outcome")
            return codes.OK
        if found["generation"] not in (None, before):
            print(f"{role}: replaced in {dial.now() - began:.2f} s; {found['draining']} draining")
            return codes.OK
        dial.pause(0.05)
    say(f"{role}: no new credential within {arguments.timeout}; `leasehold status` says why")
    return codes.FAILED
