"""What the benchmarks over Vault stand on: a real server, its database, and two agents of one pod, ours and its own.

Both agents log in with the same projected token as the same role, keep a lease of the same role, serve it on a Unix
socket and write it into a file. The server's own agent is set up as its documentation says: auto-auth, a cache that
takes the token of auto-auth, a template. Linux only (/proc).

LEASEHOLD_BENCH_PYTHON names the interpreter that ours runs with: one with what a user installs, which is
requirements/runtime.txt and nothing else, since libraries import what they find. Otherwise it is this one.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.atomicfile import on_memory
from agent.dev.binaries import newest
from agent.dev.cluster import Cluster
from bench.estate import Connection, cpu
from tests.bao import REMEDY, Bao, find, version
from tests.fix_postgres import Database, create_database
from tests.issuers import Issuer
from tests.vault_setup import DatabaseMount, VaultSetup, Way

PATIENCE = 60.0
ROLE = "database/creds/app"
PYTHON = os.environ.get("LEASEHOLD_BENCH_PYTHON") or sys.executable
_ROOT = Path(__file__).parents[1]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """Seconds that leases and logins live."""

    ttl: float = 3600.0
    max_ttl: float = 14400.0
    token_ttl: float = 7200.0
    token_max_ttl: float = 43200.0


@dataclass(frozen=True, kw_only=True)
class Estate:
    """A server of one database, and what a pod has there.

    Attributes:
        directory: in memory where there is any.
    """

    directory: Path
    database: Database
    server: Bao
    made: DatabaseMount
    way: Way


@contextlib.contextmanager
def estate(lengths: Lengths) -> Iterator[Estate]:
    """A fresh one.

    Raises:
        SystemExit: there is no OpenBao or Vault on this machine.
    """
    program = find()
    if program is None:
        raise SystemExit(f"the benchmark over Vault needs one: {REMEDY}")
    memory = Path("/dev/shm")  # noqa: S108 - checked, and mkdtemp makes a fresh 0700 directory
    directory = Path(tempfile.mkdtemp(prefix="lh-", dir=memory if memory.is_dir() and on_memory(memory) else None))
    server = Bao(program, directory / "server")
    try:
        with Cluster(newest()) as cluster:
            database = create_database(cluster, directory)
            server.start()
            setup = VaultSetup(server, directory)
            made = setup.database(database, ttl=lengths.ttl, max_ttl=lengths.max_ttl)
            keys = {"token_ttl": f"{lengths.token_ttl:g}s", "token_max_ttl": f"{lengths.token_max_ttl:g}s"}
            way = setup.jwt(Issuer(), setup.policy(made.creds()), **keys)
            yield Estate(directory=directory, database=database, server=server, made=made, way=way)
    finally:
        server.destroy()
        shutil.rmtree(directory, ignore_errors=True)


class Side:
    """One of the two agents as a process; `with` starts it, and ends it at once where `stop` was not called.

    Attributes:
        name: in tables.
        path: what is asked for on its socket.
        began: time.perf_counter() right before its exec.
    """

    def __init__(self, name: str, directory: Path, argv: Sequence[str], path: str) -> None:
        self.name = name
        self.path = path
        self.socket = directory / "agent.sock"
        self.file = directory / "secrets" / "db-creds"
        self.log = directory / "log"
        self.began = 0.0
        self._argv = argv
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "Side":
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        with self.log.open("wb") as log:
            self.began = time.perf_counter()
            self._process = subprocess.Popen(
                self._argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=_ROOT, env=kept
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for left in (self.file, self.socket):
            left.unlink(missing_ok=True)

    @property
    def request(self) -> bytes:
        """A read of its credential, as HTTP clients ask."""
        head = f"GET /v1/{self.path} HTTP/1.1\r\nHost: localhost\r\nUser-Agent: bench\r\nAccept: */*\r\n"
        return f"{head}Accept-Encoding: gzip, deflate\r\n\r\n".encode()

    @property
    def pid(self) -> int:
        """Process id."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def pids(self) -> list[int]:
        """Of it and its children."""
        found = [self.pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
        return found

    def memory(self) -> tuple[float, float]:
        """MiB resident, and MiB with shared pages counted by share (PSS); children included."""
        rss = pss = 0.0
        for pid in self.pids:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
            rolled = dict(line.split(":", 1) for line in lines)
            rss += int(rolled["Rss"].split()[0]) / 1024
            pss += int(rolled["Pss"].split()[0]) / 1024
        return rss, pss

    def cpu(self) -> float:
        """Seconds of CPU used so far."""
        return cpu(self.pid)

    def until(self, holds: Callable[[], bool], what: str, *, every: float = 0.0005) -> float:
        """The instant (time.perf_counter()) at which it does."""
        end = time.perf_counter() + PATIENCE
        while not holds():
            if time.perf_counter() > end or (self._process is not None and self._process.poll() is not None):
                raise RuntimeError(f"{self.name}: no {what}; its log ends so:\n{self.log.read_text()[-3000:]}")
            time.sleep(every)
        return time.perf_counter()

    def serves(self) -> bool:
        """Whether it answers a read of its credential with one."""
        return self.ask()[0] == 200

    def ask(self) -> tuple[int, dict[str, Any]]:
        """Status and document of one read of its credential; status 0 where nobody answers."""
        connection = Connection(self.socket)
        try:
            return connection.ask(f"/v1/{self.path}")
        except OSError:
            return 0, {}
        finally:
            connection.close()

    def stop(self) -> None:
        """An orderly end."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(PATIENCE)


def ours(scene: Estate, address: str | None = None) -> Side:
    """Leasehold, logging in at `address`, the server's own by default."""
    directory = scene.directory / "ours"
    (directory / "secrets").mkdir(parents=True, exist_ok=True)
    config = scene.way.config
    file = directory / "agent.toml"
    server = scene.database
    file.write_text(f"""
[agent]
log_level = "error"
[listener.unix]
address = {json.dumps(str(directory / "agent.sock"))}
[vault]
address = "{address or scene.server.address}"
[auto_auth.method]
type = "jwt"
mount_path = "auth/{scene.way.mount}"
[auto_auth.method.config]
role = "{config["role"]}"
path = {json.dumps(config["path"])}
[role."{ROLE}"]
upstream = "vault"
path = "{scene.made.creds()}"
connection = {{ host = "{server.host}", port = {server.port}, dbname = "{server.dbname}", sslmode = "disable" }}
[[template]]
destination = {json.dumps(str(directory / "secrets" / "db-creds"))}
format = "dotenv"
roles = ["{ROLE}"]
allow_disk = {"false" if on_memory(scene.directory) else "true"}
""")
    return Side("leasehold", directory, [PYTHON, "-m", "agent", "run", "-c", str(file)], ROLE)


def theirs(scene: Estate, address: str | None = None) -> Side:
    """The server's own agent: the same program, run as `agent`."""
    directory = scene.directory / "theirs"
    (directory / "secrets").mkdir(parents=True, exist_ok=True)
    creds = scene.made.creds()
    fields = "DB_USER={{ .Data.username }}\nDB_PASS={{ .Data.password }}\n"
    wanted = '{{ with secret "' + creds + '" }}' + fields + "{{ end }}"
    configuration = {
        "log_level": "error",
        "vault": {"address": address or scene.server.address},
        "auto_auth": {
            "method": [
                {
                    "type": "jwt",
                    "mount_path": f"auth/{scene.way.mount}",
                    "config": {
                        "role": scene.way.config["role"],
                        "path": scene.way.config["path"],
                        "remove_jwt_after_reading": False,
                    },
                }
            ]
        },
        "cache": {},
        "api_proxy": {"use_auto_auth_token": True},
        "listener": [{"unix": {"address": str(directory / "agent.sock"), "tls_disable": True}}],
        "template": [{"contents": wanted, "destination": str(directory / "secrets" / "db-creds"), "perms": "0440"}],
    }
    file = directory / "agent.json"
    file.write_text(json.dumps(configuration))
    return Side(f"{Path(str(find())).name} agent", directory, [str(find()), "agent", f"-config={file}"], creds)


def server_version() -> str:
    """What the server calls itself, without where it lies."""
    return version().rpartition(" at ")[0]
