"""`verify_every`: a published credential is tried again while it lives; somebody may have changed its password."""

from collections.abc import Callable

from agent.clock import Clock
from agent.errors import CredentialRefused
from agent.leases.engine import Verify
from agent.leases.lease import Lease
from agent.leases.schedule import CALL_DEADLINE


async def verify_again(
    verify: Verify,
    clock: Clock,
    every: float,
    *,
    current: Callable[[], Lease | None],
    refused: Callable[[Lease, CredentialRefused], None],
) -> None:
    """Try `current()` every `every` seconds, for ever; what is refused is told, what is inconclusive is not.

    Args:
        current: the lease to try, None where there is none or it is being replaced anyway.
    """
    while True:
        await clock.sleep(every)
        lease = current()
        if lease is None:
            continue
        try:
            async with clock.timeout(CALL_DEADLINE):
                await verify(lease.data, clock.now() + CALL_DEADLINE / 2)
        except TimeoutError:
            continue
        except CredentialRefused as error:
            refused(lease, error)
