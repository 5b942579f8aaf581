"""A state directory with any content: the agent starts, and adopts a whole lease or none.

The first byte says how the text is to be understood: as the file's bytes, or as the text of a sound record with one
value replaced.
"""

import asyncio
import atexit
import copy
import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Any

import structlog.testing

from agent.leases.lease import Grant
from agent.leases.record import RoleRecord
from agent.leases.schedule import Retired
from agent.state import StateDir
from tests.fuzz.inputs import Input
from tests.unit.leases.builders import lease

_ROLE = "database/creds/app"
_HOLDER, _BOOT = "web-0", "boot"
_VALUES: list[Any] = [
    *(None, True, False, 0, 1, -1, 10**400, 0.5, 1e308, float("nan"), float("inf"), -float("inf")),
    *("", "a", "\0", "\ud800", "1", "nan", [], [None], [[]], {}, {"a": {}}, {"a": None}),
]


class _House:
    """A directory, and what a sound agent leaves in it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="lh-"))
        state = self.state()
        state.open(1)
        retired = Retired(lease_id="old", revoke_at=1.0, ends_at=2.0, published=True, tried=True)
        kept = RoleRecord(current=lease(max_ttl=600), generation=7, verified=True, retired=(retired,), proposed="p")
        asyncio.run(state.save(_ROLE, kept))
        state.close()
        (self.record,) = self.path.glob("role-*.json")
        self.sound: dict[str, Any] = json.loads(self.record.read_text())

    def state(self) -> StateDir:
        """As an agent makes it."""
        return StateDir(self.path, holder=_HOLDER, boot=_BOOT, allow_disk=True)


_open: list[_House] = []


def _house() -> _House:
    if not _open:
        _open.append(_House())
        atexit.register(close)
    return _open[0]


def close() -> None:
    """Remove what was made."""
    while _open:
        shutil.rmtree(_open.pop().path)


def run(data: bytes) -> None:
    """Write it as an earlier run's record, and take it over."""
    given, house = Input(data), _house()
    kind = given.number() % 4
    path = house.path / "holder.json" if kind == 0 else house.record
    path.write_bytes(_altered(given, house.sound) if kind >= 2 else given.rest())
    path.chmod(0o600)
    state = house.state()
    with structlog.testing.capture_logs():
        try:
            incarnation = state.open(5)
            found = state.load(_ROLE)
        finally:
            state.close()
    assert isinstance(incarnation, int)
    assert 5 <= incarnation < 2**63, "beyond what the journal's column holds"
    _check(found)


def _altered(given: Input, sound: dict[str, Any]) -> bytes:
    tree: Any = json.loads(json.dumps(sound))
    while not given.empty:
        node: Any = tree
        while isinstance(node, dict | list) and node:
            key = given.choice(list(node) if isinstance(node, dict) else range(len(node)))
            if not isinstance(node[key], dict | list) or not node[key] or given.number() % 4 == 0:
                node[key] = given.text() if given.number() % 4 == 0 else copy.deepcopy(given.choice(_VALUES))
                break
            node = node[key]
    return json.dumps(tree).encode()


def _check(found: RoleRecord) -> None:
    assert isinstance(found.generation, int)
    assert 0 <= found.generation < 2**63
    assert _text(found.proposed)
    for one in found.retired:
        assert _text(one.lease_id)
        assert math.isfinite(one.revoke_at)
        assert math.isfinite(one.ends_at)
    if found.current is not None:
        kept = found.current
        for grant in (kept.first, kept.last):
            _check_grant(grant)
        assert math.isfinite(kept.issued_at)
        assert math.isfinite(kept.granted_at)
        assert 0.0 <= kept.jitter <= 1.0
        assert math.isfinite(kept.expires_at)
        assert kept.first.id
        assert kept.first.data, "a lease without a credential"


def _check_grant(grant: Grant) -> None:
    assert _text(grant.id)
    assert 0.0 <= grant.ttl < math.inf
    assert grant.max_ttl >= 0.0
    for name, value in grant.data.items():
        assert _text(name)
        assert _text(value.reveal())


def _text(text: str) -> bool:
    """Whether it can be sent to anyone: no lone surrogates."""
    return text.encode("utf-8", "replace").decode() == text
