"""A process in the pod that abuses the socket (promises 7 and 9): others are served, the agent keeps its descriptors,
its memory and its work, and its log says who it is, now and then.

Each kind of limit has its unit tests; here it is the program, its kernel and clients that mean harm.
"""

import array
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import as_uid, eventually, from_file, log_in
from tests.acceptance.neighbour import (
    LOOKS,
    READ,
    STRANGER,
    Honest,
    close_all,
    connected,
    connection,
    figures,
    said,
    unharmed,
)
from tests.acceptance.scenes import ROLE, document, minted, place_of
from tests.fix_postgres import Database

pytestmark = LOOKS
_MANY = 10_000


def open_to_all(place: Path, database: Database, **role: object) -> Any:
    text = document(place, database, **role)
    text["listener"]["unix"]["socket_mode"] = "0666"
    return text


def pour_until_full(sock: socket.socket, request: bytes) -> None:
    """As many requests as go in, and no answer read."""
    sock.setblocking(False)
    try:
        while True:
            sock.send(request * 100)
    except OSError:
        return


def drips(sock: socket.socket) -> bool:
    """Whether another byte could be sent."""
    try:
        return bool(sock.send(b"x"))
    except OSError:
        return False


@pytest.mark.slow
def test_ten_thousand_connections_of_one_user_leave_room_for_the_others(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """256 of them are held, the rest are told why and closed; one line per ten seconds names the uid."""
    agent = run_agent(open_to_all(place, database)).wait_ready()

    with unharmed(agent), Honest(agent=agent) as honest:
        with as_uid(STRANGER):
            held = connected(agent.socket, _MANY)
        assert eventually(lambda: figures(agent).descriptors < 350, within=10.0)
        refused = sum(said(sock).startswith(b"HTTP/1.1 503 ") for sock in held)
        anew = agent.ask(f"/v1/{ROLE}")
        close_all(held)

    honest.check()
    assert anew.status == 200
    assert refused >= min(len(held), _MANY) - 256
    lines = agent.logged("bad-request", uid=STRANGER)
    assert 1 <= len(lines) <= 3
    assert lines[0]["reason"] == "too many connections"


@pytest.mark.slow
def test_connections_never_take_the_descriptors_that_the_agent_works_with(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """A limit of 128 open files, and clients that want them all: rotation, verification and the file go on."""
    text = open_to_all(place, database, default_ttl="5s", max_ttl="6s")
    agent = run_agent(text, before=["prlimit", "--nofile=128:128"]).wait_ready()

    with unharmed(agent):
        first = from_file(agent.file)
        held = connected(agent.socket, 400)
        assert eventually(lambda: figures(agent).descriptors <= 100, within=10.0)
        assert eventually(lambda: from_file(agent.file).username != first.username, within=10.0)
        with log_in(place_of(database), from_file(agent.file)) as app:
            app.execute("SELECT 1")
        close_all(held)

    assert agent.role(ROLE)["verified"] is True
    assert not agent.logged("file-failed")
    assert not agent.logged("verify-failed")
    (line,) = agent.logged("hardening")
    assert "max_connections is 64" in line["warning"]
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 200)


@pytest.mark.slow
def test_clients_that_are_slow_on_purpose_are_ended_and_hold_nobody_up(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Heads and bodies byte by byte, answers that nobody reads: each ends in its time, and takes no memory."""
    text = open_to_all(place, database)
    text["listener"]["unix"] |= {"request_timeout": "1s", "idle_timeout": "1s"}
    agent = run_agent(text).wait_ready()

    with unharmed(agent), Honest(agent=agent) as honest:
        heads, bodies, deaf = (connected(agent.socket, 40) for _ in range(3))
        for sock in bodies:
            sock.sendall(f"POST /v1/{ROLE}/rotate HTTP/1.1\r\nContent-Length: 60000\r\n\r\n".encode())
        for sock in deaf:
            pour_until_full(sock, READ)
        assert eventually(lambda: sum(map(drips, (*heads, *bodies))) == 0, within=6.0, every=0.1)
        assert eventually(lambda: figures(agent).descriptors < 40, within=6.0)
        close_all([*heads, *bodies, *deaf])

    honest.check()
    assert len(agent.logged("bad-request")) <= 4


@pytest.mark.slow
def test_a_hundred_thousand_requests_at_once_are_answered_in_bounded_memory(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """On one connection, a hundred ahead of the answers; whoever goes on without reading them is cut off."""
    agent = run_agent(open_to_all(place, database)).wait_ready()

    with unharmed(agent), Honest(agent=agent) as honest:
        with connection(agent.socket) as sock:
            for request, rounds in ((READ, 1000), (b"GET /nowhere HTTP/1.1\r\n\r\n", 50)):
                for _ in range(rounds):
                    sock.sendall(request * 100)
                    answered(sock, 100)
        for request in (READ, b"GET /nowhere HTTP/1.1\r\n\r\n"):
            with connection(agent.socket) as sock, contextlib.suppress(OSError):
                sock.settimeout(0.5)
                for _ in range(1000):
                    sock.sendall(request * 100)
                raise AssertionError("who never reads is listened to without an end")

    honest.check()


def answered(sock: socket.socket, count: int) -> None:
    """Read so many answers."""
    received = b""
    while received.count(b"\r\n\r\n") < count:
        more = sock.recv(1 << 16)
        assert more, "the connection has ended"
        received += more


def test_descriptors_sent_along_are_dropped(run_agent: RunAgent, database: Database, place: Path) -> None:
    """SCM_RIGHTS: 20,000 descriptors, none of which the agent keeps, not even while the connection lives."""
    agent = run_agent(open_to_all(place, database)).wait_ready()
    with open(os.devnull) as something:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [something.fileno()] * 200))]

        with unharmed(agent):
            before = figures(agent).descriptors
            with connection(agent.socket) as sock:
                for _ in range(100):
                    sock.sendmsg([READ], rights)
                    assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
                assert figures(agent).descriptors <= before + 2


def test_a_peer_that_is_dead_when_it_is_answered_is_still_known_by_its_uid(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """The kernel keeps who connected: a process that asked and died before the agent looked is denied by name."""
    agent = run_agent(open_to_all(place, database)).wait_ready()

    with unharmed(agent):
        agent.send(signal.SIGSTOP)
        try:
            for _ in range(50):
                with as_uid(STRANGER), connection(agent.socket) as sock:
                    sock.sendall(READ)
        finally:
            agent.send(signal.SIGCONT)
        assert eventually(lambda: bool(agent.logged("denied", uid=STRANGER, operation="read")))

    assert len(agent.logged("denied")) == 1


def test_a_peer_that_is_killed_in_the_middle_takes_nothing_with_it(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """As many connections as a user may have, full of requests with their answers under way, and then SIGKILL."""
    agent = run_agent(open_to_all(place, database)).wait_ready()
    client = (
        "import socket, sys, time\n"
        "held = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[3]))]\n"
        "for sock in held:\n"
        "    sock.connect(sys.argv[1]); sock.setblocking(False)\n"
        "    try:\n"
        "        while True: sock.send(sys.argv[2].encode() * 50)\n"
        "    except OSError: pass\n"
        "print('there', flush=True); time.sleep(60)\n"
    )

    with unharmed(agent), Honest(agent=agent) as honest:
        for request, count in ((READ.decode(), 250), ("GET /nowhere HTTP/1.1\r\n\r\n", 60)):
            argv = [sys.executable, "-c", client, str(agent.socket), request, str(count)]
            agent.send(signal.SIGSTOP)  # so that each connection's first read brings as much as the kernel holds
            with subprocess.Popen(argv, stdout=subprocess.PIPE) as process:
                assert process.stdout is not None
                there = process.stdout.readline()
                agent.send(signal.SIGCONT)
                time.sleep(0.5)
                process.kill()
            assert there == b"there\n"

    honest.check(longest=6.0)


def test_loops_of_rotations_and_of_refused_reads_cost_the_database_nothing(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Promise 7: 300 rotations asked for are one; 1,000 refusals are one line."""
    agent = run_agent(open_to_all(place, database)).wait_ready()

    with unharmed(agent):
        statuses = [agent.ask(f"/v1/{ROLE}/rotate", method="POST").status for _ in range(300)]
        with as_uid(STRANGER):
            denials = {agent.ask(f"/v1/{ROLE}").status for _ in range(1000)}
            denials |= {agent.ask(f"/v1/{ROLE}/rotate", method="POST").status for _ in range(100)}
        assert eventually(lambda: minted(database) == 2)

    assert 1 <= statuses.count(202) <= 2
    assert set(statuses) == {202, 429}
    assert denials == {403}
    assert len(agent.logged("rotate-asked")) == statuses.count(202)
    assert len(agent.logged("denied")) <= 4
    assert minted(database) <= 3
