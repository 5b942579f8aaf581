"""What the contract suite runs on."""

from collections.abc import Callable
from dataclasses import dataclass

from agent.leases.engine import Engine
from agent.leases.lease import Grant


@dataclass(kw_only=True)
class Subject:
    """An engine, and what a test may do to its upstream.

    Attributes:
        works: whether the credential of a grant is good.
        expire: let the lease have ended at the upstream.
        pause, resume: between them the upstream answers nothing.
        names_leases: whether the upstream gives leases ids of its own; otherwise the proposed ones are theirs.
        unknown: an id such as a lease of the upstream might have, and none has.
        live: how many credentials there are at the upstream.
    """

    engine: Engine
    works: Callable[[Grant], bool]
    expire: Callable[[Grant], None]
    pause: Callable[[], None]
    resume: Callable[[], None]
    names_leases: bool = False
    unknown: Callable[[], str]
    live: Callable[[], int]
