"""Vault and OpenBao, through hvac.

engine    issue, renew, revoke, ping          issuing  an issue's answer
source    static roles and key-value secrets  reading  a look's answer
login     our own login                       found    a login's answer      wrapping  response wrapping
signed    calls with the present login, and what a 403 to them means
faults    what other refusals mean            values   single values, checked
answers   the Wire, which all of these stand on
wire      the Wire over HTTP: hvac, in threads of its own, imported there with the first call
"""

from agent.engines.vault.answers import Wire
from agent.engines.vault.engine import VaultEngine
from agent.engines.vault.login import VaultLogin
from agent.engines.vault.source import VaultSource
from agent.engines.vault.wire import HttpWire

__all__ = ["HttpWire", "VaultEngine", "VaultLogin", "VaultSource", "Wire"]
