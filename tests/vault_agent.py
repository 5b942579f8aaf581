"""An agent for a Vault that VaultSetup wrote to: a configuration, as tests/acceptance's Agent takes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.vault_place import VaultPlace
from tests.vault_setup import Way


def vault_of(place: VaultPlace, address: str | None = None, **keys: Any) -> dict[str, Any]:
    """[vault] for the server, or for `address` in front of it (a FaultProxy's)."""
    found: dict[str, Any] = {"address": address or place.address}
    if place.ca and address is None:
        found["ca_cert"] = str(place.ca)
    return {**found, **keys}


def agent_document(
    directory: Path,
    vault: Mapping[str, Any],
    way: Way,
    roles: Mapping[str, Mapping[str, Any]],
    *,
    templates: Sequence[Mapping[str, Any]] = (),
    agent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A configuration with one [vault], one login, roles by name, and a socket.

    Args:
        directory: of the socket.
        roles: keys beyond `upstream`; `path` where a role's name is not its path at the server.
    """
    return {
        "agent": {"stop_timeout": "10s", **(agent or {})},
        "listener": {"unix": {"address": str(directory / "agent.sock")}},
        "vault": dict(vault),
        "auto_auth": {"method": way.method},
        "role": {name: {"upstream": "vault", **keys} for name, keys in roles.items()},
        **({"template": list(templates)} if templates else {}),
    }
