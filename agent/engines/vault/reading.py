"""From a look's answer to what stands there: static roles and key-value secrets. Pure."""

import math
from collections.abc import Mapping
from typing import Any

from agent.config.model import Role
from agent.engines.vault import issuing, values
from agent.engines.vault.answers import Answer
from agent.errors import BadResponse, NotFound
from agent.leases.engine import Fetched

_PASSING = frozenset({"ttl", "last_vault_rotation"})
"""Fields of a static role that change with every look, or beside the credential; the socket tells the life instead."""


def static(where: str, role: Role, answer: Answer) -> Fetched:
    """A static role: its user stays, and the server rotates its password.

    Raises:
        BadResponse: it is none.
    """
    data = _mapping(where, answer.body.get("data"))
    if "last_vault_rotation" not in data and "rotation_period" not in data and "rotation_schedule" not in data:
        raise BadResponse(f'{where}: the answer is no static role\'s: set kind = "kv" or "lease" on the role')
    left = values.whole(data.get("ttl"))
    found = issuing.fields(where, role, {key: value for key, value in data.items() if key not in _PASSING})
    return Fetched(
        data=found,
        version=values.digest(found),
        changes_in=math.inf if left is None else float(min(max(left, 0), values.LONGEST)),
    )


def kv(where: str, role: Role, answer: Answer) -> Fetched:
    """A key-value secret, of either version of that engine.

    Raises:
        NotFound: its version has been deleted.
        BadResponse: it is none.
    """
    data = _mapping(where, answer.body.get("data"))
    if _versioned(data):
        if data["data"] is None:
            raise NotFound(f"{where}: the secret has been deleted")
        data = _mapping(where, data["data"])
    found = issuing.fields(where, role, data)
    return Fetched(data=found, version=values.digest(found))


def _versioned(data: Mapping[str, Any]) -> bool:
    metadata = data.get("metadata")
    return set(data) == {"data", "metadata"} and isinstance(metadata, Mapping) and "version" in metadata


def _mapping(where: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadResponse(f"{where}: the answer holds no data")
    return value
