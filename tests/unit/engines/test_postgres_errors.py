"""What the Renewer is told of each thing a server can say."""

import psycopg
import pytest

from agent.config.model import PostgreSQL
from agent.engines.postgres.errors import CommitFailed, Refused, translated
from agent.engines.postgres.setup import prepare
from agent.errors import Forbidden, LeaseGone, NotFound, Sealed, Unavailable, UpstreamError

SECRETS = "v_app_x1 SELECT hunter2"


def error(code: str | None) -> psycopg.Error:
    kind = psycopg.OperationalError if code is None else psycopg.errors.lookup(code)
    return kind(SECRETS)


def told(exc: Exception, *, secrets: tuple[str, ...] = ()) -> UpstreamError:
    with pytest.raises(UpstreamError) as caught, translated("postgresql: issue app", secrets=secrets):
        raise exc
    return caught.value


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        *[(code, Unavailable) for code in ("08006", "40001", "40P01", "53300", "53100", "55P03", "57014", "57P01")],
        *[(code, Unavailable) for code in ("58030", "XX000", "25P03", None)],
        *[(code, Sealed) for code in ("25006", "57P03")],
        *[(code, NotFound) for code in ("42704", "3F000", "42P01")],
        *[(code, Forbidden) for code in ("42501", "42601", "2BP01", "54000", "22007", "0A000", "28000", "23505")],
    ],
)
def test_each_class_of_sqlstate_says_what_the_renewer_should_do(code, kind):
    found = told(error(code))

    assert type(found) is kind
    assert found.unreachable is (code is None)
    assert found.outcome_unknown is False
    assert str(found).startswith("postgresql: issue app")


@pytest.mark.parametrize(
    "raised", [UnicodeDecodeError("utf-8", b"hunter2", 0, 1, "hunter2"), UnicodeError("hunter2"), OSError(9, "hunter2")]
)
def test_what_a_server_or_network_makes_python_itself_raise_is_unavailable(raised):
    found = told(raised)

    assert isinstance(found, Unavailable)
    assert found.unreachable is isinstance(raised, OSError)
    assert "hunter2" not in str(found)
    assert found.__suppress_context__


@pytest.mark.parametrize("code", ["08006", "42501", "42601", "23505", "42704", "2BP01", "XX000", None])
def test_no_text_of_the_server_is_in_the_message_nor_in_the_traceback(code):
    found = told(error(code))

    assert "hunter2" not in str(found)
    assert "\n" not in str(found)
    assert found.__suppress_context__
    assert found.__cause__ is None


@pytest.mark.parametrize("code", [None, "08006", "57P01", "XX000"])
def test_a_commit_without_a_clear_answer_has_an_unknown_outcome(code):
    found = told(CommitFailed(error(code)))

    assert isinstance(found, Unavailable)
    assert found.outcome_unknown
    assert found.unreachable is (code is None)


@pytest.mark.parametrize("code", ["40001", "23514", "25P02"])
def test_a_commit_that_the_server_refuses_has_a_known_one(code):
    assert not told(CommitFailed(error(code))).outcome_unknown


def test_what_the_engine_refuses_itself_goes_out_as_it_is():
    gone = LeaseGone("gone")

    assert told(Refused(gone)) is gone


def test_an_exception_that_is_not_the_server_s_is_left_alone():
    with pytest.raises(KeyError), translated("postgresql"):
        raise KeyError("a bug")


class OldServer:
    """As much of a connection as is looked at before anything is asked."""

    class pgconn:
        server_version = 110022


async def test_a_server_that_is_too_old_is_refused():
    config = PostgreSQL(host="db", dbname="app", user="leasehold")

    with pytest.raises(Forbidden, match="PostgreSQL 11: 13 to 18 are supported"), translated("postgresql"):
        await prepare(OldServer(), config, "postgresql")  # type: ignore[arg-type]
