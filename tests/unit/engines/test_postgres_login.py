"""Logging in: nothing ambient is used, the password file is read with care, refusals say what to do."""

import os

import psycopg
import pytest

from agent.config.model import PostgreSQL
from agent.engines.libpq import login_code, parameters
from agent.engines.postgres.login import login_error, read_password, refusal, unreachable_because
from agent.errors import Forbidden, NotFound, Sealed, Unavailable
from agent.leases.lease import Secret


def config(**changes: object) -> PostgreSQL:
    return PostgreSQL(**{"host": "db.example", "dbname": "app", "user": "leasehold", "password_file": "/p", **changes})  # type: ignore[arg-type]


def said(**changes: object) -> dict[str, str]:
    return parameters(config(**changes), dbname="app", password=Secret("s3cret"))


def test_every_parameter_with_an_ambient_default_is_said():
    """A service cannot be un-said; `cli` drops PGSERVICE from the environment."""
    ambient = {o.keyword.decode() for o in psycopg.pq.Conninfo.get_defaults() if o.envvar} - {"service"}

    assert ambient <= set(said())


@pytest.mark.parametrize("key", ["passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl"])
def test_a_file_that_is_not_configured_cannot_exist(key, tmp_path):
    """An empty path would mean the default in the home directory."""
    path = said(sslmode="require")[key]

    assert path
    with pytest.raises(NotADirectoryError):
        os.stat(path)


def test_only_scram_proves_us_to_a_server_on_the_network():
    assert said()["require_auth"] == "scram-sha-256"
    assert said(host="/run/postgresql")["require_auth"] == "scram-sha-256"


def test_a_socket_without_a_password_file_lets_the_kernel_prove_us():
    assert said(host="/run/postgresql", password_file=None)["require_auth"] == "none"


def test_a_client_certificate_may_prove_us():
    by_certificate = said(password_file=None, sslcert="/c", sslkey="/k")

    assert by_certificate["require_auth"] == "none"
    assert (by_certificate["sslcertmode"], by_certificate["sslcert"]) == ("allow", "/c")
    assert said(sslcert="/c", sslkey="/k")["require_auth"] == "scram-sha-256,none"
    assert said()["sslcertmode"] == "disable"


def test_full_verification_without_a_file_uses_the_system_s_authorities():
    assert said(sslmode="verify-full")["sslrootcert"] == "system"
    assert said(sslmode="verify-full", sslrootcert="/ca")["sslrootcert"] == "/ca"


def test_the_session_trusts_no_name_of_others_and_waits_for_nobody_forever():
    options = said()["options"]

    assert "-c search_path=pg_catalog " in options
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert f"-c {name}=" in options


@pytest.mark.parametrize(
    ("content", "password"), [(b"pa ss\n", "pa ss"), (b"p\r\n", "p"), (b" p ", " p "), (b"x", "x")]
)
def test_the_password_is_the_file_less_one_newline(tmp_path, content, password):
    path = tmp_path / "password"
    path.write_bytes(content)

    assert read_password(str(path)) == Secret(password)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "one password on one line"),
        (b"\n", "one password on one line"),
        (b"a\nb\n", "one password on one line"),
        (b"a\0b", "one password on one line"),
        (b"\xff\xfe", "not UTF-8"),
        (b"x" * 4097, "longer than 4096 bytes"),
    ],
)
def test_a_file_that_holds_no_password_is_named(tmp_path, content, why):
    path = tmp_path / "password"
    path.write_bytes(content)

    with pytest.raises(Forbidden, match=why) as caught:
        read_password(str(path))

    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(Forbidden, match=r"password_file .*/none cannot be read: No such file"):
        read_password(str(tmp_path / "none"))


def test_a_pipe_in_the_file_s_place_holds_nobody(tmp_path):
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(Forbidden, match="not a regular file"):
        read_password(str(tmp_path / "pipe"))


HEAD = 'connection failed: connection to server at "127.0.0.1", port 5432 failed: '


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (HEAD + 'FATAL:  password authentication failed for user "leasehold"', "28P01"),
        (HEAD + 'FATAL:  no pg_hba.conf entry for host "127.0.0.1", user "x", database "y", no encryption', "28000"),
        (HEAD + 'FATAL:  role "x" is not permitted to log in', "28000"),
        (HEAD + 'FATAL:  Peer authentication failed for user "x"', "28000"),
        (HEAD + 'FATAL:  database "x" does not exist', "3D000"),
        (HEAD + 'FATAL:  permission denied for database "x"\nDETAIL:  User does not have CONNECT', "42501"),
        (HEAD + "FATAL:  sorry, too many clients already", "53300"),
        (HEAD + "FATAL:  the database system is starting up", "57P03"),
        (HEAD + 'ВАЖНО:  пользователь "x" не прошёл проверку подлинности (по паролю)', ""),
        (HEAD + "Connection refused\n\tIs the server running on that host?", "unreachable"),
        ("connection timeout expired", "unreachable"),
        ("[Errno -2] failed to resolve host 'db': Name or service not known", "unreachable"),
        ('connection to server on socket "/x/.s.PGSQL.5432" failed: No such file or directory', "unreachable"),
        (HEAD + "server closed the connection unexpectedly", "unreachable"),
        (HEAD + "fe_sendauth: no password supplied", "no-password"),
        (HEAD + 'authentication method requirement "scram-sha-256" failed: server requested MD5', "auth-method"),
        (HEAD + "server does not support SSL, but SSL was required", "tls"),
        (HEAD + "SSL error: certificate verify failed", "tls"),
        (HEAD + 'root certificate file "/ca.pem" does not exist', "tls"),
        (HEAD + 'could not open certificate file "/client.pem": No such file or directory', "no-password"),
    ],
)
def test_the_text_of_a_refused_login_is_understood(text, code):
    assert login_code(text) == code
    assert refusal(psycopg.OperationalError(text)) == code


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("28P01", Forbidden, "refuses the password of leasehold: correct password_file /p"),
        ("28000", Forbidden, "pg_hba.conf"),
        ("42501", Forbidden, "GRANT CONNECT"),
        ("auth-method", Forbidden, "scram-sha-256"),
        ("no-password", Forbidden, "set password_file"),
        ("tls", Forbidden, "sslrootcert"),
        ("3D000", NotFound, "has no database app"),
        ("57P03", Sealed, "starting"),
        ("53300", Unavailable, "for now"),
        ("", Unavailable, "for now"),
        ("unreachable", Unavailable, "cannot be reached"),
    ],
)
def test_a_refused_login_says_what_to_do(code, kind, words):
    error = login_error(code, config(), dbname="app", where="postgresql")

    assert type(error) is kind
    assert words in str(error)
    assert str(error).startswith("postgresql: db.example:5432 ")
    assert error.unreachable is (code == "unreachable")
    assert error.code == (code if code[:1].isdigit() else "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('could not translate host name "db.nowhere" to address: Name or service not known', "does not resolve"),
        ('connection to server at "127.0.0.1", port 9 failed: Connection refused', "is PostgreSQL up"),
        ("connection timeout expired", "a firewall on the way"),
        ('connection to server on socket "/x/.s.PGSQL.5432" failed: No such file or directory', "socket directory"),
        ("server does not support SSL, but SSL was required", "has no TLS"),
        ("SSL error: certificate verify failed", "not signed by it"),
        ('server certificate for "a" does not match host name "b"', "another name"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "a", database "b", no encryption', "without TLS"),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "a", database "b", SSL off', "without TLS"),
        ("something else altogether", ""),
    ],
)
def test_the_way_to_a_server_that_cannot_be_reached_is_told(text: str, words: str) -> None:
    """At 3 a.m. the first question is: the name, the port, the firewall or the server?"""
    cause = unreachable_because(text)

    assert words in cause
    assert bool(words) == bool(cause)
