"""What a role's failed attempts lead to: the next instant, the window's budget, one call of `on_failed`.

The Renewer's memory of what went wrong; it calls nobody but `on_failed`.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from agent import log
from agent.errors import Forbidden, NoIdentity, NotFound, NotLoggedIn
from agent.leases.schedule import CALL_BUDGET, RENEW_BUDGET, Policy, RoleView, backoff, retry_at, within_budget
from agent.log import Event

_log = log.get(__name__)


class Failures:
    """The failed attempts of one role.

    Attributes:
        error: the newest failure in one line, "" after a success.
    """

    def __init__(self, role: str, policy: Policy, rng: random.Random, on_failed: Callable[[str, str], None]) -> None:
        self.role = role
        self.error = ""
        self._policy = policy
        self._random = rng
        self._on_failed = on_failed
        self._failed_at: deque[float] = deque(maxlen=CALL_BUDGET)
        self._told = False

    def cleared(self, view: RoleView) -> RoleView:
        """The view after a success. The window remembers: successes in between do not buy more failures."""
        self.error = ""
        self._told = False
        return replace(view, failures=0, not_before=float("-inf"))

    def forgiven(self, view: RoleView, now: float) -> RoleView:
        """The view without its backoff: what made the attempts fail may have changed. The window's budget stands."""
        hold = within_budget(tuple(self._failed_at), now, CALL_BUDGET)
        return replace(view, not_before=hold if hold > now else float("-inf"))

    def spent(self, view: RoleView, error: Exception, began: float, now: float) -> RoleView:
        """The view after a failed call that is answered by another step at once, budget permitting."""
        self.error = str(error) or type(error).__name__
        if not isinstance(error, NotLoggedIn):  # then nobody was called
            self._failed_at.append(began)
        times = tuple(self._failed_at)
        return replace(
            view,
            not_before=max(view.not_before, within_budget(times, now, CALL_BUDGET)),
            renew_not_before=within_budget(times, now, RENEW_BUDGET),
        )

    def failed(
        self, view: RoleView, event: Event, error: Exception, began: float, now: float, *, slow: bool
    ) -> RoleView:
        """The view after a failed attempt: backed off, logged, and told where it is the one too many.

        A role that lacks its login only is quiet until then: it is woken in the moment there is one.

        Args:
            slow: waiting does not heal it; told at once.
        """
        slow = slow or isinstance(error, NotFound | Forbidden | NoIdentity)
        view = self.spent(replace(view, failures=view.failures + 1, not_before=now), error, began, now)
        delay = backoff(view.failures, self._random.random(), slow=slow)
        at = max(view.not_before, retry_at(view, self._policy, now, delay, getattr(error, "retry_after", 0.0)))
        # Without a login no call was made, and the session has said why: one line there, not one per role and attempt.
        tell = _log.debug if isinstance(error, NotLoggedIn) else _log.warning
        tell(event, role=self.role, error=self.error, attempt=view.failures, retry_in=round(at - now, 1))
        if not self._told and (slow or view.failures >= self._policy.attempts):
            self._told = True
            _log.error(Event.ROLE_FAILED, role=self.role, error=self.error, attempt=view.failures)
            self._on_failed(self.role, self.error)
        return replace(view, not_before=at)
