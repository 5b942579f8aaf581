"""How the servers of one cluster are: reached or not, sealed or not, and whose clock is right. Asks without a login."""

import asyncio
import math
from dataclasses import dataclass

from attrs import evolve

from agent.clock import Clock
from agent.config.upstreams import Vault
from agent.engines.finding import Finding, Level, plain
from agent.engines.vault import values
from agent.engines.vault.answers import Answer
from agent.engines.vault.wire import HttpWire
from agent.errors import UpstreamError

# All states are answered with 200, so that the body says which it is.
_ALL_OK = {
    **{"standbyok": "true", "perfstandbyok": "true"},
    **{"sealedcode": "200", "uninitcode": "200", "drsecondarycode": "200"},
}
_SKEW = 5.0
"""Seconds that clocks may differ before it is worth a word; logins by signed tokens allow a minute at most."""


@dataclass(frozen=True, kw_only=True)
class State:
    """One server.

    Attributes:
        address: as it is configured.
        wrong: why it is of no use now, "" where it is.
        version: of the server, "" where it did not tell.
        standby: it serves by way of another.
        skew: seconds that its clock is ahead of ours.
    """

    address: str
    wrong: str = ""
    version: str = ""
    standby: bool = False
    skew: float = 0.0


async def states(name: str, server: Vault, clock: Clock) -> list[State]:
    """Each address of the cluster, asked by itself and all at once."""
    addresses = dict.fromkeys((server.address, *server.fallback_addresses))
    return list(await asyncio.gather(*(_state(name, server, address, clock) for address in addresses)))


async def _state(name: str, server: Vault, address: str, clock: Clock) -> State:
    wire = HttpWire(name, evolve(server, address=address, fallback_addresses=()), clock)
    try:
        # The question is allowed in the topmost namespace only.
        answer = await wire.call("GET", "sys/health", query=_ALL_OK, namespace="")
    except UpstreamError as error:
        return State(address=address, wrong=str(error))
    finally:
        await wire.close()
    return state_of(address, answer, clock.wall())


def state_of(address: str, answer: Answer, now: float) -> State:
    """What an answer of sys/health says.

    Args:
        now: our Unix time.
    """
    body = answer.body
    if not answer.ok:
        return State(address=address, wrong=f"does not say how it is ({answer.status}); is a proxy in the way?")
    if body.get("initialized") is not True:
        return State(address=address, wrong="is not initialised: somebody must run its `operator init`")
    if body.get("sealed") is not False:
        return State(address=address, wrong="is sealed: it serves nobody before somebody unseals it")
    told = values.whole(body.get("server_time_utc"))
    theirs = answer.server_time if told is None else float(told)
    # Theirs is cut off to whole seconds.
    ahead = 0.0 if theirs is None else theirs - math.floor(now)
    version = plain(values.name(body.get("version")))
    return State(address=address, version=version, standby=body.get("standby") is True, skew=ahead)


def judged(found: list[State]) -> list[Finding]:
    """A cluster serves while one of its servers does: those that do not are then worth a word only."""
    grave = Level.WARNING if any(not each.wrong for each in found) else Level.MISSING
    findings = []
    for each in found:
        subject = f"server {plain(each.address)}"
        if each.wrong:
            findings.append(Finding(level=grave, subject=subject, text=each.wrong))
            continue
        role = "a standby, which hands calls on" if each.standby else "active"
        findings.append(
            Finding(level=Level.OK, subject=subject, text=f"answers: version {each.version or '?'}, unsealed, {role}")
        )
        if abs(each.skew) > _SKEW:
            where = "ahead of" if each.skew > 0 else "behind"
            text = (
                f"its clock is {abs(each.skew):.0f} s {where} ours: signed tokens and certificates may be refused as "
                "not valid yet, or as expired; set both by NTP"
            )
            findings.append(Finding(level=Level.WARNING, subject=subject, text=text))
    return findings
