"""What several files here start with."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from agent.clock import SystemClock
from agent.config.model import Vault
from agent.engines.vault.wire import HttpWire
from tests.contract.pod import Pod
from tests.fix_postgres import Database
from tests.vault_setup import VaultSetup


@pytest.fixture
async def pod(vault_setup: VaultSetup, database: Database) -> AsyncIterator[Pod]:
    """A database with the role "app" at the server, and the way there."""
    made = await asyncio.to_thread(vault_setup.database, database, ttl=60.0, max_ttl=120.0)
    wire = HttpWire("vault", Vault(address=vault_setup.place.address), SystemClock())
    yield Pod(setup=vault_setup, made=made, wire=wire)
    await wire.close()
