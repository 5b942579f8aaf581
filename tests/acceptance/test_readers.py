"""Many readers, one lease (promise 2); and who may not read, or does not speak HTTP (promise 9)."""

import socket
import threading
from pathlib import Path

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Client, as_uid, credential, eventually, log_in
from tests.acceptance.others import as_root
from tests.acceptance.scenes import ROLE, document, leased, minted, place_of, role_of
from tests.fix_postgres import Database

LAZY = "database/creds/lazy"
STRANGER = 12345


def converse(path: Path, sent: bytes) -> bytes:
    """All that comes back for these bytes until the agent closes or falls silent."""
    received = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(10.0)
        sock.connect(str(path))
        try:
            sock.sendall(sent)
            sock.shutdown(socket.SHUT_WR)
            while more := sock.recv(65536):
                received += more
        except ConnectionError:
            pass
    return received


def with_lazy_role(place: Path, database: Database, **lazy: object) -> object:
    text = document(place, database)
    text["role"][LAZY] = role_of(database, lazy=True, required=False, **lazy)
    return text


def test_a_hundred_first_readers_cost_one_user(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 2, R004-026, R000-024: 100 at once on a cold role, then 1,000 whose headers all differ: one user."""
    agent = run_agent(with_lazy_role(place, database)).wait_ready()
    before = leased(database)
    assert len(before) == 1, "a lazy role has no user before anyone asks"
    request = f"GET /v1/{LAZY} HTTP/1.1\r\nHost: leasehold\r\nConnection: close\r\n\r\n".encode()
    sockets = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(100)]
    for sock in sockets:
        sock.settimeout(20.0)
        sock.connect(str(agent.socket))

    for sock in sockets:
        sock.sendall(request)
    answers = [sock.makefile("rb").read() for sock in sockets]
    for sock in sockets:
        sock.close()

    assert {answer.partition(b"\r\n")[0] for answer in answers} == {b"HTTP/1.1 200 OK"}
    assert len({answer.partition(b"\r\n\r\n")[2] for answer in answers}) <= 2, "the same but for a second's tick"
    (user,) = leased(database) - before
    assert minted(database) == 2

    with Client(agent.socket) as client:
        for number in range(1000):
            trace = {"traceparent": f"00-{number:032x}-{number + 1:016x}-01", "X-Request-Id": str(number)}
            assert credential(client.ask(f"/v1/{LAZY}", headers=trace)).username == user

    assert leased(database) == {*before, user}
    assert minted(database) == 2


def test_a_first_reader_who_leaves_takes_nothing_from_the_others(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Promise 2: the first of two readers hangs up at once; the second gets the credential, and it cost one issue."""
    agent = run_agent(with_lazy_role(place, database)).wait_ready()
    request = f"GET /v1/{LAZY} HTTP/1.1\r\nHost: leasehold\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as impatient:
        impatient.connect(str(agent.socket))
        impatient.sendall(request)

    held = agent.read(LAZY)

    with log_in(place_of(database), held) as app:
        app.execute("SELECT * FROM reports")
    assert minted(database) == 2


def test_a_lazy_role_is_let_go_when_nobody_asks(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Design section 3: after one idle TTL the user is revoked; the next reader gets another."""
    agent = run_agent(with_lazy_role(place, database, default_ttl="5s", max_ttl="1h")).wait_ready()
    first = agent.read(LAZY)
    assert first.username in leased(database)

    assert eventually(lambda: first.username not in leased(database), within=9.0)

    assert eventually(lambda: agent.role(LAZY)["phase"] == "idle" and agent.role(LAZY)["draining"] == 0)
    assert minted(database) == 2
    assert agent.probe("readyz") == 200
    assert agent.read(LAZY).username != first.username


@as_root
def test_a_stranger_is_told_which_line_would_let_him_in(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 9, R004-041: deny by default, by the uid that the kernel names; the 403 names uid and line."""
    text = document(place, database)
    text["listener"]["unix"]["socket_group"] = str(STRANGER)
    text["role"][LAZY] = role_of(database, lazy=True, required=False, allow=[f"uid:{STRANGER}"])
    agent = run_agent(text).wait_ready()

    with as_uid(STRANGER):
        refused = agent.ask(f"/v1/{ROLE}")
        rotation = agent.ask(f"/v1/{ROLE}/rotate", method="POST")
        own = agent.ask(f"/v1/{LAZY}")
        report = agent.health()

    assert refused.status == rotation.status == 403
    assert f"uid {STRANGER}" in refused.error
    assert f'add "uid:{STRANGER}" to allow' in refused.error
    assert f'[role."{ROLE}"]' in refused.error
    assert own.status == 200
    assert list(report["roles"]) == [LAZY]
    assert report["files"] == report["upstreams"] == []
    assert agent.ask(f"/v1/{LAZY}").status == 403
    assert agent.logged("denied", uid=STRANGER, role=ROLE, operation="read")
    assert minted(database) == 2


@as_root
def test_the_socket_s_mode_keeps_out_who_has_no_business_there(
    run_agent: RunAgent, database: Database, place: Path
) -> None:
    """Promise 9: 0660 and the agent's own group unless told otherwise, in a directory of 0750 where it makes one."""
    text = document(place, database)
    text["listener"]["unix"]["address"] = str(place / "run" / "agent.sock")
    agent = run_agent(text).wait_ready()

    assert agent.socket.stat().st_mode & 0o777 == 0o660
    assert agent.socket.parent.stat().st_mode & 0o777 == 0o750
    with as_uid(STRANGER), pytest.raises(PermissionError):
        agent.ask(f"/v1/{ROLE}")


GARBAGE = {
    "noise": bytes(range(256)) * 8,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "another protocol": b"SSH-2.0-OpenSSH_9.9\r\n",
    "no version": b"GET /v1/database/creds/app\r\n\r\n",
    "two lengths": b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "smuggled": b"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "endless header": b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000,
    "endless line": b"GET /" + b"a" * 100_000,
    "huge body": b"POST / HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n" + b"b" * 100_000,
    "upgrade": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "traversal": b"GET /v1/../../etc/passwd HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    "nul": b"GET /v1/database/creds/app\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "half a request": b"GET /v1/database/creds/app HTTP/1.1\r\nHost",
    "nothing": b"",
}


def test_noise_on_the_socket_disturbs_nobody(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 9: garbage gets a 4xx or a closed door and no credential; honest readers meanwhile notice nothing."""
    agent = run_agent(document(place, database)).wait_ready()
    done = threading.Event()
    read: list[tuple[int, float]] = []

    def honest() -> None:
        with Client(agent.socket) as client:
            while not done.wait(0.005):
                answer = client.ask(f"/v1/{ROLE}")
                read.append((answer.status, answer.took))

    reader = threading.Thread(target=honest)
    reader.start()
    answers: dict[str, list[bytes]] = {name: [] for name in GARBAGE}
    try:
        while len(read) < 100:
            for name, sent in GARBAGE.items():
                answers[name].append(converse(agent.socket, sent))
    finally:
        done.set()
        reader.join()

    held = agent.read(ROLE)
    for name, received in answers.items():
        for each in received:
            assert not each or each.startswith(b"HTTP/1.1 4"), (name, each[:100])
            assert held.password.encode() not in each
    assert {status for status, _ in read} == {200}
    assert sorted(took for _, took in read)[len(read) // 2] < 0.02
    assert agent.code is None
    assert not agent.logged("handler-failed")
    assert not agent.logged("crashed")


def test_slow_and_idle_connections_do_not_keep_others_out(run_agent: RunAgent, database: Database, place: Path) -> None:
    """Promise 9: as many half requests as a uid may have connections are dropped in time, then it may read again."""
    text = document(place, database)
    text["listener"]["unix"] |= {"max_connections_per_uid": 20, "request_timeout": "500ms", "idle_timeout": "500ms"}
    agent = run_agent(text).wait_ready()
    held = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(20)]
    for sock in held:
        sock.connect(str(agent.socket))
        sock.sendall(b"GET /v1/")

    assert eventually(lambda: reads(agent), within=5.0)

    for sock in held:
        sock.close()


def reads(agent: Agent) -> bool:
    try:
        return agent.ask(f"/v1/{ROLE}").status == 200
    except OSError:
        return False
