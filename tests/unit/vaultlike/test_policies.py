"""Policies of the in-tree server: each row was found the same on OpenBao 2.6.2."""

import json

import pytest

from tests.vaultlike.messages import Problem
from tests.vaultlike.policies import Access, parse


def access(*rules: dict[str, list[str]]) -> Access:
    """Of a token with these policies."""
    return Access(
        parse(json.dumps({"path": {path: {"capabilities": words} for path, words in one.items()}})) for one in rules
    )


@pytest.mark.parametrize(
    ("rules", "path", "found"),
    [
        ({"a/b": ["read"]}, "a/b", {"read"}),
        ({"a/b": ["read"]}, "a/b/c", {"deny"}),
        ({"a/*": ["read"]}, "a/b/c", {"read"}),
        ({"a/*": ["read"]}, "a", {"deny"}),
        ({"a*": ["read"]}, "abc", {"read"}),
        ({"a/+/c": ["read"]}, "a/b/c", {"read"}),
        ({"a/+/c": ["read"]}, "a/b/b/c", {"deny"}),
        ({"a/+/c*": ["read"]}, "a/b/cd/e", {"read"}),
        ({"a/*": ["read"], "a/b": ["update"]}, "a/b", {"update"}),
        ({"a/*": ["read"], "a/b/*": ["update"]}, "a/b/c", {"update"}),
        ({"a/*": ["read"], "a/+/c": ["update"]}, "a/b/c", {"update"}),
        ({"+/b": ["read"], "a/*": ["update"]}, "a/b", {"update"}),
        ({"a": ["list"], "a*": ["update"]}, "a/", {"list"}),
        ({"a/b": ["deny", "read"]}, "a/b", {"deny"}),
    ],
)
def test_the_closest_path_decides(rules: dict[str, list[str]], path: str, found: set[str]):
    assert access(rules).capabilities(path) == found


def test_policies_of_one_token_add_up_and_a_denial_beats_them():
    assert access({"a": ["read"]}, {"a": ["update"]}).capabilities("a") == {"read", "update"}
    assert access({"a": ["read"]}, {"a": ["deny"]}).capabilities("a") == {"deny"}


def test_paths_of_the_operator_ask_for_sudo_as_well():
    prefix = "sys/leases/revoke-prefix/database"

    assert not access({"sys/*": ["update"]}).allows("update", prefix)
    assert access({"sys/*": ["update", "sudo"]}).allows("update", prefix)


def test_hcl_and_json_say_the_same():
    hcl = """
    # what a pod needs
    path "database/creds/app" { capabilities = ["read"] } /* and */
    path "sys/leases/renew" {
      capabilities = [
        "update", // and no more
      ]
    }
    """

    assert parse(hcl) == {"database/creds/app": {"read"}, "sys/leases/renew": {"update"}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('path "x" { capabilities = ["nosuch"] }', 'path "x": invalid capability "nosuch"'),
        ('pth "x" { capabilities = ["read"] }', 'invalid key "pth"'),
        ('path "x" { capabilities = ', "object expected closing RBRACE got: EOF"),
        ('path "x" { capabilities = ["read" }', "unexpected }"),
        ("path ~", "illegal character"),
        ('{"path": ', "failed to parse policy"),
    ],
)
def test_what_is_no_policy_is_refused(text: str, said: str):
    with pytest.raises(Problem) as refused:
        parse(text)

    assert (refused.value.status, said in refused.value.text) == (400, True)
