"""Promise 9: no secret is ever anywhere but in the file, on the socket and at the database.

The whole flow at debug level, with every trouble this suite knows; whatever was a secret during it is then looked for
wherever the agent or its server have written. A place that cannot be read fails the test.
"""

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, Answer, Client, Program, as_uid, credential, eventually, from_file
from tests.acceptance.others import NOBODY, as_root, environment, python_of_others
from tests.acceptance.scenes import ROLE, document, leased, role_of
from tests.fix_postgres import Database, StartCluster, create_database, superuser

FAILING = "database/creds/failing"
WRONG = "a-wrong-password-that-nobody-may-see"
HOOK = """#!/bin/sh
{ env; tr '\\0' '\\n' </proc/$$/cmdline; } >>"$0.seen"
"""


@dataclass(kw_only=True)
class Secrets:
    """What must not be found: passwords anywhere, user names and lease ids anywhere but in the database."""

    passwords: set[str] = field(default_factory=set)
    names: set[str] = field(default_factory=set)

    def found_in(self, text: str, *, names: bool = True) -> list[str]:
        """Those that stand in `text`."""
        return [each for each in (*self.passwords, *(self.names if names else ())) if each in text]


@dataclass(kw_only=True)
class Collector:
    """Reads both doors all the time and keeps every secret, and every answer that should hold none."""

    agent: Agent
    secrets: Secrets
    answers: list[Answer] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with Client(self.agent.socket) as client:
            while not self.done.wait(0.05):
                self.read(client)
                self.answers += [client.ask(target) for target in ("/v1/sys/health", "/readyz", f"/v1/{FAILING}")]
                self.look_at_process()

    def read(self, client: Client) -> None:
        answer = client.ask(f"/v1/{ROLE}")
        held = []
        if answer.status == 200:
            held.append(credential(answer))
        else:
            self.answers.append(answer)
        with contextlib.suppress(FileNotFoundError):
            held.append(from_file(self.agent.file))
        for each in held:
            self.secrets.passwords.add(each.password)
            self.secrets.names |= {each.username, each.lease_id}

    def look_at_process(self) -> None:
        pid = self.agent.pid
        self.places[f"cmdline {time.time():.0f}"] = Path(f"/proc/{pid}/cmdline").read_text()
        # Root may look into it, where the kernel's capabilities are whole; the copy from before stands in any case.
        with contextlib.suppress(PermissionError):
            self.places[f"environ {time.time():.0f}"] = Path(f"/proc/{pid}/environ").read_text()
        self.places[f"status {time.time():.0f}"] = Path(f"/proc/{pid}/status").read_text()


@contextlib.contextmanager
def collecting(agent: Agent, secrets: Secrets) -> Iterator[Collector]:
    collector = Collector(agent=agent, secrets=secrets)
    thread = threading.Thread(target=collector.run)
    thread.start()
    try:
        yield collector
    finally:
        collector.done.set()
        thread.join()


def nasty_requests(agent: Agent) -> list[bytes]:
    """Requests that go wrong while they carry secrets: what comes back, and the log, must not repeat them."""
    held = agent.read(ROLE)
    secret = f"{held.password} {held.username} {held.lease_id}".encode()
    quoted = secret.replace(b" ", b"/")
    heads = (
        b"GET /v1/" + quoted + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"BREW /" + quoted + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-Vault-Token: " + secret + b"\r\nbroken " + secret + b"\r\n\r\n",
        b"POST /v1/sys/leases/renew HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n" + secret,
        f"POST /v1/{ROLE}/rotate HTTP/1.1\r\nHost: x\r\nContent-Length: {len(secret)}\r\n\r\n".encode() + secret,
        b"\x16\x03\x01" + secret,
    )
    answers = []
    for head in heads:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, contextlib.suppress(ConnectionError):
            sock.settimeout(5.0)
            sock.connect(str(agent.socket))
            sock.sendall(head)
            sock.shutdown(socket.SHUT_WR)
            answers.append(sock.recv(65536))
    return answers


def suffer(agent: Agent, database: Database, collector: Collector) -> list[bytes]:
    """Renewals and rotations, a refused login, an outage, a wrong admin password; then all is well again."""
    cluster = database.cluster
    assert eventually(lambda: len(agent.logged("published")) >= 2 and bool(agent.logged("renewed")), within=30.0)
    received = nasty_requests(agent)
    # No new user may log in: verification refuses until the right is back.
    database.execute(f"REVOKE CONNECT ON DATABASE {database.dbname} FROM PUBLIC")
    assert eventually(lambda: bool(agent.logged("verify-failed")), within=20.0)
    database.execute(f"GRANT CONNECT ON DATABASE {database.dbname} TO PUBLIC")
    assert eventually(lambda: agent.role(ROLE)["phase"] == "fresh", within=30.0)
    # The server stops answering for longer than the lease lives.
    cluster.pause()
    assert eventually(lambda: agent.ask(f"/v1/{ROLE}").status == 503, within=15.0)
    time.sleep(1.0)
    cluster.resume()
    assert eventually(lambda: agent.role(ROLE)["phase"] == "fresh", within=30.0)
    # The agent's own login is refused: the file holds a password that is not it.
    right = database.admin_password_file.read_text()
    database.admin_password_file.write_text(WRONG)
    before = len(agent.log)
    with superuser(cluster) as conn:
        conn.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", (database.admin,))
    assert eventually(lambda: any("password" in str(line.get("error")) for line in agent.log[before:]), within=20.0)
    database.admin_password_file.write_text(right)
    return received


def journal(database: Database) -> str:
    return "\n".join(str(row) for row in database.execute("SELECT l::text FROM leasehold.lease l"))


def limit(pid: int, name: str) -> str:
    (line,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith(name)]
    return line.removeprefix(name).strip()


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_no_secret_is_anywhere_else(
    run_agent: RunAgent, own_cluster: StartCluster, place: Path, tmp_path: Path, started: list[Program]
) -> None:
    """Promise 9, R004-034, R004-035: the whole flow at debug, then every place is swept: zero hits."""
    database = create_database(own_cluster(log_statement="ddl"), tmp_path)
    log_began = database.cluster.log_file.stat().st_size  # before that stands the test's own CREATE ROLE
    hook = place / "hook"
    hook.write_text(HOOK)
    hook.chmod(0o700)
    text: Any = document(place, database, default_ttl="5s", max_ttl="7s", retries=1, on_failed=[str(hook)])
    text["role"][FAILING] = role_of(database, group="no_such_group", required=False)
    text["agent"]["log_level"] = "debug"
    # An environment is fixed at exec: it is read by the shell that becomes the agent.
    environ = place / "environ"
    before = ["sh", "-c", 'cat /proc/$$/environ >"$0" && exec "$@"', str(environ)]
    agent = run_agent(text, before=before).wait_ready()
    secrets = Secrets(passwords={database.admin_password.reveal(), database.cluster.password.reveal(), WRONG})
    assert limit(agent.pid, "Max core file size").split()[:2] == ["0", "0"]

    with collecting(agent, secrets) as collector:
        received = suffer(agent, database, collector)
    status = Program(["status", "-s", str(agent.socket)], place)
    started.append(status)
    status.wait()
    agent.send(signal.SIGTERM)
    assert agent.wait() in (0, 6)

    rows = journal(database)
    for username, lease_id in database.execute("SELECT username, id::text FROM leasehold.lease WHERE username <> ''"):
        secrets.names |= {username, lease_id}  # those that were refused were never served
    assert len(secrets.passwords) >= 6
    assert len(secrets.names) >= 10
    assert any(answer.status == 503 for answer in collector.answers)
    assert len(received) >= 5
    assert leased(database) == set()
    places = {
        "stdout": agent.stdout,
        "stderr": agent.stderr,
        "status": status.stdout + status.stderr,
        "environ at exec": environ.read_text(),
        "hook": hook.with_suffix(".seen").read_text(),
        "answers": "\n".join(f"{answer.headers} {answer.text}" for answer in collector.answers),
        "answers to nonsense": "\n".join(each.decode("latin-1") for each in received),
        **collector.places,
    }
    for path in place.rglob("*"):
        if path.is_file():
            places[str(path)] = path.read_text()
    for name, text in places.items():
        assert secrets.found_in(text) == [], name
    log = database.cluster.log_file.read_bytes()[log_began:].decode()
    assert "CREATE ROLE" in log, "log_statement = ddl shows nothing"
    for name, text in {"the server's log": log, "the journal": rows}.items():
        assert secrets.found_in(text, names=False) == [], name
    assert "PATH=" in places["environ at exec"]
    assert "LEASEHOLD_ROLE" in places["hook"]
    assert "Traceback" not in agent.stderr


@as_root
def test_the_process_cannot_be_dumped_or_looked_into(
    run_agent: RunAgent, database: Database, place: Path, tmp_path: Path
) -> None:
    """Design section 8: an undumpable process belongs to root in /proc, so its own uid cannot read its memory."""
    python = python_of_others()
    directory = place / "nobody"
    directory.mkdir()
    directory.chmod(0o755)
    password = place / "password"
    password.write_text(database.admin_password.reveal())
    for path in (directory, password):
        os.chown(path, NOBODY, NOBODY)
    text: Any = document(directory, database)
    text["postgresql"]["password_file"] = str(password)
    agent = run_agent(text, python=python, environment=environment(), uid=NOBODY).wait_ready()
    process = Path(f"/proc/{agent.pid}")

    assert "Uid:\t65534" in (process / "status").read_text()
    assert (process / "mem").stat().st_uid == 0
    assert (process / "environ").stat().st_uid == 0
    assert "CoreDumping:\t0" in (process / "status").read_text()
    assert limit(agent.pid, "Max core file size").split()[:2] == ["0", "0"]
    assert agent.socket.stat().st_uid == agent.file.stat().st_uid == NOBODY
    with as_uid(NOBODY), pytest.raises(PermissionError):
        (process / "environ").read_text()
    assert agent.stop() == 0
