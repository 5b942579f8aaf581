"""${NAME} in strings, and SecretHub's variables beneath the file."""

import pytest

from tests.unit.config.documents import FILE, ROLE, ROLE_PATH, SERVER, document, read, with_socket, wrong

NO_NAME = 'has a "${" that names no variable; write "${NAME}", or "$$" for a dollar sign'
REMEDY = "secrets do not stand in this file; it names the files they are in, such as password_file"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("uid:${UID}", "uid:1000"),
        ("${KIND}:${UID}", "uid:1000"),
        ("a $$ b", "a $ b"),
        ("$${UID}", "${UID}"),
        ("$UID", "$UID"),
        ("$", "$"),
        ("${EMPTY}x", "x"),
        ("${NESTED}", "${UID}"),
    ],
)
def test_variables_are_replaced_once_in_strings(text: str, value: str) -> None:
    environ = {"UID": "1000", "KIND": "uid", "EMPTY": "", "NESTED": "${UID}"}

    config = read(document(more_role=f'description = "{text}"'), environ)

    assert config.role["database/creds/app"].description == value


def test_variables_are_replaced_in_arrays_and_nested_tables() -> None:
    environ = {"UID": "7", "HOST": "db2", "TTL": "30m"}

    role = read(
        document(
            more_role='allow = ["uid:${UID}"]\nconnection = { host = "${HOST}", dbname = "a" }\ndefault_ttl = "${TTL}"'
        ),
        environ,
    ).role["database/creds/app"]

    assert role.allow == ("uid:7",)
    assert role.connection is not None
    assert role.connection.host == "db2"
    assert role.default_ttl == 1800.0


def test_sql_probes_templates_and_commands_stay_as_they_are() -> None:
    role_text = """
        creation_statements = ["SELECT '${NOPE}'"]
        renewal_statements = ["SELECT '$$'"]
        revocation_statements = ["DO $$ BEGIN END $$"]
        rollback_statements = ["${"]
        on_failed = ["/bin/page", "${NOPE}"]
        [[role."database/creds/app".verify]]
        host = "db"
        dbname = "a"
        probe = "SELECT '${NOPE}'"
        [[template]]
        destination = "/a"
        contents = "${NOPE} $$"
        roles = ["database/creds/app"]
        """

    config = read(document(more_role=role_text))

    role = config.role["database/creds/app"]
    assert role.revocation_statements == ("DO $$ BEGIN END $$",)
    assert role.verify is not None
    assert role.verify[0].probe == "SELECT '${NOPE}'"
    assert config.template[0].contents == "${NOPE} $$"


REFUSED = {
    "a variable that is not set": ("${NOPE}", "${NOPE} is not set in the environment; set it, or write the value here"),
    "no name": ("${}", NO_NAME),
    "a name with a blank": ("${A B}", NO_NAME),
    "no end": ("${UID", NO_NAME),
    "a default as in the shell": ("${UID:-1}", NO_NAME),
    "a password": ("${DB_PASSWORD}", f"${{DB_PASSWORD}} looks like a secret; {REMEDY}"),
    "libpq's password": ("${PGPASSWORD}", f"${{PGPASSWORD}} looks like a secret; {REMEDY}"),
    "a token": ("${VAULT_TOKEN}", f"${{VAULT_TOKEN}} looks like a secret; {REMEDY}"),
    "a key": ("${AWS_SECRET_ACCESS_KEY}", f"${{AWS_SECRET_ACCESS_KEY}} looks like a secret; {REMEDY}"),
    "a line break inside": ("${LINES}", "contains a control character; leave it out"),
    "bytes that are no text": ("${BYTES}", "contains a control character; leave it out"),
    "a URL with a password": ("${URL}", f"carries a password, a token or a key; {REMEDY}"),
}
ENVIRON = {
    "UID": "1",
    "DB_PASSWORD": "hunter2",
    "PGPASSWORD": "hunter2",
    "VAULT_TOKEN": "hunter2",
    "AWS_SECRET_ACCESS_KEY": "hunter2",
    "LINES": "a\nb",
    "BYTES": "a\udcff",
    "URL": "postgresql://u:hunter2@db/app",
}


@pytest.mark.parametrize(("text", "expected"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_replaced_is_named(text: str, expected: str) -> None:
    mistakes = wrong(document(more_role=f'description = "{text}"'), ENVIRON)

    assert mistakes == [f"{ROLE_PATH}.description: {expected}"]


def test_secrethub_is_no_secret() -> None:
    text = document(more_role='description = "${SECRETHUB_URL} ${TOKEN_PATH}"')

    assert wrong(text, {"SECRETHUB_URL": "https://hub", "TOKEN_PATH": "/var/run/token"}) == []


def test_a_variable_in_an_unknown_table_is_named_beside_the_table() -> None:
    assert wrong(document(rest='[scaivault]\naddress = "${NOPE}"\n[listener.tcp]\naddress = "${NOPE}"')) == [
        "scaivault.address: ${NOPE} is not set in the environment; set it, or write the value here",
        "listener.tcp.address: ${NOPE} is not set in the environment; set it, or write the value here",
        "listener.tcp: unknown key; known here: unix, health",
        "scaivault: unknown key; known here: agent, audit, listener, postgresql, vault, auto_auth, role, template, "
        "template_config",
    ]


@pytest.mark.parametrize("value", ["90", "5 minutes"])
def test_a_variables_value_is_not_repeated_even_where_it_looks_harmless(value: str) -> None:
    assert wrong(document(more_role='default_ttl = "${TTL}"'), {"TTL": value}) == [
        f'{ROLE_PATH}.default_ttl: the value is not a duration; write it like "5m" or "1h30m"'
    ]


# -- SecretHub's variables ---------------------------------------------------------------------------------------------

TWO = f"""
[postgresql.a]
{SERVER}
[postgresql.b]
{SERVER}
cleanup_interval = "1m"
[role."x/creds/a"]
upstream = "postgresql.a"
group = "g"
[role."x/creds/b"]
upstream = "postgresql.b"
group = "g"
lease_renewal_threshold = 0.5
retries = 9
"""


def test_secrethubs_variables_are_defaults_beneath_the_file() -> None:
    environ = {
        "LEASE_CLEANUP_INTERVAL": "15000",
        "LEASE_RENEWAL_THRESHOLD": "0.33",
        "LEASE_RENEWAL_RETRIES": "7",
    }

    config = read(TWO, environ)

    assert [server.cleanup_interval for server in config.postgresql.values()] == [15.0, 60.0]
    assert [role.lease_renewal_threshold for role in config.role.values()] == [0.67, 0.5]
    assert [role.retries for role in config.role.values()] == [7, 9]


def test_milliseconds_may_be_a_fraction_of_a_second() -> None:
    assert read(document(), {"LEASE_CLEANUP_INTERVAL": "1500"}).postgresql["postgresql"].cleanup_interval == 1.5


MILLISECONDS = (
    "LEASE_CLEANUP_INTERVAL: comes from the environment and is not a whole number of milliseconds, such as 10000"
)
SHARE = (
    "LEASE_RENEWAL_THRESHOLD: comes from the environment and is not a share between 0 and 1, such as 0.33: the part of "
    "the lease that is left when it is renewed"
)
COUNT = "LEASE_RENEWAL_RETRIES: comes from the environment and is not a whole number, such as 5"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("LEASE_CLEANUP_INTERVAL", "10s", MILLISECONDS),
        ("LEASE_CLEANUP_INTERVAL", "", MILLISECONDS),
        ("LEASE_CLEANUP_INTERVAL", "-1", MILLISECONDS),
        ("LEASE_CLEANUP_INTERVAL", "٣", MILLISECONDS),
        (
            "LEASE_CLEANUP_INTERVAL",
            "10",
            'postgresql.cleanup_interval: "10ms" is out of range; "1s" to "1d" (from LEASE_CLEANUP_INTERVAL in the '
            "environment)",
        ),
        ("LEASE_RENEWAL_THRESHOLD", "0", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "1", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "1.5", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "-0.5", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "nan", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "0.3x", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "3e-1", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", "", SHARE),
        ("LEASE_RENEWAL_THRESHOLD", ".", SHARE),
        (
            "LEASE_RENEWAL_THRESHOLD",
            "0.95",
            f"{ROLE_PATH}.lease_renewal_threshold: 0.05 leaves no room for jitter, which renews up to 0.1 of the lease "
            "earlier; more than 0.1 (from LEASE_RENEWAL_THRESHOLD in the environment)",
        ),
        ("LEASE_RENEWAL_RETRIES", "many", COUNT),
        ("LEASE_RENEWAL_RETRIES", "1.0", COUNT),
        (
            "LEASE_RENEWAL_RETRIES",
            "0",
            f"{ROLE_PATH}.retries: 0 is out of range; 1 to 1000 (from LEASE_RENEWAL_RETRIES in the environment)",
        ),
    ],
)
def test_a_wrong_variable_is_named_as_such(variable: str, value: str, expected: str) -> None:
    assert wrong(document(), {variable: value}) == [expected]


def test_a_wrong_variable_is_told_once_however_many_tables_it_meets() -> None:
    text = document(rest=f'[role."database/creds/b"]\n{ROLE}')

    assert wrong(text, {"LEASE_RENEWAL_RETRIES": "many"}) == [COUNT]


def test_a_variable_that_the_file_overrides_is_not_looked_at() -> None:
    text = document(more_server='cleanup_interval = "10s"', more_role="retries = 3\nlease_renewal_threshold = 0.6")

    environ = {"LEASE_CLEANUP_INTERVAL": "?", "LEASE_RENEWAL_THRESHOLD": "?", "LEASE_RENEWAL_RETRIES": "?"}
    assert wrong(text, environ) == []


def test_what_others_put_into_the_environment_changes_nothing() -> None:
    environ = {
        "DATABASE_URL": "postgresql://u:hunter2@db/app",
        "SECRETHUB_CORE_URL": "https://hub",
        "PGPASSWORD": "hunter2",
        "PGHOST": "elsewhere",
    }

    assert read(document(rest=f"[[template]]\n{FILE}"), environ) == read(document(rest=f"[[template]]\n{FILE}"))


def test_a_variable_in_the_sockets_path_is_replaced() -> None:
    config = read(with_socket(address='address = "/run/${POD}/agent.sock"'), {"POD": "web-0"})

    assert config.listener.unix is not None
    assert config.listener.unix.address == "/run/web-0/agent.sock"
