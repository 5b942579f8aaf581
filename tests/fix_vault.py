"""Vault-like servers for tests: the in-tree one, and a real OpenBao or Vault where this machine has one.

LEASEHOLD_TEST_VAULT names the program, else `bao` or `vault` on PATH is taken. Without one, what needs it skips;
LEASEHOLD_TEST_REQUIRE=openbao turns that into a failure.
"""

import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import bao
from tests.bao import Bao, RaftCluster
from tests.fix_postgres import place as memory_place
from tests.issuers import Authority, Issuer, TokenReviewer
from tests.vault_place import InTree, Tls, VaultPlace
from tests.vault_setup import VaultSetup

KINDS = ("intree", "bao")
_REQUIRED = "openbao" in os.environ.get("LEASEHOLD_TEST_REQUIRE", "").split(",")

StartPlace = Callable[..., VaultPlace]


def pytest_report_header() -> str:
    """What the tests can run on."""
    return f"vault: {bao.version()}"


def program() -> Path:
    """The real server's; without one the test is skipped, or fails where it is required."""
    found = bao.find()
    if found is None:
        missing = f"no OpenBao or Vault found: {bao.REMEDY}"
        if _REQUIRED:
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found


def somewhere() -> Path:
    """A directory that is not there yet, in memory if there is room."""
    return memory_place() or Path(tempfile.gettempdir()) / f"leasehold-test-{secrets.token_hex(6)}"


def make(kind: str, *, tls: Tls | None = None) -> VaultPlace:
    """A server of that kind, not started."""
    return Bao(program(), somewhere(), tls=tls) if kind == "bao" else InTree(somewhere(), tls=tls)


def tls_of(authority: Authority) -> Tls:
    """What a TLS listener needs; `authority.server()` once more rotates its certificate."""
    cert, key = authority.server()
    return Tls(cert=cert, key=key, ca=authority.file)


@pytest.fixture(scope="session")
def vault_places() -> Iterator[dict[str, VaultPlace]]:
    """The shared servers by kind, filled by `vault_place`."""
    running: dict[str, VaultPlace] = {}
    yield running
    for one in running.values():
        one.destroy()


@pytest.fixture(params=KINDS)
def vault_kind(request: pytest.FixtureRequest) -> str:
    """Each kind in turn."""
    kind: str = request.param
    return kind


@pytest.fixture
def vault_place(vault_kind: str, vault_places: dict[str, VaultPlace]) -> VaultPlace:
    """A running server that all tests share: never stop, pause, kill or seal it."""
    if vault_kind not in vault_places:
        one = make(vault_kind)
        vault_places[vault_kind] = one
        one.start()
    return vault_places[vault_kind]


@pytest.fixture
def own_vault_place(vault_kind: str) -> Iterator[StartPlace]:
    """`own_vault_place(tls=…)` starts a server of this kind for this test alone."""
    started: list[VaultPlace] = []

    def start(*, tls: Tls | None = None) -> VaultPlace:
        one = make(vault_kind, tls=tls)
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        one.destroy()


@pytest.fixture
def raft_cluster() -> Iterator[RaftCluster]:
    """Three real servers of one cluster."""
    one = RaftCluster(program(), somewhere())
    try:
        one.start()
        yield one
    finally:
        one.destroy()


@pytest.fixture
def vault_setup(vault_place: VaultPlace, database: object, tmp_path: Path) -> Iterator[VaultSetup]:
    """Writes into the shared server; undone before the test's `database` goes."""
    one = VaultSetup(vault_place, tmp_path)
    yield one
    one.undo()


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    """Signs pods' tokens."""
    return Issuer()


@pytest.fixture
def token_reviewer(issuer: Issuer, authority: Authority) -> Iterator[TokenReviewer]:
    """Tells servers whose token it is."""
    with TokenReviewer(issuer, authority) as one:
        yield one


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Signs certificates; its files are in `tmp_path`."""
    return Authority(tmp_path / "certificates")
