"""The values every other file speaks of: Secret, Grant, Lease.

Nothing here reads a clock, and nothing here is ever changed in place: a renewal makes a new Lease.
"""

import hmac
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn


class Secret:
    """A text that no log, error or repr shows. Only the file that must send or write it calls `reveal()`."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._text.encode(), other._text.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled or copied to disk")

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Secret":
        return self


@dataclass(frozen=True, kw_only=True)
class Grant:
    """What an engine returns for one issue or renewal. Engines know no instants.

    Attributes:
        id: the upstream's name of the lease; opaque.
        data: field name to value, `username` and `password` for a database. A renewal may leave it empty.
        ttl: seconds granted, counted from the moment the request left.
        renewable: whether the upstream said that it can be renewed.
        max_ttl: seconds from issue after which no renewal helps; `math.inf` where the upstream does not say.
        parent: id of the login that the lease ends with; "" where it hangs on none.
        key: what it takes to revoke the lease beside its id; None where the id will do.
    """

    id: str = field(repr=False)
    data: Mapping[str, Secret] = field(repr=False)
    ttl: float
    renewable: bool
    max_ttl: float = math.inf
    parent: str = field(default="", repr=False)
    key: Secret | None = None


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A grant, stamped by the Renewer with instants of the dial.

    Attributes:
        first: the grant of the issue; it sets overlap and margin, and its `data` is the credential.
        last: the newest grant; it sets when to renew.
        issued_at: when the issue's request left.
        granted_at: when the newest grant's request left.
        jitter: drawn once per grant, 0 ≤ jitter < 1; it only brings the renewal forward.
        assured_until: an earlier grant's end, kept where a renewal's rounding would seem to take it back.
        parent_until: end of the login that it hangs on, as far as that is assured now.
    """

    first: Grant
    last: Grant
    issued_at: float
    granted_at: float
    jitter: float
    assured_until: float = -math.inf
    parent_until: float = math.inf

    @property
    def id(self) -> str:
        """The upstream's name of the lease."""
        return self.first.id

    @property
    def data(self) -> Mapping[str, Secret]:
        """The credential's fields."""
        return self.first.data

    @property
    def parent(self) -> str:
        """The login that it ends with, "" where there is none."""
        return self.first.parent

    @property
    def own_end(self) -> float:
        """The instant until which its own grants let it live."""
        return max(self.granted_at + self.last.ttl, self.assured_until)

    @property
    def expires_at(self) -> float:
        """The instant until which the credential is good for certain: no lease outlives the login that it hangs on."""
        return min(self.own_end, self.parent_until)

    @property
    def renewable(self) -> bool:
        """Whether another renewal may succeed."""
        return self.last.renewable

    @property
    def max_end(self) -> float:
        """The instant past which the upstream renews no more, `math.inf` where it does not say."""
        return self.issued_at + self.first.max_ttl

    def renewed(self, grant: Grant, *, granted_at: float, answered_at: float, jitter: float) -> "Lease":
        """The lease after a renewal whose request left at `granted_at` and whose answer came at `answered_at`.

        Upstreams round down to whole seconds and we count from before the request left, so an unchanged end may come
        back a moment earlier: the end already told to readers then stands. An end that is truly earlier is taken over.
        """
        slack = 1.0 + (answered_at - granted_at)
        end = granted_at + grant.ttl
        kept = self.own_end if self.own_end - slack <= end else -math.inf
        return replace(self, last=grant, granted_at=granted_at, jitter=jitter, assured_until=kept)

    def frozen(self) -> "Lease":
        """The same lease, to be renewed no more."""
        return replace(self, last=replace(self.last, renewable=False))
