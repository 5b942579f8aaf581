"""How the engine gets in: password file, proxies, refusals, and the set of connections it keeps."""

import asyncio
import contextlib
import uuid

import pytest

from agent.errors import Forbidden, NotFound, Unavailable
from agent.leases.lease import Secret
from tests.integration.postgres.site import NEWEST, ROLE, Site, fresh, username


@NEWEST
async def test_the_password_file_is_read_again_at_every_login(site: Site):
    engine = site.engine()
    await engine.ping()
    new = Secret(uuid.uuid4().hex)
    site.database.execute(f"ALTER ROLE \"{site.user}\" PASSWORD '{new.reveal()}'")
    site.password_file.write_text(new.reveal() + "\n")

    await site.engine().ping()
    await engine.ping()


@NEWEST
async def test_a_password_file_replaced_while_logging_in_is_read_once_more(site: Site):
    """A proxy replaces the file when the login begins: what was read before is refused by then."""
    right = site.password_file.read_text()
    site.password_file.write_text("wrong")
    logins: list[asyncio.Task[None] | None] = []

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        logins.append(asyncio.current_task())
        site.password_file.write_text(right)
        there, back = await asyncio.open_connection(site.database.host, site.database.port)
        await asyncio.gather(_copy(reader, back), _copy(there, writer))

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    async with server:
        engine = site.engine(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        await engine.ping()
        await engine.close()
        await asyncio.gather(*filter(None, logins))

    assert len(logins) == 2


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
        await writer.wait_closed()


@NEWEST
async def test_a_wrong_password_names_the_login_and_the_file(site: Site, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("hunter2")

    with pytest.raises(Forbidden) as caught:
        await site.engine(password_file=str(wrong)).ping()

    assert site.user in str(caught.value)
    assert str(wrong) in str(caught.value)
    assert "hunter2" not in str(caught.value)


@NEWEST
async def test_a_database_that_does_not_exist_is_not_found(site: Site):
    with pytest.raises(NotFound, match="has no database nowhere"):
        await site.engine(dbname="nowhere").ping()


@NEWEST
@pytest.mark.parametrize("host", ["db..example.com", ".db", "d" * 64])
async def test_a_host_that_no_resolver_takes_is_unreachable(site: Site, host):
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        await site.engine(host=host).issue(ROLE, fresh())

    assert caught.value.unreachable


@NEWEST
async def test_a_server_that_is_not_there_is_unreachable(site: Site):
    with pytest.raises(Unavailable) as caught:
        await site.engine(port=1).ping()

    assert caught.value.unreachable
    assert not caught.value.outcome_unknown


@NEWEST
async def test_a_unix_socket_serves_as_well(site: Site):
    await site.engine(host=str(site.database.cluster.socket_dir)).ping()


@NEWEST
async def test_ambient_settings_are_not_used(site: Site, monkeypatch, tmp_path):
    for name, value in {
        "PGHOST": "nowhere.invalid",
        "PGHOSTADDR": "192.0.2.1",
        "PGPORT": "1",
        "PGUSER": "nobody",
        "PGPASSWORD": "wrong",
        "PGDATABASE": "nowhere",
        "PGOPTIONS": "-c search_path=evil",
        "PGSSLMODE": "verify-full",
        "PGREQUIREAUTH": "none",
        "PGCLIENTENCODING": "LATIN1",
        "PGTARGETSESSIONATTRS": "standby",
        "PGPASSFILE": str(tmp_path / "pgpass"),
    }.items():
        monkeypatch.setenv(name, value)

    await site.engine().ping()


@NEWEST
async def test_a_closed_engine_says_so(site: Site):
    engine = site.engine()
    await engine.ping()
    await engine.close()

    with pytest.raises(Unavailable, match="closed"):
        await engine.ping()


@NEWEST
async def test_no_more_connections_are_opened_than_allowed_and_they_are_kept(site: Site):
    engine = site.engine(max_calls=2)

    grants = await asyncio.gather(*(engine.issue(ROLE, fresh()) for _ in range(10)))

    ((count,),) = site.database.execute("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'leasehold'")
    assert len({username(grant) for grant in grants}) == 10
    assert count == 2
