"""How a role is doing, told from what the Renewer knows: pure."""

from agent.leases.cache import Phase, RoleStatus
from agent.leases.schedule import Policy, RoleView, Wait


def phase_of(view: RoleView, policy: Policy, error: str, now: float) -> Phase:
    """The phase of a role whose newest failure is `error` ("" after a success)."""
    if not view.wanted:
        return Phase.IDLE
    if view.current is not None and now < policy.served_until(view.current):
        return Phase.STALE if error else Phase.FRESH
    return Phase.FAILING if error else Phase.STARTING


def status_of(view: RoleView, policy: Policy, step: Wait, *, error: str, draining: int, now: float) -> RoleStatus:
    """What health says of a role that has nothing to do before `step.until`."""
    return RoleStatus(
        phase=phase_of(view, policy, error, now),
        failures=view.failures,
        retry_at=view.not_before,
        next_step=step.then,
        next_at=step.until,
        error=error,
        draining=draining,
    )
