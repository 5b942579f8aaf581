"""No secret stands in the file, and none that does is ever repeated."""

import pytest

from agent.config.confidential import REMEDY
from agent.config.load import load
from agent.errors import ConfigError
from tests.unit.config.documents import FILE, ROLE_PATH, at_vault, document, with_method, wrong
from tests.unit.config.trees import leaves, replaced, to_toml, whole

CANARY = "hunter2-Xq9v"

KEYS = {
    "a password for a server": (document(more_server=f'password = "{CANARY}"'), "postgresql.password"),
    "a password in libpq's words": (document(more_server=f'PGPASSWORD = "{CANARY}"'), "postgresql.PGPASSWORD"),
    "a password for a role": (document(more_role=f'password = "{CANARY}"'), f"{ROLE_PATH}.password"),
    "a password as a number": (document(more_role="password = 12345"), f"{ROLE_PATH}.password"),
    "several passwords": (document(more_role=f'passwords = ["{CANARY}"]'), f"{ROLE_PATH}.passwords"),
    "a password in a connection": (
        document(more_role=f'connection = {{ host = "a", dbname = "b", sslpassword = "{CANARY}" }}'),
        f"{ROLE_PATH}.connection.sslpassword",
    ),
    "a password in a verification": (
        document(rest=f'[[{ROLE_PATH}.verify]]\nhost = "a"\ndbname = "b"\npasswd = "{CANARY}"'),
        f"{ROLE_PATH}.verify[0].passwd",
    ),
    "a token at the top": (document(top=f'token = "{CANARY}"'), "token"),
    "an API key in a file's table": (
        document(rest=f'[[template]]\n{FILE}\napi_key = "{CANARY}"'),
        "template[0].api_key",
    ),
    "a secret on the socket": (
        document(rest=f'[listener.unix]\naddress = "/a"\nclient_secret = "{CANARY}"'),
        "listener.unix.client_secret",
    ),
}


@pytest.mark.parametrize(("text", "place"), KEYS.values(), ids=KEYS.keys())
def test_a_key_that_names_a_secret_is_refused(text: str, place: str) -> None:
    assert wrong(text) == [f"{place}: {REMEDY}"]


def test_a_secret_in_an_unknown_table_is_named_too() -> None:
    mistakes = wrong(document(rest=f'[scaivault.auth]\nsecret_id = "{CANARY}"'))

    assert f"scaivault.auth.secret_id: {REMEDY}" in mistakes
    assert CANARY not in str(mistakes)


@pytest.mark.parametrize("key", ["password_file", "password_length", "password_alphabet", "password_bits"])
def test_a_known_key_about_passwords_in_the_wrong_table_is_just_unknown(key: str) -> None:
    mistakes = wrong(document(rest=f"[agent]\n{key} = 3"))

    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"agent.{key}: unknown key here; it belongs to [")


VALUES = {
    "a URL with a password as a host": ("host", f"postgresql://u:{CANARY}@db/app"),
    "a URL with a token as a host": ("host", f"https://{CANARY}@db"),
    "a connection string as a host": ("host", f"host=db password={CANARY}"),
    "a connection string as a database": ("dbname", f"dbname=app password = '{CANARY}'"),
    "a URL with a parameter": ("dbname", f"postgresql://db/app?password={CANARY}"),
    "a variable's setting as a user": ("user", f"PGPASSWORD={CANARY}"),
    "a private key as a file": ("sslkey", f"-----BEGIN PRIVATE KEY-----{CANARY}"),
}


@pytest.mark.parametrize(("key", "value"), VALUES.values(), ids=VALUES.keys())
def test_a_value_that_carries_a_secret_is_refused(key: str, value: str) -> None:
    server = {"host": "db", "dbname": "app", "user": "u", "password_file": "/p"} | {key: value}

    mistakes = wrong(document(server="\n".join(f'{k} = "{v}"' for k, v in server.items())))

    assert mistakes == [f"postgresql.{key}: carries a password, a token or a key; {REMEDY}"]


@pytest.mark.parametrize(
    "token",
    [
        f"hvs.{'CAESI' * 12}",
        f"s.{'a1B2c3D4' * 3}",
        f"eyJhbGciOiJSUzI1NiIsImtpZCI6ImEifQ.eyJ{'a' * 20}.{'b' * 20}",
    ],
    ids=["a token of Vault's", "a token of OpenBao's", "a workload's token"],
)
@pytest.mark.parametrize(
    ("table", "place"),
    [
        ("more_vault", "vault.namespace"),
        ("more_role", f"{ROLE_PATH}.description"),
    ],
)
def test_a_token_is_refused_whatever_its_key(token: str, table: str, place: str) -> None:
    mistakes = wrong(at_vault(**{table: f'{place.rpartition(".")[2]} = "{token}"'}))

    assert mistakes == [f"{place}: carries a password, a token or a key; {REMEDY}"]


@pytest.mark.parametrize(
    "text", ["db-s.production-eu-west-1-cluster", "s.example.com", "its.all-well-with-this-name-of-many"]
)
def test_a_name_that_only_looks_a_little_like_a_token_is_fine(text: str) -> None:
    assert wrong(document(more_role=f'description = "{text}"')) == []


@pytest.mark.parametrize(
    "key",
    [
        *("token_path", "token_file_path", "secret_id_file_path", "web_identity_token_file", "federated_token_file"),
        *("secret_id_response_wrapping_path", "remove_secret_id_file_after_reading", "accept_endless_token"),
    ],
)
def test_a_key_that_names_where_a_secret_is_is_no_secret(key: str) -> None:
    mistakes = wrong(document(more_server=f'{key} = "/a"'))

    assert len(mistakes) == 1
    assert mistakes[0].startswith(f"postgresql.{key}: unknown key here; it belongs to [")


@pytest.mark.parametrize("key", ["token", "secret_id", "jwt_token", "client_secret", "access_key"])
def test_a_secret_for_a_login_is_refused(key: str) -> None:
    mistakes = wrong(with_method("kubernetes", f'role = "app"\n{key} = "{CANARY}"'))

    assert mistakes == [f"auto_auth.method.config.{key}: {REMEDY}"]


def test_a_secret_in_a_command_is_refused() -> None:
    mistakes = wrong(document(more_role=f'on_failed = ["/bin/page", "--token={CANARY}"]'))

    assert mistakes == [f"{ROLE_PATH}.on_failed[1]: carries a password, a token or a key; {REMEDY}"]


def test_a_name_that_carries_a_secret_is_not_repeated() -> None:
    mistakes = wrong(document(top=f'"postgresql://u:{CANARY}@db/app" = 1'))

    assert mistakes == [
        '"…": unknown key; known here: agent, audit, listener, postgresql, vault, auto_auth, role, template, '
        "template_config"
    ]


PLANTED = [
    CANARY,
    f"${{{CANARY}}}",
    "${PLANTED}",
    f"5 {CANARY}",
    f"postgresql://u:{CANARY}@db",
    f"password={CANARY}",
    f"{CANARY}\x00",
    [CANARY],
    {CANARY[:7].replace("-", ""): CANARY},
]


@pytest.mark.parametrize("path", list(leaves(whole())), ids=lambda path: ".".join(map(str, path)))
def test_a_secret_planted_anywhere_is_never_repeated(path: tuple[str | int, ...]) -> None:
    for planted in PLANTED:
        text = to_toml(replaced(whole(), path, planted))

        try:
            load(text, environ={"PLANTED": CANARY, "LEASE_RENEWAL_RETRIES": CANARY})
        except ConfigError as error:
            told = f"{error} {error!r} {error.mistakes}"
            assert CANARY not in told
            assert "Xq9v" not in told
