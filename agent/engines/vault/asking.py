"""One call at a cluster, made in a thread: its addresses in turn, redirects, and what the answer's status means."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent import dial
from agent.config.upstreams import Vault
from agent.engines.vault import bodies, faults_http
from agent.engines.vault.adapter import ClusterAdapter
from agent.engines.vault.addresses import Address, Addresses, Refused
from agent.engines.vault.answers import Answer
from agent.engines.vault.errand import Asked, Begin, Outcome
from agent.engines.vault.sockets import Bounds
from agent.engines.vault.tls import BadFiles, Contexts
from agent.engines.vault.transport import Garbled, GivenUp, Lost, NotSent, Reply, Route
from agent.errors import BadResponse, Unavailable, UpstreamError

_REDIRECTS = 2


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A request, and what binds its sending."""

    asked: Asked
    bounds: Bounds
    begin: Callable[[], bool]
    connect_until: float
    began_with: Address


class Asker:
    """Asks one cluster, for one thread, with connections that are kept.

    Args:
        name: the upstream's.
        addresses, contexts: shared with the other threads.
        wall: Unix time, for dates.
    """

    def __init__(
        self, name: str, server: Vault, addresses: Addresses, contexts: Contexts, wall: Callable[[], float]
    ) -> None:
        self._name = name
        self._addresses = addresses
        self._connect_timeout = server.connect_timeout
        self._namespace = server.namespace
        self._wall = wall
        self._adapter = ClusterAdapter(contexts, server.tls_server_name, server.proxy)

    def close(self) -> None:
        """Close every connection."""
        self._adapter.close()

    def ask(self, asked: Asked, bounds: Bounds, begin: Begin) -> Outcome:
        """How it went. The next address is tried only while no server can have seen the request."""
        problems: list[str] = []
        turn = self._addresses.in_turn()
        for tried, address in enumerate(turn):
            left = bounds.remaining
            if left <= 0:
                break
            share = min(self._connect_timeout, left / (len(turn) - tried))  # so that each gets its chance
            call = self._call(asked, bounds, begin, address, turn[0], dial.now() + share)
            try:
                return self._ask_at(call, address)
            except GivenUp:
                break
            except BadFiles as mistake:  # ours, not the server's: no other address would do, and none is to blame
                return Outcome(error=Unavailable(f"{self._name}: {mistake}"))
            except NotSent as problem:
                problems.append(f"{address.label}: {problem}")
                self._addresses.unreachable(str(problem))
        reasons = "; ".join(problems) or "no time was left to connect"
        return Outcome(error=Unavailable(f"{self._name}: cannot be reached: {reasons}", unreachable=True))

    def _call(
        self, asked: Asked, bounds: Bounds, begin: Begin, address: Address, began_with: Address, connect_until: float
    ) -> _Call:
        def blame() -> None:
            self._addresses.failed(address, "no answer in time", began_with=began_with)

        return _Call(
            asked=asked,
            bounds=bounds,
            begin=lambda: begin(blame),
            connect_until=connect_until,
            began_with=began_with,
        )

    def _ask_at(self, call: _Call, address: Address) -> Outcome:
        try:
            reply, answered_by = self._follow(call, address)
        except Lost as problem:
            return self._failed(call, address, faults_http.lost(self._name, address, call.asked, problem), str(problem))
        except (Garbled, Refused) as problem:
            # After a refused redirect nothing was done; after nonsense, who knows.
            unknown = isinstance(problem, Garbled)
            words = f"{self._who(address, call.asked)}: it {'sends' if unknown else ''} {problem}".replace("  ", " ")
            return self._failed(call, address, BadResponse(words, outcome_unknown=unknown), str(problem))
        return self._judge(call, address, answered_by, reply)

    def _follow(self, call: _Call, address: Address) -> tuple[Reply, Address]:
        """The reply that is no redirect, and whose it is."""
        at, asked = address, call.asked
        for _ in range(_REDIRECTS + 1):
            try:
                reply = self._send(call, at)
            except NotSent as problem:
                if at == address:
                    raise
                raise NotSent(f"leads to {at.label}: {problem}") from problem
            if not _redirects(asked.method, reply.status_code):
                return reply, at
            at = self._addresses.redirected(at, reply.request.path_url, reply.location)
            until = dial.now() + min(self._connect_timeout, max(call.bounds.remaining, 0.0))
            call = replace(call, connect_until=until)
        raise Refused("redirects in a circle")

    def _send(self, call: _Call, address: Address) -> Reply:
        asked = call.asked
        return self._adapter.ask(
            asked.method,
            asked.quoted,
            Route(
                address=address,
                certificate=asked.certificate,
                connect_until=call.connect_until,
                bounds=call.bounds,
                begin=call.begin,
            ),
            token=asked.token,
            namespace=self._namespace if asked.namespace is None else asked.namespace,
            query=asked.query,
            body=asked.body,
            wrap_ttl=asked.wrap_ttl,
        )

    def _judge(self, call: _Call, address: Address, answered_by: Address, reply: Reply) -> Outcome:
        asked = call.asked
        served = bodies.unix_time(reply.headers.get("Date"))
        wait = bodies.delay(reply.headers.get("Retry-After"), lambda: served or self._wall())
        who = self._who(answered_by, asked)
        error = faults_http.of_status(who, asked, reply.status_code, wait, lambda: _texts(reply))
        if error is not None:
            if faults_http.elsewhere(error, reply.status_code):
                return self._failed(call, address, error, faults_http.in_short(reply.status_code))
            return Outcome(error=error, switch=self._addresses.answered(answered_by))
        try:
            answer = self._read(reply, served)
        except ValueError as problem:
            unknown = reply.status_code < 300  # what issues may have issued
            words = f"{who}: it sends {problem} (status {reply.status_code}); is something else at that address?"
            return self._failed(call, address, BadResponse(words, outcome_unknown=unknown), str(problem))
        return Outcome(answer=answer, switch=self._addresses.answered(answered_by))

    def _read(self, reply: Reply, served: float | None) -> Answer:
        if reply.flaw:
            raise ValueError(reply.flaw)
        raw = reply.content
        body = {} if not raw and reply.status_code in (202, 204) else bodies.json_object(raw)
        return Answer(status=reply.status_code, body=body, errors=bodies.error_texts(body), server_time=served)

    def _failed(self, call: _Call, address: Address, error: UpstreamError, reason: str) -> Outcome:
        self._addresses.failed(address, reason, began_with=call.began_with)
        return Outcome(error=error)

    def _who(self, address: Address, asked: Asked) -> str:
        return faults_http.who(self._name, address, asked)


def _texts(reply: Reply) -> tuple[str, ...]:
    try:
        return () if reply.flaw else bodies.error_texts(bodies.json_object(reply.content))
    except ValueError:  # a balancer's page
        return ()


def _redirects(method: str, status: int) -> bool:
    """307 and 308 keep the method; 301 and 302 do so only where it is GET, as every client sees it."""
    return status in (307, 308) or (status in (301, 302) and method in ("GET", "LIST"))
