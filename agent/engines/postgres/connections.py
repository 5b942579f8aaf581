"""The engine's connections: a small set kept open, each given up at once when its caller is cancelled.

psycopg answers a cancellation by asking the server to stop the query and waiting for that, which a stopped server makes
ten seconds long. Here a cancelled call closes its connection without a word, and whatever it had begun rolls back.
"""

import asyncio
import contextlib
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg
from psycopg import pq, waiting
from psycopg.abc import RV, PQGen
from psycopg.rows import AsyncRowFactory, TupleRow, tuple_row

from agent.clock import Clock
from agent.config.model import PostgreSQL
from agent.engines.libpq import parameters
from agent.engines.postgres.errors import CommitFailed
from agent.engines.postgres.login import login_error, read_password, refusal, unreachable_because
from agent.errors import Unavailable
from agent.leases.lease import Secret


class Connection(psycopg.AsyncConnection[TupleRow]):
    """A connection that does not outlive a cancelled call.

    Attributes:
        warnings: SQLSTATEs of the server's warnings and notices since the list was last cleared.
        soiled: a role's own SQL ran here and may have left settings behind.
    """

    def __init__(self, pgconn: pq.abc.PGconn, row_factory: AsyncRowFactory[TupleRow] = tuple_row) -> None:
        super().__init__(pgconn, row_factory)
        self.warnings: list[str] = []
        self.soiled = False
        self.add_notice_handler(self._noticed)

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        if notice.sqlstate:
            self.warnings.append(notice.sqlstate)

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:
        """Run one exchange with the server; a cancelled one closes the connection."""
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close at once, without waiting for anything; an open transaction rolls back."""
        self.pgconn.finish()

    @property
    def reusable(self) -> bool:
        """Whether the next call may have it."""
        return not self.closed and self.pgconn.transaction_status == pq.TransactionStatus.IDLE

    def quiet(self) -> bool:
        """Whether the server has sent nothing while nobody asked: what it sends then is its farewell."""
        poll = select.poll()
        poll.register(self.pgconn.socket, select.POLLIN)
        return not poll.poll(0)


@contextlib.asynccontextmanager
async def transaction(conn: Connection) -> AsyncIterator[None]:
    """One transaction around the block: committed at its end, rolled back when the block raises.

    Raises:
        CommitFailed: COMMIT was sent and not answered with success.
    """
    await conn.execute("BEGIN")
    try:
        yield
    except asyncio.CancelledError:
        conn.give_up()  # the rollback would have to be waited for
        raise
    except BaseException:
        if not conn.closed:
            with contextlib.suppress(psycopg.Error):
                await conn.execute("ROLLBACK")
        raise
    try:
        cursor = await conn.execute("COMMIT")
    except psycopg.Error as exc:
        raise CommitFailed(exc) from exc
    if cursor.statusmessage != "COMMIT":
        raise psycopg.errors.InFailedSqlTransaction("the transaction had failed before its COMMIT")


Greet = Callable[[Connection], Awaitable[None]]


class Connections:
    """At most `config.max_calls` connections to the journal's database, and passing ones to its neighbours."""

    def __init__(self, config: PostgreSQL, *, where: str, clock: Clock, greet: Greet) -> None:
        self._config = config
        self._where = where
        self._clock = clock
        self._greet = greet
        self._idle: list[Connection] = []
        self._free = asyncio.Semaphore(config.max_calls)
        self._closed = False

    def __repr__(self) -> str:
        return f"Connections({self._config.host}:{self._config.port}, idle={len(self._idle)}, closed={self._closed})"

    @contextlib.asynccontextmanager
    async def use(self) -> AsyncIterator[Connection]:
        """A connection to the journal's database, for this block alone."""
        async with self._free:
            if self._closed:
                raise Unavailable(f"{self._where}: the engine is closed")
            conn = self._kept() or await self._new()
            try:
                yield conn
                await _clean(conn)
            except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
                # Perhaps the journal itself was dropped: the next call looks the server over anew, and makes it again.
                conn.give_up()
                self._drop_idle()
                raise
            finally:
                self._take_back(conn)

    @contextlib.asynccontextmanager
    async def elsewhere(self, dbname: str) -> AsyncIterator[Connection]:
        """A connection to another database of the same server, closed after the block."""
        conn = await self._login(dbname)
        try:
            yield conn
        finally:
            conn.give_up()

    def close(self) -> None:
        """Close what is idle; what is in use is closed when its block ends."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().give_up()

    def _kept(self) -> Connection | None:
        while self._idle:
            conn = self._idle.pop()
            if conn.reusable and conn.quiet():
                return conn
            conn.give_up()
        return None

    def _take_back(self, conn: Connection) -> None:
        if self._closed or conn.soiled or not conn.reusable:
            conn.give_up()
        else:
            conn.warnings.clear()
            self._idle.append(conn)

    async def _new(self) -> Connection:
        conn = await self._login(self._config.dbname)
        try:
            await self._greet(conn)
        except BaseException:
            conn.give_up()
            raise
        return conn

    async def _login(self, dbname: str) -> Connection:
        password = await self._password()
        try:
            return await self._connect(dbname, password)
        except psycopg.Error as exc:
            code, cause = refusal(exc), unreachable_because(str(exc))
        # The file may have been replaced while we read it, or just before the server learnt the new password.
        fresh = await self._password()
        # "" may be the same refusal in another language.
        if code in {"28P01", ""} and fresh != password:
            try:
                return await self._connect(dbname, fresh)
            except psycopg.Error as exc:
                code, cause = refusal(exc), unreachable_because(str(exc))
        raise login_error(code, self._config, dbname=dbname, where=self._where, cause=cause)

    async def _password(self) -> Secret | None:
        path = self._config.password_file
        return None if path is None else await asyncio.to_thread(read_password, path)

    async def _connect(self, dbname: str, password: Secret | None) -> Connection:
        said: dict[str, Any] = parameters(self._config, dbname=dbname, password=password)
        try:
            async with self._clock.timeout(self._config.connect_timeout):
                return await Connection.connect(autocommit=True, prepare_threshold=None, **said)
        except TimeoutError:
            raise psycopg.errors.ConnectionTimeout("connection timeout expired") from None
        except (OSError, UnicodeError):  # UnicodeError: a host name with a label that is empty or too long
            raise psycopg.OperationalError("could not resolve host name") from None


async def _clean(conn: Connection) -> None:
    """Undo what a role's own SQL may have set in this session."""
    if conn.soiled and conn.reusable:
        with contextlib.suppress(psycopg.Error):  # the call itself has succeeded; the connection is then given up
            await conn.execute("DISCARD ALL")
            conn.soiled = False
