"""The commands that ask a running agent over its socket: get, status, rotate. They print; they decide nothing."""

import argparse
import contextlib
import json
import sys
from typing import Any

from agent import codes
from agent.client import NoAgent, ask
from agent.clock import SystemClock, pause
from agent.codes import Unknown, duration, say
from agent.errors import ConfigError
from agent.table import health


def _health(path: str) -> Any:
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
        raise Unknown(f"{role}: no such role; this uid may read {', '.join(roles) or 'none'}")
    if len(found) > 1:
        raise ConfigError([f"{role}: name one role by its whole path: {', '.join(found)}"])
    return str(found[0])


def _refused(role: str, error: str) -> int:
    say(error if role in error else f"{role}: {error}")
    return codes.REFUSED


def get(arguments: argparse.Namespace) -> int:
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
    return codes.OK


def status(arguments: argparse.Namespace) -> int:
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
            return codes.OK if report["ready"] else codes.FAILED
        with contextlib.suppress(KeyboardInterrupt):
            pause(1.0)
            continue
        return codes.OK


def rotate(arguments: argparse.Namespace) -> int:
    timeout = duration("--timeout", arguments.timeout)
    if arguments.revoke_after is not None:
        duration("--revoke-after", arguments.revoke_after)
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
            return codes.OK
        if found["generation"] not in (None, before):
            print(f"{role}: replaced in {now() - began:.2f} s; {found['draining']} draining")
            return codes.OK
        pause(0.05)
    say(f"{role}: no new credential within {arguments.timeout}; `leasehold status` says why")
    return codes.FAILED
