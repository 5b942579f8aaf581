"""Response wrapping: answers kept for one reader."""

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tests.vaultlike.messages import Json, Problem
from tests.vaultlike.tokens import Token, TokenStore, random_text
from tests.vaultlike.ttl import instant

if TYPE_CHECKING:
    from tests.vaultlike.spaces import Space

GONE = "wrapping token is not valid or does not exist"


class Wrapping:
    """Envelopes by the token that opens them, once."""

    def __init__(self, tokens: TokenStore) -> None:
        self._tokens = tokens
        self._kept: dict[str, tuple[Json, Json]] = {}

    def wrap(self, space: "Space", envelope: Json, path: str, ttl: float) -> Json:
        """Keep an envelope; `wrap_info`."""
        token = Token(
            id="s." + random_text(24),
            accessor=random_text(24),
            space=space,
            policies=("response-wrapping",),
            path=path,
            display_name="",
            ttl=int(ttl),
            creation_ttl=int(ttl),
            explicit_max_ttl=ttl,
            num_uses=1,
        )
        self._tokens.plant(token)
        info: Json = {
            "token": token.id,
            "accessor": token.accessor,
            "ttl": int(ttl),
            "creation_time": instant(time.time()),
            "creation_path": path,
        }
        accessor = _accessor(envelope)
        if accessor:
            info["wrapped_accessor"] = accessor
        self._kept[token.id] = (envelope, info)
        return info

    def holds(self, sent: str) -> bool:
        """Whether a token opens something."""
        return sent in self._kept and self._tokens.find(sent) is not None

    def info(self, sent: str) -> Json:
        """`wrap_info` of what it would open; Problem where it opens nothing."""
        if not self.holds(sent):
            raise Problem(400, GONE)
        return self._kept[sent][1]

    async def unwrap(self, sent: str) -> Json:
        """The envelope, and the token's end."""
        kept = self._kept.pop(sent, None)
        if kept is None:
            raise Problem(400, GONE)
        token = self._tokens.find(sent)
        if token is not None:
            await self._tokens.revoke(token)
        return kept[0]


def _accessor(envelope: Mapping[str, Json]) -> str:
    auth, data = envelope.get("auth") or {}, envelope.get("data") or {}
    found: str = auth.get("accessor", "") or data.get("secret_id_accessor", "")
    return found
