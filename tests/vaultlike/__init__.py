"""A server that speaks Vault's wire, for machines without OpenBao: the parts of it that the agent and its tests use.

It mints users in a real PostgreSQL and ends them by a timer. tests/contract/test_vault_wire.py runs over it and over a
real OpenBao; where they differ, this one is wrong. `python -m tests.vaultlike --port …` starts it as a process.
"""

from tests.vaultlike.faults import Fault, Seen
from tests.vaultlike.server import Tls, VaultLike

__all__ = ["VaultLike", "Tls", "Fault", "Seen"]
