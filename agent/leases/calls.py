"""The Renewer's calls to the outside, each with its deadline; no answer in time is an error like any other."""

from agent.clock import Clock
from agent.errors import Unavailable
from agent.leases.engine import Engine, Verify
from agent.leases.lease import Grant, Lease


class Calls:
    """One role's calls of its engine and its verifier; revocations are `agent.leases.retire`'s."""

    def __init__(self, role: str, engine: Engine, verify: Verify | None, clock: Clock) -> None:
        self.role = role
        self._engine = engine
        self._verify = verify
        self._clock = clock

    async def issue(self, proposed: str, deadline: float) -> Grant:
        """A grant under the id `proposed`.

        Raises:
            UpstreamError: none came; where `outcome_unknown`, `proposed` has to be revoked.
        """
        try:
            async with self._clock.timeout(deadline):
                return await self._engine.issue(self.role, proposed)
        except TimeoutError as error:
            # The statement may still take effect (ADR 1).
            raise no_answer(deadline) from error

    async def renew(self, lease: Lease, deadline: float) -> Grant:
        """`lease` extended by its first length, as far as the upstream grants it.

        Raises:
            UpstreamError: it was not.
        """
        try:
            async with self._clock.timeout(deadline):
                return await self._engine.renew(lease, lease.first.ttl)
        except TimeoutError as error:
            raise no_answer(deadline) from error

    async def tried(self, lease: Lease, until: float, deadline: float) -> bool:
        """Whether a login with `lease` succeeded by `until`; False where it could not be found out.

        Raises:
            CredentialRefused: the database went on refusing it.
        """
        if self._verify is None:
            return False
        try:
            # The verifier keeps to `until` by itself; this holds even where its last attempt hangs.
            async with self._clock.timeout(until - self._clock.now() + deadline):
                return await self._verify(lease.data, until)
        except TimeoutError:
            return False


def no_answer(deadline: float) -> Unavailable:
    """Nothing came in `deadline` seconds, and what was asked for may have been done."""
    text = f"the upstream gave no answer within {deadline:.1f} s"
    return Unavailable(text, unreachable=True, outcome_unknown=True, timed_out=True)
