"""What a request carries and what comes back, apart from HTTP; and Problem, the way every refusal takes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.vaultlike.spaces import Mount, Space
    from tests.vaultlike.tokens import Token

Json = dict[str, Any]


class Problem(Exception):
    """A refusal: status and texts, or a whole body."""

    def __init__(self, status: int, *errors: str, body: Json | None = None) -> None:
        super().__init__(status, *errors)
        self.status = status
        self.body: Json = {"errors": list(errors)} if body is None else body

    @property
    def text(self) -> str:
        """The first of its texts."""
        return str((self.body.get("errors") or [""])[0])


def multi(text: str) -> str:
    """The form in which errors that several places might have added to are worded."""
    return f"1 error occurred:\n\t* {text}\n\n"


def bare(text: str) -> str:
    """The error within that form."""
    return text.removeprefix("1 error occurred:\n\t* ").strip()


DENIED = "permission denied"


@dataclass(frozen=True, kw_only=True)
class Grant:
    """A lease to be made for `data`.

    Attributes:
        ttl: seconds.
        renewable: whether sys/leases/renew will do.
        private: what the engine needs to renew or revoke it.
    """

    ttl: int
    renewable: bool = True
    private: Json = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A success.

    Attributes:
        data: the envelope's; None and no auth: 204.
        auth: of a login.
        grant: makes the answer a leased one; lease_id, lease_duration and renewable follow from it.
        flat: repeat the data beside the envelope, as sys/ does.
        bare: the body as it is, in place of an envelope; text is sent as it is.
        lease_id, renewable: of an answer about a lease that exists.
        lease_duration: seconds, of an answer that has no lease.
        replay: a wrapped envelope that is opened.
    """

    data: Json | None = field(default=None, repr=False)
    auth: Json | None = field(default=None, repr=False)
    grant: Grant | None = None
    warnings: tuple[str, ...] = ()
    flat: bool = False
    bare: Json | str | None = None
    status: int = 200
    lease_id: str = ""
    renewable: bool = False
    lease_duration: int = 0
    replay: Json | None = field(default=None, repr=False)


NOTHING = Answer(status=204)


@dataclass(frozen=True, kw_only=True)
class Call:
    """One request on its way to an engine.

    Attributes:
        operation: read, update, delete, list or patch.
        path: below /v1/, the namespace taken off.
        rest: below the mount.
        token: whoever asks; None on the few paths that need nobody.
        client_token: as it was sent.
        peer: the client's certificate, DER.
    """

    operation: str
    path: str
    body: Json = field(default_factory=dict, repr=False)
    query: Mapping[str, str] = field(default_factory=dict)
    space: "Space"
    mount: "Mount"
    rest: str
    token: "Token | None" = None
    client_token: str = field(default="", repr=False)
    wrap_ttl: float = 0.0
    peer: bytes | None = field(default=None, repr=False)

    def text(self, name: str, default: str = "") -> str:
        """A field of the body as text."""
        value = self.body.get(name)
        return default if value is None else value if isinstance(value, str) else json.dumps(value)

    def words(self, name: str) -> list[str]:
        """A list, or texts parted by commas; as Vault reads lists."""
        return listed(self.body.get(name))


def listed(value: Any) -> list[str]:
    """A list of texts from a JSON list or from one text with commas."""
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return [word.strip() for word in value.split(",") if word.strip()]
    return [str(word) for word in value]
