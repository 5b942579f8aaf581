"""Tokens: who may ask, for how long, and what dies with them."""

import secrets
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.vaultlike.messages import Json, Problem
from tests.vaultlike.timer import Timer
from tests.vaultlike.ttl import Terms, granted, instant, remaining

if TYPE_CHECKING:
    from tests.vaultlike.spaces import Mount, Space

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


def random_text(length: int, alphabet: str = _ALPHABET) -> str:
    """Letters and digits, as in tokens and lease ids."""
    return "".join(secrets.choice(alphabet) for _ in range(length))


@dataclass(kw_only=True)
class Token:
    """One token.

    Attributes:
        kind: service or batch.
        path: where it was made.
        mount: whose engine renews it; None for the token engine's own.
        parent: whose end is its end; None for orphans.
        ttl: seconds as last granted; 0: without end.
        private: what its login engine remembers of the login.
    """

    id: str = field(repr=False)
    accessor: str
    space: "Space" = field(repr=False)
    policies: tuple[str, ...]
    path: str
    display_name: str
    meta: Json | None = None
    kind: str = "service"
    mount: "Mount | None" = field(default=None, repr=False)
    parent: "Token | None" = field(default=None, repr=False)
    orphan: bool = True
    issued_at: float = field(default_factory=time.time)
    creation_ttl: int = 0
    ttl: int = 0
    expires_at: float | None = None
    renewable: bool = False
    period: float = 0.0
    explicit_max_ttl: float = 0.0
    num_uses: int = 0
    entity_id: str = ""
    used_up: bool = False
    private: Json = field(default_factory=dict, repr=False)

    @property
    def root(self) -> bool:
        """Whether it may do everything."""
        return "root" in self.policies

    def as_auth(self) -> Json:
        """The envelope's `auth`."""
        policies = list(self.policies)
        return {
            "client_token": self.id,
            "accessor": self.accessor,
            "policies": policies,
            **({"token_policies": policies} if policies else {}),
            "metadata": self.meta,
            "lease_duration": self.ttl,
            "renewable": self.renewable,
            "entity_id": self.entity_id,
            "token_type": self.kind,
            "orphan": self.orphan,
            "mfa_requirement": None,
            "num_uses": self.num_uses,
        }

    def as_data(self) -> Json:
        """What a look-up tells."""
        left = 0 if self.expires_at is None else remaining(self.expires_at)
        data: Json = {
            "accessor": self.accessor,
            "creation_time": int(self.issued_at),
            "creation_ttl": self.creation_ttl,
            "display_name": self.display_name,
            "entity_id": self.entity_id,
            "expire_time": instant(self.expires_at),
            "explicit_max_ttl": int(self.explicit_max_ttl),
            "id": self.id,
            "issue_time": instant(self.issued_at),
            "meta": self.meta,
            "num_uses": self.num_uses,
            "orphan": self.orphan,
            "path": self.path,
            "policies": list(self.policies),
            "renewable": self.renewable,
            "ttl": left,
            "type": self.kind,
        }
        if self.period:
            data["period"] = int(self.period)
        if self.space.path:
            data["namespace_path"] = self.space.path
        return data


class TokenStore:
    """All tokens of a server.

    Args:
        on_end: called with each token that ends, for what hangs on it.
    """

    def __init__(self, timer: Timer, on_end: Callable[[Token], Awaitable[None]]) -> None:
        self._timer = timer
        self._on_end = on_end
        self._by_id: dict[str, Token] = {}

    def make(
        self, space: "Space", *, terms: Terms, kind: str = "service", increment: float = 0.0, **fields: Any
    ) -> Token:
        """A token, and the timer of its end."""
        batch = kind == "batch"
        suffix = f".{space.id}" if space.path else ""
        root = "root" in fields["policies"] and terms.ttl == 0 and increment == 0 and terms.period == 0
        ttl = 0 if root else granted(terms, increment)[0]
        token = Token(
            id=("b.AAAAAQ" + random_text(160) if batch else "s." + random_text(24)) + suffix,
            accessor="" if batch else random_text(24) + suffix,
            space=space,
            kind=kind,
            ttl=ttl,
            creation_ttl=ttl,
            period=terms.period,
            explicit_max_ttl=terms.explicit_max_ttl,
            **fields,
        )
        token.renewable = token.renewable and bool(ttl) and not batch
        self._set_end(token)
        return token

    def plant(self, token: Token) -> None:
        """Take in a token that was made otherwise: the first root token, wrapping tokens."""
        self._set_end(token)

    def rename(self, token: Token, wanted: str) -> None:
        """Letters that its maker chose."""
        self._by_id.pop(token.id, None)
        self._timer.drop(("token", token.id))
        token.id = wanted
        self._set_end(token)

    def find(self, sent: str) -> Token | None:
        """The living token of these letters."""
        token = self._by_id.get(sent)
        if token is None or token.used_up:
            return None
        if token.expires_at is not None and token.expires_at <= time.time():
            return None
        if token.parent is not None and self.find(token.parent.id) is None:
            return None
        return token

    def by_accessor(self, accessor: str) -> Token | None:
        """Service tokens have one."""
        found = [one for one in self._by_id.values() if accessor and one.accessor == accessor]
        return self.find(found[0].id) if found else None

    def all(self) -> Iterable[Token]:
        """Whatever has not been ended."""
        return tuple(self._by_id.values())

    def use(self, token: Token) -> bool:
        """Count a use; whether that was the last one, after which the token must be revoked."""
        if token.num_uses == 0:
            return False
        token.num_uses -= 1
        token.used_up = token.num_uses == 0
        return token.used_up

    async def renew(self, token: Token, terms: Terms, increment: float) -> list[str]:
        """Move its end; warnings.

        Raises:
            Problem: it cannot be renewed.
        """
        ttl, warnings = granted(terms, increment, token.issued_at)
        token.ttl = ttl
        self._set_end(token)
        return warnings

    async def revoke(self, token: Token, *, keep_children: bool = False) -> None:
        """End it, and what was made with it: children first, then its leases."""
        self._by_id.pop(token.id, None)
        self._timer.drop(("token", token.id))
        for child in self.all():
            if child.parent is token:
                if keep_children:
                    child.parent, child.orphan = None, True
                else:
                    await self.revoke(child)
        await self._on_end(token)

    def _set_end(self, token: Token) -> None:
        self._by_id[token.id] = token
        if token.ttl == 0:
            token.expires_at = None
            return
        now = time.time()
        # A batch token carries its times in whole seconds.
        token.expires_at = (int(now) if token.kind == "batch" else now) + token.ttl

        async def end() -> None:
            await self.revoke(token)

        self._timer.set(("token", token.id), token.expires_at, end)


def check_renewable(token: Token) -> None:
    """Problem for tokens that have no lease of their own."""
    if token.kind == "batch":
        raise Problem(400, "batch tokens cannot be renewed")
    if token.expires_at is None and token.path == "auth/token/root":
        raise Problem(400, "invalid lease ID")
    if not token.renewable:
        raise Problem(400, "lease is not renewable")


def new_uuid() -> str:
    """As ids of requests, roles and entities are."""
    return str(uuid.uuid4())
