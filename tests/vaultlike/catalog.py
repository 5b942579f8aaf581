"""Which engines can be mounted. What needs `cryptography` is loaded when it is mounted, not before."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from tests.vaultlike.engine import Engine

_WHERE = {
    "system": ("system", "System"),
    "cubbyhole": ("kv", "Cubbyhole"),
    "database": ("database", "Database"),
    "kv": ("kv", "Plain"),
    "kv-v2": ("kv", "Versioned"),
    "pki": ("pki", "Pki"),
    "ssh": ("ssh", "Ssh"),
    "auth/token": ("token_auth", "TokenAuth"),
    "auth/jwt": ("jwt_auth", "JwtAuth"),
    "auth/kubernetes": ("kubernetes_auth", "KubernetesAuth"),
    "auth/approle": ("approle_auth", "AppRoleAuth"),
    "auth/cert": ("cert_auth", "CertAuth"),
}


class Catalog(Mapping[str, type[Engine]]):
    """Engines by kind."""

    def __getitem__(self, kind: str) -> type[Engine]:
        module, name = _WHERE[kind]
        found: Any = getattr(importlib.import_module(f"tests.vaultlike.{module}"), name)
        return found  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[str]:
        return iter(_WHERE)

    def __len__(self) -> int:
        return len(_WHERE)
