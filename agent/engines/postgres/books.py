"""The journal for operators who hold the admin login: looked into, and acted on, whoever minted the leases.

An agent touches no unexpired lease of another holder. In an incident somebody must: here a lease's end is brought
forward first, committed by itself, and then it is ended as every expired lease is. Its agent, where one runs, finds it
gone at its next renewal or sweep, and replaces it.

Nothing here makes a journal where there is none: the name of the database may be mistyped.
"""

from collections.abc import Mapping

from agent.clock import Clock
from agent.config.model import PostgreSQL, Role
from agent.engines.postgres import setup
from agent.engines.postgres.connections import Connection, Connections, transaction
from agent.engines.postgres.ending import Ending
from agent.engines.postgres.errors import translated
from agent.engines.postgres.journal import Journal, Page, Row, Search
from agent.engines.postgres.recipe import recipe
from agent.engines.postgres.sweeping import Sweeper, Swept

_LOOK = 0.2


class Books:
    """One upstream's journal."""

    def __init__(self, name: str, config: PostgreSQL, roles: Mapping[str, Role], clock: Clock) -> None:
        self.name = name
        self._config = config
        self._clock = clock
        # Nobody's: what it ends, it ends because the end has come.
        self._journal = Journal(schema=config.schema, holder="", incarnation=0)
        self._connections = Connections(config, where=name, clock=clock, greet=self._greet)
        self._ending = Ending(
            config,
            upstream=name,
            journal=self._journal,
            connections=self._connections,
            recipes={role_name: recipe(role_name, role) for role_name, role in roles.items()},
            clock=clock,
        )
        self._sweeper = Sweeper(
            config,
            where=f"{name}: sweep",
            journal=self._journal,
            connections=self._connections,
            ending=self._ending,
            clock=clock,
        )

    def __repr__(self) -> str:
        return f"Books({self.name}, {self._connections!r})"

    async def find(self, search: Search) -> Page:
        """The leases that match.

        Raises:
            UpstreamError: the server cannot be asked.
        """
        with translated(f"{self.name}: journal"):
            async with self._connections.use() as conn:
                return await self._journal.page(conn, search)

    async def end(self, row: Row) -> None:
        """End a lease now: no login any more, its sessions closed, its user gone. Twice is fine.

        Raises:
            UpstreamError: not all was done. The text says what is in the way; from its first step on every sweep goes
                on with it.
        """
        where = f"{self.name}: revoke {row.role}"
        with translated(where):
            async with self._connections.use() as conn:
                async with transaction(conn):
                    locked = await self._journal.lock(conn, row.id)
                    if locked is None or locked.revoked_at is not None:
                        return
                    await self._journal.end(conn, locked)
                while not await self._ending.end(conn, row.id, where=where, reap=True):
                    if await self._gone(conn, row):  # another agent's sweep was quicker, or is at it
                        return
                    await self._clock.sleep(_LOOK)

    async def sweep(self) -> Swept:
        """As the agent's own: see `PostgresEngine.sweep`."""
        return await self._sweeper.sweep()

    def close(self) -> None:
        """Close every connection."""
        self._connections.close()

    async def _gone(self, conn: Connection, row: Row) -> bool:
        return not await self._journal.find(conn, Search(lease_id=row.id, state="unrevoked"))

    async def _greet(self, conn: Connection) -> None:
        await setup.find(conn, self._config, self.name)
