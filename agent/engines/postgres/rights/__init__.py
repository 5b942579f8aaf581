"""Looks a server over, without changing anything: which right the agent's login is missing, which it has too much of.

look       log in, read, judge: the door
facts      what the catalogs say of rights         estate        and of what surrounds the leases
login groups journal surroundings                  judge these, pure
finding    what a judgement is, and its SQL        probe         the GRANT that a refused probe asks for
diagnosis  who is there now, and what they may do
"""

from agent.engines.postgres.rights.diagnosis import Diagnosis, diagnose
from agent.engines.postgres.rights.finding import Finding, Level
from agent.engines.postgres.rights.look import Inspection, inspect
from agent.engines.postgres.rights.probe import missing_grants

__all__ = ["Diagnosis", "Finding", "Inspection", "Level", "diagnose", "inspect", "missing_grants"]
