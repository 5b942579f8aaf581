"""What a refusal means: from a 4xx answer to our errors. The only file that reads a server's texts.

They tell cases apart and go no further: messages are ours. The texts are those of OpenBao 2.6 and HashiCorp Vault 1.2x;
a case that no text tells is read from the status alone.
"""

from collections.abc import Mapping
from typing import Any

from agent.engines.vault.answers import Answer, ServerFault
from agent.errors import (
    BadResponse,
    Forbidden,
    LeaseGone,
    MaxTtlReached,
    NoIdentity,
    NotFound,
    NotRenewable,
    Unavailable,
    Unfit,
    UpstreamError,
)

_UNKNOWN_ROLE = ("unknown role", "no such role", "role not found", "could not find role", "invalid role")
_GONE = ("lease not found", "lease expired", "lease is expired", "invalid lease")

# Fragments of what logins are refused with, and what that means. First that matches.
_LOGIN_REASONS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("audience",),
        "the token is for another audience: the role's bound_audiences (audience) and the pod's projected token differ",
    ),
    (
        ("service account name not authorized", "namespace not authorized"),
        "the role is not bound to this service account: see its bound_service_account_names and _namespaces",
    ),
    (("secret id", "secret_id", "role_id", "role id"), "role id or secret id is wrong, used up or expired"),
    (("invalid role name", "could not be found", *_UNKNOWN_ROLE), "there is no such role"),
    (("could not load configuration", "could not load backend", "not configured"), "the mount is not configured"),
    (("signature", "no known key"), "the server does not know the key that signed the token: see the mount's config"),
    (("expired", "not valid yet", "issued in the future"), "the proof has expired, or the clocks differ"),
    (("subject",), "the token's subject is not the role's bound_subject"),
    (("claim",), "a claim of the token is not what the role's bound_claims say"),
    (("certificate",), "no certificate role there accepts the client certificate"),
)


def says(answer: Answer | ServerFault, *fragments: str) -> bool:
    """Whether any of `fragments` (lower case) is in what the server says."""
    said = "\n".join(answer.errors).lower()
    return any(fragment in said for fragment in fragments)


def names_the_token(answer: Answer) -> bool:
    """Whether a 403 says by itself that the token is unknown; newer Vault servers do."""
    return says(answer, "invalid token", "bad token")


def names_the_policy(answer: Answer) -> bool:
    """Whether a 403 shows by its form that the token is known: only what comes after its check is wrapped so."""
    return says(answer, "1 error occurred") and not names_the_token(answer)


def forbidden(upstream: str, path: str, right: str) -> Forbidden:
    """Our login is good and may not do that."""
    return Forbidden(
        f"{upstream}: our login may not {right} {path}, or nothing is mounted there: its policy needs "
        f'path "{path}" {{ capabilities = ["{right}"] }}'
    )


def login_refused(upstream: str, path: str, body: Mapping[str, Any], answer: Answer) -> UpstreamError:
    """A login was answered with a 4xx."""
    mount = path.removesuffix("/login")
    role = body.get("role") or body.get("name")
    who = f' as role "{role}"' if isinstance(role, str) else ""
    if answer.status in (404, 405):
        return NotFound(f"{upstream}: nothing to log in at is mounted at {mount}: check mount_path and namespace")
    reason = next((words for fragments, words in _LOGIN_REASONS if says(answer, *fragments)), "")
    if not reason and answer.status == 403:
        reason = "nothing is mounted there, or the role is not bound to who we are"
    why = reason or "the server's audit log says why"
    return NoIdentity(f"{upstream}: the login at {mount}{who} is refused ({answer.status}): {why}")


def not_issued(upstream: str, path: str, *, writes: bool, answer: Answer) -> UpstreamError:
    """An issue, or a look, was answered with 400, 404 or 405."""
    if answer.status == 404:
        return NotFound(f"{upstream}: there is nothing at {path}: check the mount and the name there")
    if answer.status == 405:
        other = "lease" if writes else "write"
        return Unfit(f'{upstream}: {path} does not work that way: set kind = "{other}" on the role')
    if says(answer, *_UNKNOWN_ROLE):
        return NotFound(f"{upstream}: {path}: the server does not know that role")
    if writes:
        return Unfit(f"{upstream}: {path} refuses the request (400): check the role's parameters")
    return BadResponse(f"{upstream}: {path} refuses the request (400): the server's audit log says why")


def not_made(upstream: str, path: str, fault: ServerFault) -> UpstreamError:
    """An issue was answered with a 5xx: as a rule the system behind the server is down."""
    if says(fault, "is not an allowed role"):
        return NotFound(f"{upstream}: {path}: the role is not among the allowed_roles of its connection at the server")
    return fault


def not_renewed(upstream: str, what: str, answer: Answer, *, user: str = "") -> UpstreamError:
    """A renewal was answered with 400, 404 or 405.

    Args:
        what: "lease" or "login".
        user: whom the lease made; a system behind the server that does not know it any more says its name.
    """
    if says(answer, *_GONE):
        return LeaseGone(f"{upstream}: the server does not know the {what} any more")
    if says(answer, "not renewable", "cannot be renewed"):
        return NotRenewable(f"{upstream}: the server does not renew this {what}")
    if says(answer, "past the max ttl"):
        return MaxTtlReached(f"{upstream}: the {what} has reached its max TTL")
    if says(answer, "could not find role"):
        return NotRenewable(f"{upstream}: the {what} cannot be renewed: its role has been deleted at the server")
    if says(answer, "failed to renew entry"):
        if user and says(answer, f'"{user.lower()}" does not exist'):
            return LeaseGone(f"{upstream}: the system behind the server does not know the {what}'s user any more")
        return Unavailable(f"{upstream}: the system behind the server could not extend the {what}")
    return BadResponse(f"{upstream}: the {what} is not renewed ({answer.status}), and nothing known says why")


def is_gone(answer: Answer) -> bool:
    """Whether a refused revocation says that there is nothing to revoke."""
    return answer.status == 400 and says(answer, *_GONE)


def not_revoked(upstream: str, answer: Answer) -> UpstreamError:
    """A revocation was answered with 400, 404 or 405."""
    if says(answer, "failed to revoke entry"):
        return Unavailable(f"{upstream}: the system behind the server could not end the lease")
    return BadResponse(f"{upstream}: the lease is not revoked ({answer.status}), and nothing known says why")
