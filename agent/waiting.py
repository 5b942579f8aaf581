"""`wait` and `probe`: is the agent there yet? For scripts, entry points and exec probes, so they start fast."""

import argparse
from collections.abc import Callable
from functools import partial

from agent import codes, dial
from agent.client import NoAgent, Silent, ask, full_name, target
from agent.codes import Unknown, duration, say

_FIRST, _LAST = 0.05, 1.0
"""Seconds between two looks: soon at first, then once a second."""

_PROBES = {"started": "/startupz", "ready": "/readyz", "live": "/livez"}

Look = Callable[[float], str]
"""Asks once, within some seconds: "" if it holds, else why not."""


def probe(arguments: argparse.Namespace) -> int:
    """One question, one line, exit code 0 or 1."""
    why = _looks_at(arguments.socket, arguments.question, duration("--timeout", arguments.timeout))
    print(why or arguments.question)
    return codes.FAILED if why else codes.OK


def wait(arguments: argparse.Namespace) -> int:
    """Block until all that was asked for holds, or time is up."""
    end = dial.now() + duration("--timeout", arguments.timeout)
    questions = [question for question in ("started", "ready") if getattr(arguments, question)]
    if not questions and not arguments.role:
        questions = ["started"]
    looks: list[Look] = [partial(_looks_at, arguments.socket, question) for question in questions]
    looks += [partial(_credential, arguments.socket, role) for role in arguments.role]
    for look in looks:
        why = _until(look, end)
        if why:
            say(f"{why}; gave up after {arguments.timeout}")
            return codes.FAILED
    return codes.OK


def _until(look: Look, end: float) -> str:
    """Look again and again until it holds ("") or the dial shows `end` (why it does not)."""
    delay = _FIRST
    while True:
        try:
            why = look(max(0.1, end - dial.now()))
        except NoAgent as error:  # it may come yet
            why = str(error)
        left = end - dial.now()
        if not why or left <= 0:
            return why
        dial.pause(min(delay, left))
        delay = min(delay * 2, _LAST)


def _looks_at(path: str, question: str, timeout: float) -> str:
    answer = ask(path, "GET", _PROBES[question], timeout=timeout)
    return "" if answer.status == 200 else f"not {question}"


def _credential(path: str, role: str, timeout: float) -> str:
    name = full_name(path, role, timeout=timeout)
    why = f"{name}: no credential yet (`leasehold status` says why)"
    try:
        answer = ask(path, "HEAD", target(name), timeout=timeout)
    except Silent:  # while a role's first attempt is running, a read waits for its outcome
        return why
    if answer.status in (403, 404):
        raise Unknown(f"{name}: {ask(path, 'GET', target(name), timeout=timeout).error}")
    return "" if answer.status == 200 else why
