"""The order of start and stop where the real parts cannot be made to misbehave from outside."""

import asyncio
import io
import json
import os
import threading
from pathlib import Path

import pytest
from attrs import evolve

from agent import log
from agent.app import App
from agent.clock import SystemClock
from agent.config.model import (
    Agent,
    Config,
    Connection,
    Duration,
    Listener,
    PostgreSQL,
    Role,
    Template,
    UnixListener,
)
from agent.errors import ConfigError, StartError
from agent.files.template import check_template
from agent.leases.record import RoleRecord
from agent.leases.renewer import Renewer
from agent.state import StateDir, boot_id
from agent.translate import access_of, policy_of
from tests.unit.leases.builders import ROLE, lease


def config(*, templates: tuple[Template, ...] = (), stop_timeout: float = 2.0) -> Config:
    """A server that nobody listens on, one role, no socket."""
    nowhere = PostgreSQL(host="127.0.0.1", port=9, dbname="d", user="u", sslmode="disable")
    return Config(
        agent=Agent(stop_timeout=Duration(stop_timeout)),
        postgresql={"postgresql": nowhere},
        role={ROLE: Role(upstream="postgresql", group="readers")},
        template=templates,
    )


@pytest.fixture
def lines() -> io.StringIO:
    stream = io.StringIO()
    log.configure(level="info", json=True, stream=stream)
    return stream


async def test_a_stop_during_a_start_that_hangs_ends_the_agent(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not answer must not outlast SIGTERM."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    template = Template(destination=str(tmp_path / "out" / "f"), contents="x", roles=(ROLE,), allow_disk=True)
    app, stop = App(config(templates=(template,)), clock=SystemClock()), asyncio.Event()

    def hang(path: Path) -> bool:
        return bool(pipe.read_bytes())  # nobody ever writes

    monkeypatch.setattr("agent.files.sink.atomicfile.clear_stale_temps", lambda *a, **k: hang(pipe))
    running = asyncio.create_task(app.run(stop))
    await asyncio.sleep(0.3)
    assert not running.done()
    stop.set()
    async with asyncio.timeout(3):
        ended = await running

    assert not ended.crashed
    assert json.loads(lines.getvalue().splitlines()[-1])["event"] == "stopped"
    pipe_end = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)  # lets the thread go
    os.close(pipe_end)


async def test_a_stop_keeps_its_deadline_and_names_what_is_left(lines: io.StringIO) -> None:
    app, stop = App(config(), clock=SystemClock()), asyncio.Event()

    running = asyncio.create_task(app.run(stop))
    await asyncio.sleep(0.5)
    assert not app.ready
    assert app.live
    stop.set()
    async with asyncio.timeout(3):
        ended = await running

    assert not ended.crashed
    assert ended.left == []


async def test_a_stop_without_a_thread_says_what_is_left_and_still_revokes(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that forks without end takes every thread: the agent goes on, and its stop comes to the users."""
    template = Template(destination=str(tmp_path / "out" / "f"), contents="x", roles=(ROLE,), allow_disk=True)
    socket = Listener(unix=UnixListener(address=str(tmp_path / "api.sock")))
    revoked: list[float] = []

    async def close(_: Renewer, deadline: float) -> list[str]:
        revoked.append(deadline)
        return [f"{ROLE}: one user"]

    monkeypatch.setattr(Renewer, "close", close)
    app, stop = App(evolve(config(templates=(template,)), listener=socket), clock=SystemClock()), asyncio.Event()
    running = asyncio.create_task(app.run(stop))
    await asyncio.sleep(0.5)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "file work":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    stop.set()
    async with asyncio.timeout(3):
        ended = await running

    assert not ended.crashed
    assert len(revoked) == 1
    assert ended.left == [
        f"{tmp_path}/out/f cannot be removed: no thread to be had (pids limit?)",
        f"{ROLE}: one user",
    ]
    assert "socket-lost" in lines.getvalue(), "the socket's file is left too, which the next start takes over"


@pytest.mark.parametrize(
    ("bug", "said"),
    [
        (ZeroDivisionError("canary"), "files were not removed: ZeroDivisionError at "),
        (OSError(5, "Input/output error"), "files were not removed: Input/output error"),
        (StartError("it is gone"), "files were not removed: it is gone"),
    ],
)
async def test_a_step_of_the_stop_that_fails_is_told_and_the_users_are_still_revoked(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch, bug: Exception, said: str
) -> None:
    async def fail(_: object) -> list[str]:
        raise bug

    async def close(_: Renewer, deadline: float) -> list[str]:
        raise bug

    monkeypatch.setattr("agent.files.files.Files.remove", fail)
    monkeypatch.setattr(Renewer, "close", close)
    template = Template(destination=str(tmp_path / "out" / "f"), contents="x", roles=(ROLE,), allow_disk=True)
    app, stop = App(config(templates=(template,)), clock=SystemClock()), asyncio.Event()
    running = asyncio.create_task(app.run(stop))
    await asyncio.sleep(0.5)
    stop.set()
    async with asyncio.timeout(3):
        ended = await running

    assert ended.left[0].startswith(said)
    assert ended.left[1].startswith(f"{ROLE}: not revoked: ")
    assert "canary" not in lines.getvalue() + str(ended.left)
    assert json.loads(lines.getvalue().splitlines()[-1])["event"] == "stopped"


async def test_a_wrong_template_ends_the_start_and_leaves_nothing(tmp_path: Path, lines: io.StringIO) -> None:
    template = Template(destination=str(tmp_path / "f"), contents="{{ nope", roles=(ROLE,), allow_disk=True)

    with pytest.raises(ConfigError):
        await App(config(templates=(template,)), clock=SystemClock()).run(asyncio.Event())

    assert os.listdir(tmp_path) == []


def test_a_start_that_fails_leaves_what_the_last_run_left(tmp_path: Path, lines: io.StringIO) -> None:
    """A typo in a template must not cost the app its credential, nor the next start its record."""
    wrong = Template(destination=str(tmp_path / "f"), contents="{{ nope", roles=(ROLE,), allow_disk=True)
    state = StateDir(tmp_path / "state", holder="web-0", boot=boot_id(), allow_disk=True)
    state.open(1)
    left = RoleRecord(current=lease(ttl=3600.0, at=SystemClock().now()), generation=7, verified=True)
    asyncio.run(state.save(ROLE, left))
    state.close()
    remembering = Agent(state_dir=str(tmp_path / "state"), state_allow_disk=True, holder="web-0")

    app = App(evolve(config(templates=(wrong,)), agent=remembering), clock=SystemClock())
    with pytest.raises(ConfigError):
        asyncio.run(app.run(asyncio.Event()))

    state.open(1)
    assert state.load(ROLE) == left
    state.close()


def test_a_template_source_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    template = Template(destination="/x/f", source=str(tmp_path / "pipe"), roles=(ROLE,))

    mistakes = check_template(template, config().role)

    assert any("is not a regular file" in line for line in mistakes)


def test_a_role_becomes_a_policy_and_an_access() -> None:
    role = Role(
        upstream="postgresql",
        group="g",
        allow=("uid:7",),
        overlap=Duration(5.0),
        drain=Duration(6.0),
        retries=3,
        lease_renewal_threshold=0.5,
        connection=Connection(host="db", dbname="app"),
    )

    policy, access = policy_of(role), access_of(role, own_uid=1)

    assert (policy.threshold, policy.overlap, policy.drain, policy.attempts) == (0.5, 5.0, 6.0, 3)
    assert policy.max_lifetime == float("inf")
    assert access.connection == {"host": "db", "port": 5432, "dbname": "app", "sslmode": "require"}
