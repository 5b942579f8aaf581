"""Namespaces, and what is mounted in them."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.vaultlike.messages import Json
from tests.vaultlike.policies import DEFAULT, WRAPPING, Access, Rules, parse
from tests.vaultlike.tokens import new_uuid
from tests.vaultlike.ttl import DEFAULT_TTL, MAX_TTL, Terms

if TYPE_CHECKING:
    from tests.vaultlike.engine import Engine
    from tests.vaultlike.tokens import Token


@dataclass(kw_only=True)
class Mount:
    """An engine at a path.

    Attributes:
        path: with a slash at its end; logins' begin with "auth/".
    """

    path: str
    kind: str
    space: "Space" = field(repr=False)
    engine: "Engine" = field(init=False, repr=False)
    description: str = ""
    options: Json = field(default_factory=dict)
    default_ttl: int = 0
    max_ttl: int = 0
    accessor: str = ""
    uuid: str = field(default_factory=new_uuid)

    @property
    def is_login(self) -> bool:
        """Whether it is an auth method."""
        return self.path.startswith("auth/")

    def terms(self, **more: float) -> Terms:
        """Terms within what the mount allows."""
        return Terms(default_ttl=self.default_ttl or DEFAULT_TTL, ceiling=self.max_ttl or MAX_TTL, **more)

    def as_data(self) -> Json:
        """What a listing tells."""
        config: Json = {
            "default_lease_ttl": self.default_ttl,
            "force_no_cache": False,
            "max_lease_ttl": self.max_ttl,
        }
        if self.is_login:
            config["token_type"] = "default-service"
        return {
            "accessor": self.accessor,
            "config": config,
            "deprecation_status": "supported",
            "description": self.description,
            "external_entropy_access": False,
            "local": False,
            "options": self.options or None,
            "plugin_version": "",
            "running_plugin_version": "",
            "running_sha256": "",
            "seal_wrap": False,
            "type": self.kind,
            "uuid": self.uuid,
        }


class Space:
    """A namespace: a tree of its own.

    Attributes:
        path: "" for the root, else with a slash at its end.
        policies: texts by name.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.id = "root" if not path else secrets.token_hex(3)
        self.uuid = new_uuid()
        self.mounts: dict[str, Mount] = {}
        self.policies: dict[str, str] = {"default": DEFAULT, "response-wrapping": WRAPPING}

    def mount_of(self, path: str) -> Mount | None:
        """The longest mount that a path lies in."""
        found = [one for one in self.mounts if path.startswith(one) or path + "/" == one]
        return self.mounts[max(found, key=len)] if found else None

    def taken(self, path: str) -> str | None:
        """The mount that stands in the way of a new one."""
        return next((one for one in self.mounts if one.startswith(path) or path.startswith(one)), None)

    def rules(self, names: Iterable[str]) -> Iterator[Rules]:
        """The policies of these names that exist, with the space's path in front."""
        for name in names:
            if name in self.policies:
                yield {self.path + path: words for path, words in parse(self.policies[name]).items()}


def access_of(token: "Token") -> Access:
    """What a token may do, by full paths."""
    return Access(token.space.rules(token.policies), root=token.root)


class Spaces:
    """All namespaces of a server."""

    def __init__(self) -> None:
        self.root = Space("")
        self.by_path: dict[str, Space] = {"": self.root}

    def add(self, path: str) -> Space:
        """A new one."""
        self.by_path[path] = Space(path)
        return self.by_path[path]

    def of(self, header: str, path: str) -> tuple[Space, str] | None:
        """The namespace of a request and the path below it; None where the header names none that exists."""
        named = header.strip("/")
        base = f"{named}/" if named and named != "root" else ""
        if base not in self.by_path:
            return None
        full = base + path
        deepest = max((one for one in self.by_path if full.startswith(one)), key=len)
        return self.by_path[deepest], full[len(deepest) :]
