"""What a file may say about one role: its credential as plain texts, fixed at the moment of rendering.

The one place in this room where secrets are revealed. It notes whether a time to live was looked at: only such a file
is rendered again after a renewal.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.config.model import Connection, Role
from agent.errors import RenderError
from agent.leases.cache import Snapshot

# Line ends, for whatever counts as one anywhere, and what no encoding of ours can hold.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NEVER = re.compile("[\x00\ud800-\udfff]")


class Credential:
    """One role's credential, for templates and ready-made formats."""

    __slots__ = ("_added", "_data", "_remaining", "_shows_life", "_snapshot")

    def __init__(self, snapshot: Snapshot, role: Role, now: float) -> None:
        """Reveal `snapshot` as of `now`.

        Raises:
            RenderError: a value holds control characters and the role does not allow them.
        """
        fields = {name: secret.reveal() for name, secret in snapshot.lease.data.items()}
        refused = _NEVER if role.multiline else _CONTROL
        for name, text in fields.items():
            if refused.search(text) or _CONTROL.search(name):
                raise RenderError(
                    f'role {snapshot.role}: field "{_CONTROL.sub("?", name)}" holds control characters; '
                    "set multiline = true on the role if that is meant"
                )
        if _CONTROL.search(snapshot.lease.id):
            raise RenderError(f"role {snapshot.role}: the lease id holds control characters")
        self._snapshot = snapshot
        self._added = _missing(role.connection, fields)
        self._data = fields | {name: str(value) for name, value in self._added.items()}
        self._remaining = max(0, int(snapshot.remaining(now)))
        self._shows_life = False

    def __repr__(self) -> str:
        return f"Credential({self._snapshot.role})"

    @property
    def role(self) -> str:
        """The role's name."""
        return self._snapshot.role

    @property
    def data(self) -> dict[str, str]:
        """Field name to text: what the lease gave, and the role's `connection` where the lease gave none."""
        return self._data

    @property
    def lease_id(self) -> str:
        """The upstream's name of the lease."""
        return self._snapshot.lease.id

    @property
    def generation(self) -> int:
        """Changes when the credential is replaced, not when it is renewed."""
        return self._snapshot.generation

    @property
    def verified(self) -> bool:
        """Whether a login with it succeeded before it was published."""
        return self._snapshot.verified

    @property
    def lease_duration(self) -> int:
        """Whole seconds of life left, rounded down."""
        self._shows_life = True
        return self._remaining

    @property
    def ttl(self) -> int:
        """The same as `lease_duration`."""
        return self.lease_duration

    @property
    def expires_at(self) -> str:
        """The end of its life, RFC 3339 in UTC, rounded down to a second."""
        self._shows_life = True
        return datetime.fromtimestamp(int(self._snapshot.expires_wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    @property
    def renewable(self) -> bool:
        """Whether another renewal may succeed."""
        self._shows_life = True
        return self._snapshot.lease.renewable

    @property
    def shows_life(self) -> bool:
        """Whether anything was read that a renewal changes."""
        return self._shows_life

    def as_mapping(self) -> dict[str, Any]:
        """All of it, in the shape of an answer on the socket: the port of the role's `connection` is a number there."""
        return {
            "lease_id": self.lease_id,
            "lease_duration": self.lease_duration,
            "renewable": self.renewable,
            "expires_at": self.expires_at,
            "generation": self.generation,
            "verified": self.verified,
            "data": {**self._data, **self._added},
        }


def _missing(connection: Connection | None, fields: Mapping[str, str]) -> dict[str, str | int]:
    if connection is None:
        return {}
    known: dict[str, str | int] = {
        "host": connection.host,
        "port": connection.port,
        "dbname": connection.dbname,
        "sslmode": connection.sslmode,
    }
    return {name: value for name, value in known.items() if name not in fields}
