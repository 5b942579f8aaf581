"""What a user of Vault Agent writes in [vault] and [auto_auth], and what is answered."""

import pytest

from tests.unit.config.documents import VAULT, at_vault, with_method, with_sink, wrong

CONFIG = "auto_auth.method.config"
KUBERNETES = 'role = "app"'

VAULT_AGENTS = {
    "a cache": (at_vault(rest="[cache]\nuse_auto_auth_token = true"), "cache", "is not needed: a role has one lease"),
    "a proxy": (at_vault(rest="[api_proxy]\nuse_auto_auth_token = true"), "api_proxy", "is not there: apps read roles"),
    "one run": ("exit_after_auth = true" + at_vault(), "exit_after_auth", "is not there: `leasehold once`"),
    "retries": (at_vault(vault=f"{VAULT}[vault.retry]\nnum_retries = 5"), "vault.retry", "is not needed: failed calls"),
    "retries of one of several": (
        at_vault(vault='[vault.a]\naddress = "https://a"\n[vault.a.retry]\nnum_retries = 5').replace(
            'upstream = "vault"', 'upstream = "vault.a"'
        ),
        "vault.a.retry",
        "is not needed: failed calls",
    ),
    "a directory of CAs": (at_vault(more_vault='ca_path = "/etc/ssl/certs"'), "vault.ca_path", "is not there: write"),
    "an end after an error": (
        with_method("kubernetes", KUBERNETES, more="exit_on_err = true"),
        "auto_auth.method.exit_on_err",
        "is not needed: a login that fails",
    ),
    "a backoff": (
        with_method("kubernetes", KUBERNETES, more='min_backoff = "1s"'),
        "auto_auth.method.min_backoff",
        "is not needed: a login that fails",
    ),
    "a token to remove": (
        with_method("jwt", 'role = "a"\npath = "/t"\nremove_jwt_after_reading = true'),
        f"{CONFIG}.remove_jwt_after_reading",
        "is not needed: files are read anew",
    ),
    "an encrypted sink": (with_sink(more='dh_type = "curve25519"'), "auto_auth.sink[0].dh_type", "is not there: wrap"),
    "a sink's owner": (
        with_sink('path = "/run/token"\nowner = "app"'),
        "auto_auth.sink[0].config.owner",
        "is called user here",
    ),
}


@pytest.mark.parametrize(("text", "place", "why"), VAULT_AGENTS.values(), ids=VAULT_AGENTS.keys())
def test_a_key_of_vault_agent_is_answered_with_what_takes_its_place(text: str, place: str, why: str) -> None:
    (mistake,) = wrong(text)

    assert mistake.startswith(f"{place}: unknown key; Vault Agent's {place.rpartition('.')[2]} {why}")


def test_a_method_as_a_labelled_block_is_answered_with_its_type() -> None:
    mistakes = wrong(at_vault(method='[auto_auth.method.kubernetes]\nmount_path = "auth/kubernetes"'))

    assert mistakes == [
        "auto_auth.method.type: is required",
        'auto_auth.method.kubernetes: unknown key; Vault Agent\'s kubernetes is written type = "kubernetes", with '
        "[auto_auth.method.config]",
    ]


def test_a_wrapping_in_the_wrong_place_is_answered_with_the_right_one() -> None:
    assert wrong(with_method("kubernetes", KUBERNETES, more='wrap_ttl = "5m"')) == [
        "auto_auth.method.wrap_ttl: unknown key here; it belongs to [[auto_auth.sink]]"
    ]
