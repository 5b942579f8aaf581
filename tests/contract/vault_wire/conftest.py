"""What a Vault says on the wire, asked of a real server and of the in-tree one alike, so that the latter cannot lie.

Plain HTTP, without hvac and without anything of `agent`. Texts that differ here are mistakes of the in-tree server.
"""

import pytest

from agent.dev.cluster import Binaries
from tests.fix_postgres import MAJORS, binaries_of


@pytest.fixture
def binaries() -> Binaries:
    """The newest PostgreSQL: what differs between versions is no matter of the wire."""
    return binaries_of(MAJORS[-1])
