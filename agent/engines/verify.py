"""Tries a new credential before anyone sees it (promise 5), wherever the configuration says it must work.

A replica may lag, a grant may be missing, pg_hba.conf may shut the user out: the app should never be the first to find
out. Which answer means what stands in `agent.engines.login`; here is how often and how long to ask.
"""

import asyncio
import importlib
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from agent import log
from agent.clock import Clock
from agent.config.model import Connection, PostgreSQL, Role
from agent.engines.login import Failure, Target, log_in
from agent.errors import CredentialRefused
from agent.leases.lease import Secret
from agent.log import Event
from agent.offload import in_daemon_thread

_log = log.get(__name__)

__all__ = ["LogIn", "LoginVerifier", "Target", "targets_for"]

_SHORTEST = 0.2  # seconds between two attempts, doubling
_LONGEST = 10.0

LogIn = Callable[[Target, Secret, Secret, float], Awaitable[Failure | None]]


def targets_for(role: Role, upstream: PostgreSQL | None) -> tuple[Target, ...]:
    """Where a credential of `role` must be able to log in.

    Its `verify` list where given (an empty one: nowhere); else where its `connection` sends the app; else the server
    that mints it. Nowhere for an upstream that is no PostgreSQL of ours and a role that says nothing.
    """
    if role.verify is not None:
        return tuple(
            _target(each, sslrootcert=each.sslrootcert, probe=each.probe)  # the list says all of it
            for each in role.verify
        )
    sslrootcert = upstream.sslrootcert if upstream is not None else None
    place = role.connection or upstream
    return (_target(place, sslrootcert=sslrootcert),) if place is not None else ()


def _target(place: Connection | PostgreSQL, *, sslrootcert: str | None, probe: str | None = None) -> Target:
    return Target(
        host=place.host,
        port=place.port,
        dbname=place.dbname,
        sslmode=place.sslmode,
        sslrootcert=sslrootcert,
        probe=probe,
    )


@dataclass(kw_only=True)
class _Trial:
    """One credential on its way through the targets."""

    username: Secret
    password: Secret
    pending: tuple[Target, ...]
    failures: dict[Target, Failure] = field(default_factory=dict)


class LoginVerifier:
    """`agent.leases.engine.Verify` by logging in at every target and running its probe.

    Args:
        targets: all of them must let the credential in.
        clock: whose dial `until` is read on.
        attempt_timeout: seconds one login with its probe may take.
        log_in: how it is done.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        clock: Clock,
        *,
        attempt_timeout: float = 5.0,
        log_in: LogIn = log_in,
    ) -> None:
        self._targets = tuple(targets)
        self._clock = clock
        self._attempt_timeout = attempt_timeout
        self._log_in = log_in

    def __repr__(self) -> str:
        return f"LoginVerifier({', '.join(map(str, self._targets))})"

    async def __call__(self, data: Mapping[str, Secret], until: float) -> bool:
        """True if every target lets the credential in; False if that could not be found out.

        Tried at least once, and again, with growing delays, until the dial reads `until`; a target that has let it in
        is not asked again. The last answer counts. Returns by `until`, or after one `attempt_timeout` if that is later.

        Raises:
            CredentialRefused: a target went on refusing it, whatever became of the others.
        """
        username, password = data.get("username"), data.get("password")
        if not self._targets or username is None or password is None:
            return False
        trial = _Trial(username=username, password=password, pending=self._targets)
        await self._try_until(trial, until)
        for target, failure in trial.failures.items():
            if failure.refused:
                raise CredentialRefused(
                    f"{target} refuses the new credential: {failure.reason}",
                    code=failure.code,
                    lacking=failure.lacking,
                )
        for target, failure in trial.failures.items():
            _log.warning(Event.VERIFY_FAILED, server=str(target), reason=failure.reason)
        return not trial.failures

    async def _try_until(self, trial: _Trial, until: float) -> None:
        def left() -> float:
            return until - self._clock.now()

        async def attempt() -> bool:
            first = not trial.failures
            patience = self._attempt_timeout if first else min(self._attempt_timeout, left())
            await self._round(trial, patience)
            return any(not failure.final for failure in trial.failures.values())

        first_outcome = [await attempt()]
        if not first_outcome[0]:
            return
        # Most credentials are let in at once: only those that are not need the library.
        if "tenacity" not in sys.modules:
            await in_daemon_thread(lambda: importlib.import_module("tenacity"))
        from tenacity import AsyncRetrying, RetryCallState, retry_if_result, wait_random_exponential

        growing = wait_random_exponential(multiplier=2 * _SHORTEST, max=_LONGEST, min=_SHORTEST)

        def wait(state: RetryCallState) -> float:
            # The last delay is shortened, so that one more attempt fits in front of the end.
            return min(growing(state), left() / 2)

        def stop(state: RetryCallState) -> bool:
            return left() <= 2 * _SHORTEST

        retrying = AsyncRetrying(
            sleep=self._clock.sleep,
            wait=wait,
            stop=stop,
            retry=retry_if_result(lambda again: again),
            retry_error_callback=lambda state: None,
        )

        async def attempt_or_first() -> bool:
            return first_outcome.pop() if first_outcome else await attempt()

        await retrying(attempt_or_first)

    async def _round(self, trial: _Trial, patience: float) -> None:
        """Ask every target that has not let the credential in yet, all at once."""
        async with asyncio.TaskGroup() as group:
            asked = {
                target: group.create_task(self._ask(trial, target, patience), name=f"verify at {target}")
                for target in trial.pending
            }
        answers = {target: task.result() for target, task in asked.items()}
        trial.failures = {target: failure for target, failure in answers.items() if failure is not None}
        trial.pending = tuple(trial.failures)

    async def _ask(self, trial: _Trial, target: Target, patience: float) -> Failure | None:
        try:
            async with self._clock.timeout(patience):
                return await self._log_in(target, trial.username, trial.password, patience)
        except TimeoutError:
            before = trial.failures.get(target)
            if before is not None and patience < self._attempt_timeout:
                return before  # a hurried attempt unsays nothing
            return Failure(reason=f"no answer within {patience:.1f} s")
