"""What is judged too little or too much, and what a login's length does to leases: pure."""

import math

import pytest

from agent.config.model import Role
from agent.engines.finding import Level
from agent.engines.vault.rights import TokenFacts, asked, beside_lease, lacking, lifetime, needs, too_much

ROLES = {
    "a": Role(upstream="vault", path="database/creds/a"),
    "b": Role(upstream="vault", path="pki/issue/b", kind="write"),
    "c": Role(upstream="vault", path="secret/data/c", kind="kv"),
}


def test_what_is_needed_follows_from_the_roles_and_the_login() -> None:
    everything = {(need.path, need.right) for need in needs(ROLES, renewable=True, ours=True)}
    least = {need.path for need in needs({"c": ROLES["c"]}, renewable=False, ours=False)}

    assert {("database/creds/a", "read"), ("pki/issue/b", "update"), ("secret/data/c", "read")} < everything
    assert {path for path, _ in everything} > {"sys/leases/renew", "sys/leases/revoke", "auth/token/renew-self"}
    assert least == {"secret/data/c", "auth/token/lookup-self"}, "nothing is leased, renewed or ours there"


def test_a_right_by_root_is_a_right() -> None:
    wanted = needs(ROLES, renewable=True, ours=True)

    (found,) = lacking(wanted, dict.fromkeys(asked(wanted), ("root",)))

    assert found.level is Level.OK


def test_what_the_server_does_not_tell_is_no_right_and_no_excess() -> None:
    wanted = needs(ROLES, renewable=True, ours=True)

    assert len(list(lacking(wanted, {}))) == len(wanted)
    assert list(too_much(wanted, {})) == []


@pytest.mark.parametrize(
    ("may", "policies"), [({}, ("root",)), ({"database/creds/a": ("root",)}, ()), ({"x": ("root",)}, ("root",))]
)
def test_root_is_told_once_however_it_is_known(may: dict[str, tuple[str, ...]], policies: tuple[str, ...]) -> None:
    """A token that may not look at itself, or at what it may do, tells one of the two."""
    (found,) = too_much(needs(ROLES, renewable=True, ours=True), may, policies)

    assert (found.level, "root" in found.text) == (Level.TOO_MUCH, True)


def test_create_beside_update_is_no_excess_where_a_role_writes() -> None:
    """PKI's own documentation gives both."""
    wanted = needs({"b": ROLES["b"]}, renewable=False, ours=False)

    assert list(too_much(wanted, {"pki/issue/b": ("create", "update")})) == []
    assert len(list(too_much(wanted, {"pki/issue/b": ("read", "delete", "update")}))) == 1


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (TokenFacts(ttl=7200, renewable=True, longest=86400), ()),
        (TokenFacts(ttl=7200, renewable=True, longest=math.inf), ()),
        (TokenFacts(ttl=7200, renewable=True, period=7200, longest=7200), ()),
        (TokenFacts(ttl=600, renewable=True, longest=86400), ("token_ttl of the login's role to 3600",)),
        (TokenFacts(ttl=600, renewable=True, period=600), ("token_period of the login's role to 3600",)),
        (TokenFacts(ttl=7200, renewable=True, longest=7200), ("each 7200 s at the latest",)),
        (TokenFacts(ttl=7200, renewable=False), ("each 7200 s at the latest",)),
        (TokenFacts(ttl=60, renewable=False, batch=True), ("token_ttl", "each 60 s at the latest")),
    ],
)
def test_a_login_should_outlive_its_leases_many_times(facts: TokenFacts, words: tuple[str, ...]) -> None:
    told = list(beside_lease(3600.0, facts))

    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


def test_a_token_that_never_ends_is_worth_a_word() -> None:
    (found,) = lifetime("token file /t", TokenFacts(ttl=10 * 365 * 86400, renewable=False))

    assert (found.level, "never ends" in found.text) == (Level.WARNING, True)
