"""Rules for [vault]: a sound document with one thing wrong, and the exact line that says so."""

import pytest

from agent.config import check
from agent.config.model import method_of
from agent.config.rules.vaults import CALL, CALLS
from agent.engines.vault import workers
from agent.errors import ConfigError
from agent.leases.schedule import CALL_DEADLINE
from tests.unit.config.documents import AT_VAULT, METHOD, PATH_RULE, VAULT, at_vault, read, with_method, wrong

URL_RULE = 'must be "https://HOST:PORT", with nothing before or behind it'
CLEAR_RULE = 'lets tokens and credentials travel in clear; only a loopback host may do without TLS: write "https"'
PLACE_RULE = 'must be "HOST:PORT", with nothing before or behind it'
SPACE_RULE = 'is no namespace; parts of letters, digits, . _ - between slashes, such as "team/app"'
SOCKET = '[listener.unix]\naddress = "/run/a"\n'


def address(text: str) -> str:
    """A configuration whose Vault is at this address."""
    return at_vault(vault=f'[vault]\naddress = "{text}"')


RULES: dict[str, tuple[str, str]] = {
    "an address without a scheme": (address("vault:8200"), f"vault.address: {URL_RULE}"),
    "an address of another scheme": (address("unix:///run/vault.sock"), f"vault.address: {URL_RULE}"),
    "no address at all": (address(""), f"vault.address: {URL_RULE}"),
    "an address with a path": (address("https://vault:8200/v1"), f"vault.address: {URL_RULE}"),
    "an address with a query": (address("https://vault:8200?a=b"), f"vault.address: {URL_RULE}"),
    "an address with a fragment": (address("https://vault:8200#a"), f"vault.address: {URL_RULE}"),
    "an address without a host": (address("https://:8200"), f"vault.address: {URL_RULE}"),
    "an address with a blank": (address("https://vault :8200"), f"vault.address: {URL_RULE}"),
    "port 0": (address("https://vault:0"), f"vault.address: {URL_RULE}"),
    "a port beyond the last": (address("https://vault:65536"), f"vault.address: {URL_RULE}"),
    "an IPv6 address that is none": (address("https://[::1::2]:8200"), f"vault.address: {URL_RULE}"),
    "an address in clear": (address("http://vault:8200"), f"vault.address: {CLEAR_RULE}"),
    "an address in clear that only begins like loopback": (
        address("http://127.0.0.1.example.com:8200"),
        f"vault.address: {CLEAR_RULE}",
    ),
    "an address in clear that only looks like loopback": (
        address("http://127.0.0.999:8200"),
        f"vault.address: {CLEAR_RULE}",
    ),
    "an empty part in a host": (
        address("https://vault..svc:8200"),
        "vault.address: has a part between dots that is empty or longer than 63 characters",
    ),
    "a fallback in clear": (
        at_vault(more_vault='fallback_addresses = ["https://b:8200", "http://c:8200"]'),
        f"vault.fallback_addresses[1]: {CLEAR_RULE}",
    ),
    "an address twice": (
        at_vault(more_vault='fallback_addresses = ["https://vault:8200"]'),
        "vault.fallback_addresses[0]: is there already; every address once",
    ),
    "a redirect to a URL": (
        at_vault(more_vault='redirect_hosts = ["https://b:8200"]'),
        f"vault.redirect_hosts[0]: {PLACE_RULE}",
    ),
    "a redirect without a port": (
        at_vault(more_vault='redirect_hosts = ["b:8200", "b"]'),
        f"vault.redirect_hosts[1]: {PLACE_RULE}",
    ),
    "a redirect to anywhere": (
        at_vault(more_vault='redirect_hosts = ["*:8200"]'),
        f"vault.redirect_hosts[0]: {PLACE_RULE}",
    ),
    "a proxy without a scheme": (
        at_vault(more_vault='proxy = "proxy:3128"'),
        'vault.proxy: must be "http://HOST:PORT", with nothing before or behind it',
    ),
    "a proxy over TLS": (
        at_vault(more_vault='proxy = "https://proxy:3128"'),
        'vault.proxy: must be "http://HOST:PORT", with nothing before or behind it',
    ),
    "a proxy beside an address in clear": (
        at_vault(vault='[vault]\naddress = "http://127.0.0.1:8200"\nproxy = "http://proxy:3128"'),
        'vault.proxy: never carries what goes in clear; take it away, or write "https" in every address',
    ),
    "a proxy beside a fallback in clear": (
        at_vault(more_vault='fallback_addresses = ["http://localhost:8200"]\nproxy = "http://proxy:3128"'),
        'vault.proxy: never carries what goes in clear; take it away, or write "https" in every address',
    ),
    "a namespace with a leading slash": (at_vault(more_vault='namespace = "/team"'), f"vault.namespace: {SPACE_RULE}"),
    "an empty namespace": (at_vault(more_vault='namespace = ""'), f"vault.namespace: {SPACE_RULE}"),
    "a namespace with a blank": (at_vault(more_vault='namespace = "my team"'), f"vault.namespace: {SPACE_RULE}"),
    "a namespace without end": (
        at_vault(more_vault=f'namespace = "{"n" * 256}"'),
        f"vault.namespace: {SPACE_RULE}",
    ),
    "a relative CA": (at_vault(more_vault='ca_cert = "ca.pem"'), f"vault.ca_cert: {PATH_RULE}"),
    "a certificate without its key": (
        at_vault(more_vault='client_cert = "/c"'),
        "vault.client_key: is missing; client_cert and client_key belong together",
    ),
    "a key without its certificate": (
        at_vault(more_vault='client_key = "/k"'),
        "vault.client_cert: is missing; client_cert and client_key belong together",
    ),
    "a server name for many": (
        at_vault(more_vault='tls_server_name = "*.example.com"'),
        "vault.tls_server_name: is no host name and no address; write the name that the certificate has",
    ),
    "no calls": (at_vault(more_vault="max_calls = 0"), "vault.max_calls: 0 is out of range; 1 to 4"),
    "more calls than threads": (at_vault(more_vault="max_calls = 5"), "vault.max_calls: 5 is out of range; 1 to 4"),
    "a connection longer than a call": (
        at_vault(more_vault='connect_timeout = "11s"'),
        'vault.connect_timeout: "11s" is out of range; "1s" to "10s"',
    ),
    "no method": (
        at_vault(method=""),
        "vault: has no method to log in with; add [auto_auth.method], or a method table of its own below it",
    ),
    "one without a method beside one with": (
        f"""
        [vault.a]
        address = "https://a"
        [vault.a.method]
        type = "jwt"
        config = {{ role = "app", path = "/t" }}
        [vault.b]
        address = "https://b"
        {AT_VAULT.replace('"vault"', '"vault.a"')}
        """,
        "vault.b: has no method to log in with; add [auto_auth.method], or a method table of its own below it",
    ),
    "a name with a dot": (
        at_vault(vault='[vault."a.b"]\naddress = "https://a"', role=AT_VAULT.replace('"vault"', '"vault.a.b"')),
        'vault."a.b": is no name for an upstream; letters, digits, _ and -, at most 63 of them',
    ),
    "an upstream that is not there": (
        at_vault(role=AT_VAULT.replace('"vault"', '"vault.b"')),
        'role."database/creds/app".upstream: is no configured upstream; there are: "vault"',
    ),
    "one cluster and several": (
        at_vault(more_vault='[vault.b]\naddress = "https://b"'),
        "vault: has keys of its own and tables below it; write either one [vault], or each server as [vault.NAME]",
    ),
    "no address key": (at_vault(vault="[vault]"), "vault.address: is required"),
    "a cluster that is no table": ("vault = 3\n" + at_vault(vault=""), "vault: must be a table, not a whole number"),
    "a token in the file": (
        at_vault(more_vault='token = "x"'),
        "vault.token: secrets do not stand in this file; it names the files they are in, such as password_file",
    ),
}


@pytest.mark.parametrize(("text", "expected"), RULES.values(), ids=RULES.keys())
def test_what_makes_no_sense_is_refused(text: str, expected: str) -> None:
    assert wrong(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "https://vault",
        "https://vault.vault.svc.cluster.local:8200",
        "https://10.0.0.7:8200/",
        "https://[2001:db8::1]:8200",
        "http://127.0.0.1:8200",
        "http://localhost:8200",
        "http://[::1]:8200",
    ],
)
def test_an_address_with_tls_or_on_this_machine_is_fine(text: str) -> None:
    assert wrong(address(text)) == []


@pytest.mark.parametrize(
    "more",
    [
        'fallback_addresses = ["https://b:8200", "https://c:8200"]',
        'redirect_hosts = ["b:8200", "[::1]:8200"]',
        'proxy = "http://proxy:3128"',
        'namespace = "team/app/"',
        'client_cert = "/c"\nclient_key = "/k"\ntls_server_name = "vault.example.com"',
    ],
)
def test_what_a_cluster_may_have_is_accepted(more: str) -> None:
    assert wrong(at_vault(more_vault=more)) == []


def test_no_call_waits_for_a_thread_within_its_deadline() -> None:
    assert CALLS == workers.MOST
    assert wrong(at_vault(more_vault=f"max_calls = {CALLS}")) == []


def test_a_connection_is_waited_for_no_longer_than_a_call_may_take() -> None:
    assert CALL == CALL_DEADLINE


# -- names and methods -----------------------------------------------------------------------------------------------

TWO = f"""
[vault.eu]
address = "https://eu"
[vault.us]
address = "https://us"
[vault.us.method]
type = "jwt"
[vault.us.method.config]
role = "app"
path = "/t"
{METHOD}
[role."a/creds/b"]
upstream = "vault.eu"
verify = []
[role."a/creds/c"]
upstream = "vault.us"
verify = []
"""


def test_a_cluster_has_its_own_method_or_the_one_for_all() -> None:
    config = read(TWO)

    assert list(config.vault) == ["vault.eu", "vault.us"]
    assert method_of(config, "vault.eu").type == "kubernetes"
    assert method_of(config, "vault.us").type == "jwt"


def test_a_method_below_the_one_cluster_is_its_own() -> None:
    config = read(at_vault(method='[vault.method]\ntype = "jwt"\nconfig = { role = "app", path = "/t" }'))

    assert list(config.vault) == ["vault"]
    assert method_of(config, "vault").config.path == "/t"


def test_asking_for_a_method_that_nobody_wrote_is_an_error() -> None:
    config = read(at_vault())
    without = type(config)(vault=config.vault)

    with pytest.raises(ConfigError, match=r"vault: has no method to log in with; add \[auto_auth.method\]"):
        method_of(without, "vault")


def test_a_broken_method_makes_no_cluster_look_as_if_it_had_none() -> None:
    assert wrong(at_vault(method=METHOD.replace("kubernetes", "kubernets"))) == [
        'auto_auth.method.type: must be one of "kubernetes", "jwt", "approle", "cert", "token_file", "aws", "azure", '
        '"gcp"; did you mean "kubernetes"?'
    ]


def test_a_broken_cluster_does_not_make_its_roles_look_wrong() -> None:
    assert wrong(at_vault(more_vault='max_calls = "x"')) == ["vault.max_calls: must be a whole number, not a string"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("auto_auth = 3", "auto_auth: must be a table, not a whole number"),
        ("[[auto_auth]]\nmethod = 3", "auto_auth: must be a table, not an array"),
    ],
)
def test_where_all_of_auto_auth_is_missing_nothing_that_refers_to_it_is_reported(text: str, expected: str) -> None:
    assert wrong(f"{text}\n{VAULT}{AT_VAULT}") == [expected]


# -- warnings and advice ---------------------------------------------------------------------------------------------

WARNINGS = {
    "any certificate": (
        'tls_skip_verify = true\nca_cert = "/ca"',
        [
            "vault.tls_skip_verify: accepts any certificate: whoever stands between may read tokens and credentials; "
            "name the CA in ca_cert",
            "vault.ca_cert: has no effect beside tls_skip_verify",
        ],
    ),
    "a token without end": (
        "accept_endless_token = true",
        [
            "vault.accept_endless_token: lets the agent work with a root token, say: what it is robbed of then has no "
            "end either"
        ],
    ),
    "a method for nobody": (
        '[vault.method]\ntype = "jwt"\nconfig = { role = "app", path = "/t" }',
        ["auto_auth.method: has no effect: every vault has a method of its own"],
    ),
}


@pytest.mark.parametrize(("more", "expected"), WARNINGS.values(), ids=WARNINGS.keys())
def test_what_may_surprise_is_named(more: str, expected: list[str]) -> None:
    assert check.warnings(read(at_vault(more_vault=more, rest=SOCKET))) == expected


def test_a_cluster_nobody_uses_is_named() -> None:
    config = read(TWO.replace('upstream = "vault.us"', 'upstream = "vault.eu"') + SOCKET)

    assert check.warnings(config) == ["vault.us: is used by no role"]


def test_a_cluster_whose_login_alone_is_wanted_is_used() -> None:
    sink = '[[auto_auth.sink]]\nupstream = "vault.us"\nconfig = { path = "/run/token", mode = "0440" }\n'

    assert check.warnings(read(TWO.replace('upstream = "vault.us"', 'upstream = "vault.eu"') + SOCKET + sink)) == []


def test_the_advice_says_where_the_agent_logs_in_and_how() -> None:
    more = 'fallback_addresses = ["https://b:8200"]'

    assert check.advice(read(at_vault(more_vault=more)))[0] == (
        "vault: at https://vault:8200 and 1 more, logs in by kubernetes at auth/kubernetes as app"
    )
    token_file = with_method("token_file", 'token_file_path = "/run/token"')
    assert check.advice(read(token_file))[0] == "vault: at https://vault:8200, works with the token in /run/token"
