"""Policies: reading them, and who may do what where."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from tests.vaultlike import hcl
from tests.vaultlike.messages import Problem

CAPABILITIES = ("deny", "create", "read", "update", "delete", "list", "sudo", "patch")
_OLD_WORDS = {
    "deny": ["deny"],
    "read": ["read", "list"],
    "write": ["create", "read", "update", "delete", "list"],
    "sudo": ["create", "read", "update", "delete", "list", "sudo"],
}

DEFAULT = """
path "auth/token/lookup-self"     { capabilities = ["read"] }
path "auth/token/renew-self"      { capabilities = ["update"] }
path "auth/token/revoke-self"     { capabilities = ["update"] }
path "sys/capabilities-self"      { capabilities = ["update"] }
path "sys/leases/renew"           { capabilities = ["update"] }
path "sys/renew"                  { capabilities = ["update"] }
path "sys/leases/lookup"          { capabilities = ["update"] }
path "sys/wrapping/wrap"          { capabilities = ["update"] }
path "sys/wrapping/lookup"        { capabilities = ["update"] }
path "sys/wrapping/unwrap"        { capabilities = ["update"] }
path "cubbyhole/*"                { capabilities = ["create", "read", "update", "delete", "list"] }
"""
WRAPPING = 'path "sys/wrapping/unwrap" { capabilities = ["update"] }'

# What asks for `sudo` on top of its verb; a final * stands for anything.
ROOT_PATHS = (
    "auth/token/accessors*",
    "auth/token/create-orphan",
    "auth/token/revoke-orphan",
    "sys/auth/*",
    "sys/leases/lookup/*",
    "sys/leases/revoke-force/*",
    "sys/leases/revoke-prefix/*",
    "sys/revoke-force/*",
    "sys/revoke-prefix/*",
    "sys/seal",
    "sys/step-down",
)

Rules = Mapping[str, frozenset[str]]


@lru_cache(maxsize=512)
def parse(text: str) -> Rules:
    """Capabilities by path; Problem for what the server would not take."""
    try:
        document = hcl.parse(text)
    except hcl.Malformed as exc:
        raise Problem(400, f"failed to parse policy: {exc}") from exc
    for key in document:
        if key not in ("path", "name"):
            problem = f'1 error occurred:\n\t* invalid key "{key}" on line 0\n\n'
            raise Problem(400, f"failed to parse policy: {problem}")
    stanzas: Any = document.get("path", {})
    if isinstance(stanzas, list):
        stanzas = {path: body for one in stanzas for path, body in one.items()}
    return {path.removeprefix("/"): _capabilities(path, body) for path, body in stanzas.items()}


def _capabilities(path: str, body: Any) -> frozenset[str]:
    words: list[str] = list(body.get("capabilities") or _OLD_WORDS.get(body.get("policy", ""), ()))
    for word in words:
        if word not in CAPABILITIES:
            raise Problem(400, f'failed to parse policy: path "{path}": invalid capability "{word}"')
    return frozenset(["deny"] if "deny" in words else words)


@dataclass(frozen=True)
class Pattern:
    """A path of a policy: `*` at the end stands for anything, `+` for one segment."""

    text: str

    @property
    def exact(self) -> bool:
        """Whether it stands for itself only."""
        return not self.text.endswith("*") and "+" not in self.text.split("/")

    def matches(self, path: str) -> bool:
        """Whether a path is one of those it stands for."""
        want, open_end = (self.text[:-1], True) if self.text.endswith("*") else (self.text, False)
        if "+" not in want.split("/"):
            return path.startswith(want) if open_end else path == want
        wanted, given = want.split("/"), path.split("/")
        if len(given) < len(wanted) or (not open_end and len(given) != len(wanted)):
            return False
        pairs = list(zip(wanted, given, strict=False))
        last_wanted, last_given = pairs[-1]
        last = last_given.startswith(last_wanted) if open_end else last_wanted in ("+", last_given)
        return last and all(one in ("+", other) for one, other in pairs[:-1])

    @property
    def rank(self) -> tuple[int, bool, int, int, str]:
        """The greater wins, where two match: Vault's rules of priority."""
        marks = [at for at in (self.text.find("+"), self.text.find("*")) if at >= 0]
        first = min(marks, default=len(self.text) + 1)
        return (first, not self.text.endswith("*"), -self.text.count("+"), len(self.text), self.text)


class Access:
    """What one token may do: its policies put together."""

    def __init__(self, policies: Iterable[Rules], *, root: bool = False) -> None:
        self.root = root
        self._rules: dict[str, frozenset[str]] = {}
        for rules in policies:
            for path, words in rules.items():
                both = self._rules.get(path, frozenset()) | words
                self._rules[path] = frozenset(["deny"]) if "deny" in both else both

    def capabilities(self, path: str) -> frozenset[str]:
        """On a path; deny where nothing is said."""
        if self.root:
            return frozenset(["root"])
        # A listing asks with a slash at the end, and rules without one mean it too.
        forms = (path, path.removesuffix("/")) if path.endswith("/") else (path,)
        found = (find(form) for find in (self._exact, self._by_pattern) for form in forms)
        return next((one for one in found if one), frozenset(["deny"]))

    def _exact(self, path: str) -> frozenset[str] | None:
        return self._rules.get(path) if Pattern(path).exact else None

    def _by_pattern(self, path: str) -> frozenset[str] | None:
        matching = [one for one in map(Pattern, self._rules) if not one.exact and one.matches(path)]
        return self._rules[max(matching, key=lambda one: one.rank).text] if matching else None

    def allows(self, capability: str, path: str) -> bool:
        """Whether it may, the sudo of special paths included."""
        given = self.capabilities(path)
        if "root" in given:
            return True
        return capability in given and ("sudo" in given or not asks_for_sudo(path))


def asks_for_sudo(path: str) -> bool:
    """Whether the verb alone is not enough there."""
    return any(Pattern(one).matches(path) for one in ROOT_PATHS)
