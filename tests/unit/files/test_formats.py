"""formats: what each ready-made file holds, and that its reader finds the credential in it."""

import json
from collections.abc import Mapping

import psycopg.conninfo
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.config import model
from agent.errors import RenderError
from agent.files.formats import FORMATS
from tests.unit.files.builders import PASSWORDS, SAMPLE, credential, role


def written(name: str, data: Mapping[str, str] | None = None, *, of: model.Role | None = None, prefix: str = "DB_"):
    return FORMATS[name](credential(data, of=of), prefix)


def test_dotenv_has_the_four_keys_of_the_common_sample_and_the_place() -> None:
    assert written("dotenv") == (
        "DB_USER=v_app_1\nDB_PASS=pw\nDB_LEASE_ID=lease-1\nDB_TTL=59\n"
        "DB_HOST=db.example.com\nDB_PORT=5433\nDB_NAME=app\nDB_SSLMODE=require\n"
    )


def test_dotenv_without_a_connection_has_the_four_keys() -> None:
    text = written("dotenv", of=role(connection=None), prefix="PG")

    assert text == "PGUSER=v_app_1\nPGPASS=pw\nPGLEASE_ID=lease-1\nPGTTL=59\n"


def test_dotenv_quotes_a_hostile_lease_id() -> None:
    text = FORMATS["dotenv"](credential(id="$(touch x)"), "DB_")

    assert "DB_LEASE_ID='$(touch x)'\n" in text


def test_other_fields_stand_under_their_own_names() -> None:
    text = written("shell-export", {"access_key": "a", "secret_key": "b c"}, of=role(connection=None))

    assert text == (
        "export DB_LEASE_ID=lease-1\nexport DB_TTL=59\nexport DB_ACCESS_KEY=a\nexport DB_SECRET_KEY='b c'\n"
    )


@pytest.mark.parametrize(
    ("field", "prefix"), [("ttl", "DB_"), ("a-b", "DB_"), ("a=b;x", "DB_"), ("ü", "DB_"), ("path", "")]
)
def test_a_field_that_would_be_no_variable_or_another_one_is_refused(field: str, prefix: str) -> None:
    with pytest.raises(RenderError, match=f'field "{field}" cannot be named'):
        written("dotenv", {"username": "u", "password": "p", field: "x"}, prefix=prefix)


def test_json_is_shaped_like_an_answer_on_the_socket() -> None:
    assert json.loads(written("json")) == {
        "lease_id": "lease-1",
        "lease_duration": 59,
        "renewable": True,
        "expires_at": "2027-01-15T08:01:00Z",
        "generation": 17,
        "verified": True,
        "data": {
            "username": "v_app_1",
            "password": "pw",
            "host": "db.example.com",
            "port": 5433,
            "dbname": "app",
            "sslmode": "require",
        },
    }


def test_pgpass_is_one_line_for_a_host() -> None:
    assert written("pgpass") == "db.example.com:5433:app:v_app_1:pw\n"


@pytest.mark.parametrize("host", ["::1]@evil/x?a=", "fe80::1%eth0", "a:b", "[::1]"])
def test_a_host_that_an_upstream_made_up_stays_the_host(host: str) -> None:
    """What stands in brackets is quoted too: nothing of it becomes another host, a database or an option."""
    data = {"username": "u", "password": "pw", "host": host}

    read = psycopg.conninfo.conninfo_to_dict(written("url", data))

    assert (read["host"], read["dbname"], read["user"]) == (host, "app", "u")
    assert set(read) == {"user", "password", "host", "port", "dbname", "sslmode"}


def test_a_host_that_begins_with_a_hash_makes_no_comment_of_its_line() -> None:
    data = {"username": "u", "password": "pw", "host": "#1"}

    assert written("pgpass", data) == "\\#1:5433:app:u:pw\n"


def test_pgpass_escapes_an_ipv6_host() -> None:
    ipv6 = role(connection=model.Connection(host="::1", dbname="app"))

    assert written("pgpass", of=ipv6) == "\\:\\:1:5432:app:v_app_1:pw\n"


def test_pgpass_for_a_socket_has_both_names_that_libpq_may_look_up() -> None:
    socket = role(connection=model.Connection(host="/run/pg", dbname="app", sslmode="disable"))

    assert written("pgpass", of=socket) == "/run/pg:5432:app:v_app_1:pw\nlocalhost:5432:app:v_app_1:pw\n"


def test_pgpass_without_a_place_matches_any() -> None:
    assert written("pgpass", of=role(connection=None)) == "*:*:*:v_app_1:pw\n"


def test_a_service_is_called_as_the_last_part_of_its_role() -> None:
    assert written("pg_service") == (
        "[app-readonly]\nhost=db.example.com\nport=5433\ndbname=app\nuser=v_app_1\npassword=pw\nsslmode=require\n"
    )


@given(user=PASSWORDS.filter(bool), password=PASSWORDS.filter(bool), dbname=PASSWORDS.filter(bool))
@example(user=SAMPLE, password=SAMPLE, dbname=SAMPLE)
def test_libpq_reads_the_url_exactly(user: str, password: str, dbname: str) -> None:
    of = role(connection=model.Connection(host="db.example.com", dbname=dbname))

    read = psycopg.conninfo.conninfo_to_dict(written("url", {"username": user, "password": password}, of=of))

    assert read == {
        "user": user,
        "password": password,
        "host": "db.example.com",
        "port": "5432",
        "dbname": dbname,
        "sslmode": "require",
    }


@pytest.mark.parametrize("host", ["/run/post gresql", "::1", "db", "10.0.0.1"])
@pytest.mark.parametrize("sslmode", ["require", "verify-full", "disable"])
def test_libpq_reads_host_and_sslmode_from_the_url(host: str, sslmode: model.SslMode) -> None:
    of = role(connection=model.Connection(host=host, dbname="app", sslmode=sslmode))

    read = psycopg.conninfo.conninfo_to_dict(written("url", of=of))

    assert (read["host"], read["sslmode"]) == (host, sslmode)


def test_sslmode_is_require_where_nobody_said_otherwise() -> None:
    data = {"username": "u", "password": "p", "host": "h", "port": "1", "dbname": "d"}

    assert written("url", data, of=role(connection=None)) == "postgresql://u:p@h:1/d?sslmode=require"
    assert "sslmode=require\n" in written("pg_service", data, of=role(connection=None))


def test_what_the_lease_says_wins_over_the_roles_connection() -> None:
    data = {"username": "u", "password": "p", "host": "elsewhere"}

    assert written("url", data) == "postgresql://u:p@elsewhere:5433/app?sslmode=require"


@pytest.mark.parametrize("name", ["url", "pg_service", "pgpass"])
def test_a_lease_without_a_password_names_the_role_and_the_field(name: str) -> None:
    with pytest.raises(RenderError, match='role database/creds/app-readonly: the lease has no "password"'):
        written(name, {"username": "u"})


def test_what_a_format_cannot_hold_names_the_role_and_the_field() -> None:
    with pytest.raises(
        RenderError, match=r'role database/creds/app-readonly: field "password": .* ends with a blank'
    ) as e:
        written("pg_service", {"username": "u", "password": "geheim "})

    assert "geheim" not in str(e.value)


# -- what a credential shows ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shows"),
    [
        ("dotenv", True),
        ("json", True),
        ("shell-export", True),
        ("pgpass", False),
        ("pg_service", False),
        ("url", False),
    ],
)
def test_only_formats_with_a_ttl_need_rendering_after_a_renewal(name: str, shows: bool) -> None:
    shown = credential()

    FORMATS[name](shown, "DB_")

    assert shown.shows_life is shows


def test_the_remaining_ttl_is_rounded_down_and_never_negative() -> None:
    assert credential(now=0.1).lease_duration == 59
    assert credential(now=60.0).lease_duration == 0
    assert credential(now=70.0).ttl == 0


@given(st.characters(categories=("Cc", "Zl", "Zp", "Cs")))
def test_control_characters_are_refused_by_role_and_field_never_by_value(character: str) -> None:
    with pytest.raises(RenderError, match=r'role database/creds/app-readonly: field "password".*multiline = true') as e:
        credential({"username": "u", "password": f"geheim{character}"})

    assert "geheim" not in str(e.value)


def test_a_role_may_allow_several_lines_but_never_nul() -> None:
    assert credential({"cert": "a\nb\tc"}, of=role(multiline=True)).data["cert"] == "a\nb\tc"
    with pytest.raises(RenderError, match='field "cert"'):
        credential({"cert": "a\0b"}, of=role(multiline=True))


def test_a_lease_id_with_a_line_end_is_refused() -> None:
    with pytest.raises(RenderError, match="the lease id holds control characters"):
        credential(id="x\nLD_PRELOAD=y", of=role(multiline=True))


def test_a_field_name_with_a_line_end_is_refused_and_shown_without_it() -> None:
    with pytest.raises(RenderError, match=r'field "a\?b"'):
        credential({"a\nb": "x"})


def test_its_repr_holds_no_secret() -> None:
    assert repr(credential()) == "Credential(database/creds/app-readonly)"
