"""`state_dir`: what the next incarnation of this holder takes over. On a memory volume of the agent alone.

One file per role, with its leases and their secrets, written before each publish (0600 in a 0700 directory); one file
with the holder and the newest incarnation. A lock keeps a second agent out. Instants are the dial's, which outlives a
process but not a boot: a record of another boot names leases to revoke and nothing to serve.
"""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import stat
import threading
import uuid
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agent import atomicfile, log
from agent.errors import StartError
from agent.leases.lease import Grant, Lease, Secret
from agent.leases.record import RoleRecord
from agent.leases.schedule import Retired
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)
_VERSION = 1
_LARGEST = 1 << 20
_MOST = 2**62
"""Generations and incarnations stay below: both are bigint in the journal, and grow."""
_FAR = 1e12
"""No instant of a dial and no length of time is farther from zero, in seconds."""


class StateDir:
    """A state directory. `open` it before anything else, `close` it last; both block.

    Args:
        boot: names the running boot; records of another are not served.
        allow_disk: keep secrets there although it is no memory file system.
        upstreams: of every role; a lease of another upstream is neither served nor revoked where it never was.
    """

    def __init__(
        self,
        path: Path,
        *,
        holder: str,
        boot: str,
        allow_disk: bool = False,
        upstreams: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._path = path
        self._holder = holder
        self._boot = boot
        self._allow_disk = allow_disk
        self._upstreams = upstreams
        self._lock: int | None = None
        self._newest: dict[str, RoleRecord] = {}
        # A writing thread outlives the task that was cancelled: whichever writes last, it writes the newest record.
        self._writing = threading.Lock()

    def open(self, least: int) -> int:
        """Lock the directory; the number of this incarnation, at least `least` and greater than any before.

        Raises:
            StartError: another agent has it, or it is no place for secrets.
        """
        if not self._allow_disk and not atomicfile.on_memory(self._path):
            raise StartError(
                f"state_dir {self._path} is not on a memory file system: mount a tmpfs (emptyDir medium: Memory), "
                "or set state_allow_disk = true"
            )
        atomicfile.own_directory(self._path, mode=0o700)
        if self._path.stat().st_mode & 0o077:
            raise StartError(f"state_dir {self._path} is open to others: chmod 0700 {self._path}")
        self._lock = self._take_lock()
        atomicfile.clear_stale_temps(self._path)
        found = self._read(self._path / "holder.json")
        before = found.get("incarnation") if found.get("holder") == self._holder else None
        incarnation = max(least, before + 1) if isinstance(before, int) and 0 <= before < _MOST else least
        try:
            self._write("holder.json", {"holder": self._holder, "incarnation": incarnation})
        except OSError as error:
            self.close()
            raise StartError(
                f"state_dir: {self._path / 'holder.json'} cannot be written: {error.strerror}; empty the directory, "
                f"or make room for uid {os.geteuid()} in it"
            ) from error
        return incarnation

    def _take_lock(self) -> int:
        path = self._path / "lock"
        try:
            # O_NONBLOCK here and below: a pipe in a file's place must not hold up the start.
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        except OSError as error:
            raise StartError(f"lock {path}: {error.strerror}; remove what stands in its place") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise StartError(f"state_dir {self._path} is in use by another agent: give each its own") from error
        return lock

    def load(self, role: str) -> RoleRecord:
        """What was left of `role`; empty where nothing was, or it cannot be read (which is said)."""
        path = self._file(role)
        found = self._read(path)
        if not found:
            return RoleRecord()
        ours = self._upstreams.get(role, "")
        if found.get("upstream", ours) != ours:
            why = "the role asks another upstream now: its old lease is not served, and ends by itself where it is"
            _log.warning(Event.STATE_FAILED, role=role, path=str(path), error=why)
            return RoleRecord()
        try:
            return _record(found, same_boot=found["boot"] == self._boot, holder=self._holder)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
            _log.warning(Event.STATE_FAILED, role=role, path=str(path), error="not a record of this version: ignored")
            return RoleRecord()

    def forget_others(self, roles: Collection[str]) -> None:
        """Remove the records, and with them the passwords, of roles that are no longer configured; each is said."""
        kept = {self._file(role) for role in roles}
        for path in set(self._path.glob("role-*.json")) - kept:
            why = "its role is no longer configured: what is left of its leases ends by itself"
            _log.warning(Event.STATE_FAILED, path=str(path), error=why)
            with contextlib.suppress(OSError):
                atomicfile.remove(path)

    async def save(self, role: str, record: RoleRecord) -> None:
        """See `agent.leases.record.Recorder`."""
        self._newest[role] = record
        try:
            await in_daemon_thread(lambda: self._save(role))
        except OSError as error:
            # A full volume must not take the credential away; only a crash now would lose the lease's record.
            _log.warning(Event.STATE_FAILED, role=role, path=str(self._path), error=str(error.strerror))

    def _save(self, role: str) -> None:
        path = self._file(role)
        with self._writing:
            record = self._newest[role]
            if record.empty:
                atomicfile.remove(path)
                return
            whose = {"holder": self._holder, "role": role, "upstream": self._upstreams.get(role, "")}
            self._write(path.name, {"boot": self._boot, **whose, **_plain(record)})

    def close(self) -> None:
        """Let go of the directory; records of what is still alive stay."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _file(self, role: str) -> Path:
        return self._path / f"role-{hashlib.sha256(role.encode()).hexdigest()[:16]}.json"

    def _write(self, name: str, document: Mapping[str, Any]) -> None:
        data = json.dumps({"version": _VERSION, **document}).encode()
        atomicfile.write(self._path / name, data, mode=0o600)

    def _read(self, path: Path) -> dict[str, Any]:
        """The document; empty where there is none of ours."""
        with contextlib.suppress(OSError, ValueError, RecursionError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                status = os.fstat(file.fileno())
                regular = stat.S_ISREG(status.st_mode)
                if (
                    regular
                    and status.st_uid == os.geteuid()
                    and not status.st_mode & 0o077
                    and status.st_size <= _LARGEST
                ):
                    found = json.loads(file.read(_LARGEST))
                    if isinstance(found, dict) and found.get("version") == _VERSION:
                        return found
        return {}


def boot_id() -> str:
    """Names the running boot; where the system does not say, every start is another one."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return f"unknown-{uuid.uuid4()}"  # a process id would come again in the next container


def _plain(record: RoleRecord) -> dict[str, Any]:
    return {
        "current": None if record.current is None else _plain_lease(record.current),
        "generation": record.generation,
        "verified": record.verified,
        "retired": [
            {
                "id": r.lease_id,
                "revoke_at": r.revoke_at,
                "ends_at": r.ends_at,
                "published": r.published,
                "tried": r.tried,
                **_plain_ties(r.parent, r.key),
            }
            for r in record.retired
        ],
        "proposed": record.proposed,
    }


def _plain_lease(lease: Lease) -> dict[str, Any]:
    return {
        "first": _plain_grant(lease.first),
        "last": _plain_grant(lease.last),
        "issued_at": lease.issued_at,
        "granted_at": lease.granted_at,
        "jitter": lease.jitter,
        "assured_until": None if lease.assured_until == -math.inf else lease.assured_until,
        **({} if lease.parent_until == math.inf else {"parent_until": max(lease.parent_until, -_FAR)}),
    }


def _plain_grant(grant: Grant) -> dict[str, Any]:
    return {
        "id": grant.id,
        "data": {name: value.reveal() for name, value in grant.data.items()},
        "ttl": grant.ttl,
        "renewable": grant.renewable,
        "max_ttl": None if grant.max_ttl == math.inf else grant.max_ttl,
        **_plain_ties(grant.parent, grant.key),
    }


def _plain_ties(parent: str, key: Secret | None) -> dict[str, Any]:
    """What few leases have, and none had in the first records of this version."""
    return ({"parent": parent} if parent else {}) | ({} if key is None else {"key": key.reveal()})


def _ties(found: Mapping[str, Any]) -> dict[str, Any]:
    key = found.get("key")
    return {"parent": _text(found.get("parent", "")), "key": None if key is None else Secret(_text(key))}


def _record(found: Mapping[str, Any], *, same_boot: bool, holder: str) -> RoleRecord:
    if found["holder"] != holder:
        return RoleRecord()
    current = None if found["current"] is None else _lease(found["current"])
    retired = tuple(
        Retired(
            lease_id=_text(r["id"]),
            revoke_at=_number(r["revoke_at"]),
            ends_at=_number(r["ends_at"]),
            published=_flag(r["published"]),
            tried=_flag(r["tried"]),
            **_ties(r),
        )
        for r in found["retired"]
    )
    if not same_boot:
        # Their instants mean nothing any more: whatever it was, it is revoked.
        lost = (Retired.of(current, 0.0),) if current else ()
        ended = tuple(
            replace(each, revoke_at=0.0, ends_at=0.0, published=True, tried=False) for each in (*retired, *lost)
        )
        return RoleRecord(retired=ended, proposed=_text(found["proposed"]))
    return RoleRecord(
        current=current,
        generation=_generation(found["generation"]),
        verified=_flag(found["verified"]),
        retired=retired,
        proposed=_text(found["proposed"]),
    )


def _lease(found: Mapping[str, Any]) -> Lease:
    kept, first = found["assured_until"], _grant(found["first"])
    if not first.id or not first.data:
        raise ValueError("a lease without an id or a credential")
    return Lease(
        first=first,
        last=_grant(found["last"]),
        issued_at=_number(found["issued_at"]),
        granted_at=_number(found["granted_at"]),
        jitter=_number(found["jitter"], least=0.0, most=1.0),
        assured_until=-math.inf if kept is None else _number(kept),
        parent_until=_number(found["parent_until"]) if "parent_until" in found else math.inf,
    )


def _grant(found: Mapping[str, Any]) -> Grant:
    longest = found["max_ttl"]
    return Grant(
        id=_text(found["id"]),
        data={_text(name): Secret(_text(value)) for name, value in found["data"].items()},
        ttl=_number(found["ttl"], least=0.0),
        renewable=_flag(found["renewable"]),
        max_ttl=math.inf if longest is None else _number(longest, least=0.0),
        **_ties(found),
    )


# A value that is not what was written is not taken for what it might have meant: the record is ignored as a whole.


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    value.encode()  # a lone surrogate could be sent to nobody
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("not a flag")
    return value


def _number(value: Any, *, least: float = -_FAR, most: float = _FAR) -> float:
    if isinstance(value, bool) or not least <= float(value) <= most:  # NaN is neither
        raise ValueError("out of bounds")
    return float(value)


def _generation(value: Any) -> int:
    if not isinstance(value, int) or not 0 <= value < _MOST:
        raise ValueError("out of bounds")
    return value
