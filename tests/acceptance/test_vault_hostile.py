"""A Vault, or what stands before it, answers logins, issues, renewals and revocations with anything but an answer.

One agent with an upstream for each kind of trouble, each behind a proxy of its own, and one that is well: what one
upstream does to its role must be no other's affair.
"""

import contextlib
import gzip
import http.server
import itertools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.harness import Agent, eventually, log_in
from tests.acceptance.scenes import place_of
from tests.acceptance.vaulted import VaultScene, jwt_way, users_of, vault_scene
from tests.faultproxy import FaultProxy
from tests.fix_vault import StartPlace, tls_of
from tests.issuers import Authority, Issuer
from tests.vault_agent import agent_document
from tests.vault_setup import VaultSetup

__all__ = ["vault_scene"]

LOGIN, ISSUE, RENEW, REVOKE = "login", "issue", "renew", "revoke"
WELL, MANY = "well", "many"
PATIENT = 3.0
"""Seconds of the Retry-After that one of them sends."""

HUGE = 1 << 30
MEMORY = 160 << 10
"""KiB that the agent may ever have resident, with a hundred connections to forty upstreams."""


# -- the troubles ----------------------------------------------------------------------------------------------------


class Decoy:
    """A server that nobody should ask; it answers 200 to whatever comes.

    Attributes:
        asked: what came, a line each.
        headers: of all that.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.headers: list[str] = []
        decoy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                decoy.asked.append(self.requestline)
                decoy.headers.append(str(self.headers))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_LIST = do_CONNECT = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nothing."""

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.authority = f"127.0.0.1:{self._server.server_port}"
        self.address = f"http://{self.authority}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def decoy() -> Iterator[Decoy]:
    one = Decoy()
    yield one
    one.close()


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a trouble may have to know.

    Attributes:
        path: of the call that it befalls.
        server: address of the real server, beside the proxy.
        sent: bytes that got through, by trouble.
    """

    path: str
    server: str
    decoy: Decoy
    sent: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """One way not to answer.

    Attributes:
        says: what the agent says of it (a pattern); "" where nothing fails.
        slow: it shows only after the call's deadline, which is 10 s where no lease is in danger.
        also: another path that it befalls.
        calls: whom it befalls.
    """

    how: Callable[[Site], Mapping[str, Any]]
    says: str
    slow: bool = False
    also: str = ""
    calls: tuple[str, ...] = (LOGIN, ISSUE, RENEW, REVOKE)


def answers(status: int, body: object = None, **headers: str) -> Callable[[Site], Mapping[str, Any]]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda site: {"status": status, "body": body, "headers": named}


def pours(name: str, head: bytes, pieces: Callable[[], Iterable[bytes]]) -> Callable[[Site], Mapping[str, Any]]:
    """A body in pieces, as long as anybody takes them."""

    def how(site: Site) -> Mapping[str, Any]:
        def stream() -> Iterator[bytes]:
            yield b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n" + head + b"\r\n"
            for piece in pieces():
                yield piece
                site.sent[name] = site.sent.get(name, 0) + len(piece)

        return {"stream": stream}

    return how


def _spaces() -> Iterator[bytes]:
    piece = b" " * (64 << 10)
    for _ in range(HUGE // len(piece)):
        yield piece


def _chunks() -> Iterator[bytes]:
    for piece in _spaces():
        yield b"%x\r\n%s\r\n" % (len(piece), piece)


def _drops() -> Iterator[bytes]:
    for _ in range(600):
        yield b" "
        time.sleep(0.1)


_BOMB = gzip.compress(b'{"data": "' + b"0" * (64 << 20) + b'"}')
_PAGE = b"<html><title>Please log in</title></html>"

TROUBLES: dict[str, Trouble] = {
    "sealed": Trouble(how=answers(503, {"errors": ["Vault is sealed"]}), says="is sealed"),
    "standby-429": Trouble(how=answers(429, {"errors": ["standby"]}), says="429"),
    "standby-472": Trouble(how=answers(472), says="472"),
    "standby-473": Trouble(how=answers(473), says="473"),
    "limited": Trouble(how=answers(429, {"errors": ["slow down"]}, Retry_After=f"{PATIENT:g}"), says="rate limit"),
    "lagging": Trouble(how=answers(412, {"errors": ["required index state not present"]}), says="412"),
    # A standby to which the new login has not come yet: it knows the token for no look at itself either.
    "stranger": Trouble(
        how=answers(403, {"errors": ["permission denied"]}),
        says="lagging standby",
        also="auth/token/lookup-self",
        calls=(ISSUE,),
    ),
    "page": Trouble(how=answers(200, _PAGE, Content_Type="text/html"), says="no JSON object"),
    "half": Trouble(how=lambda site: {"half": True}, says="cut off", calls=(LOGIN, ISSUE, RENEW)),
    "lost": Trouble(how=lambda site: {"lose": True}, says="connection was cut"),
    "reset": Trouble(how=lambda site: {"reset": True}, says="connection was cut"),
    "huge": Trouble(how=pours("huge", b"Content-Length: %d\r\n" % HUGE, _spaces), says="too large"),
    "endless": Trouble(how=pours("endless", b"Transfer-Encoding: chunked\r\n", _chunks), says="too large"),
    "bomb": Trouble(how=answers(200, _BOMB, Content_Encoding="gzip"), says="compressed body"),
    "deep": Trouble(how=answers(200, b'{"data":' * 50_000 + b"1" + b"}" * 50_000), says="nested too deep"),
    "plain": Trouble(
        how=answers(200, {"hello": "world"}, Content_Type="text/plain"),
        says="is none|holds no|not leased|grants",
        calls=(LOGIN, ISSUE, RENEW),  # a revocation's answer has nothing to say
    ),
    "elsewhere": Trouble(
        how=lambda site: {"status": 307, "headers": {"Location": f"{site.decoy.address}/v1/{site.path}"}},
        says="another host",
    ),
    "redirect": Trouble(
        how=lambda site: {"status": 307, "headers": {"Location": f"{site.server}/v1/{site.path}"}}, says=""
    ),
    "hang": Trouble(how=lambda site: {"hang": True}, says="no answer within", slow=True),
    "trickle": Trouble(how=pours("trickle", b"Content-Length: 600\r\n", _drops), says="no answer within", slow=True),
}


# -- the scene -------------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class Spot:
    """One trouble at one call of one upstream."""

    name: str
    call: str
    trouble: Trouble
    proxy: FaultProxy
    path: str
    site: Site
    began: float = 0.0

    @property
    def role(self) -> str:
        return f"database/creds/{self.name}"

    @property
    def caller(self) -> str:
        """The role that the agent's log names."""
        return f"session:vault.{self.name}" if self.call == LOGIN else self.role

    @property
    def event(self) -> str:
        """What the agent's log calls the failure."""
        return {RENEW: "renew-failed", REVOKE: "revoke-failed"}.get(self.call, "issue-failed")

    def begin(self) -> None:
        self.began = time.monotonic()
        for path in filter(None, (self.path, self.trouble.also)):
            self.proxy.fault(path, **self.trouble.how(self.site))

    def said(self, agent: Agent) -> list[str]:
        """What the agent said of it."""
        return [line["error"] for line in agent.logged(self.event, role=self.caller)]

    def tried(self) -> list[float]:
        """When the call was made while the trouble lasted."""
        return [seen.at for seen in self.proxy.seen(self.path, since=self.began)]


@dataclass(kw_only=True)
class Field:
    """The agent's surroundings: an upstream for each spot, one that is well, one of many roles."""

    scene: VaultScene
    spots: list[Spot]
    others: dict[str, FaultProxy]
    document: dict[str, Any]
    sent: dict[str, int]
    dark: list[str] = field(default_factory=list)

    def look(self, agent: Agent, roles: Iterable[str]) -> None:
        """Read each of `roles`; whoever has no credential, or a dead one, is noted in `dark`."""
        read = {role: agent.ask(f"/v1/{role}") for role in roles}
        users = users_of(self.scene.database)
        for role, answer in read.items():
            if answer.status != 200 or answer.body["data"]["username"] not in users:
                self.dark.append(f"{role}: {answer.status} {answer.text[:200] if answer.status != 200 else 'dead'}")

    @property
    def well(self) -> str:
        return f"database/creds/{WELL}"

    @property
    def many(self) -> list[str]:
        return [f"database/creds/{MANY}-{number}" for number in range(5)]


BuildField = Callable[..., Field]


@pytest.fixture
def build(vault_scene: VaultScene, issuer: Issuer, decoy: Decoy) -> Iterator[BuildField]:
    """`build(calls, ttl=…, slow=…)`: the field for every trouble at these calls."""
    with contextlib.ExitStack() as stack:
        yield lambda *calls, **how: _field(vault_scene, issuer, decoy, stack, calls, **how)


def _field(
    scene: VaultScene,
    issuer: Issuer,
    decoy: Decoy,
    stack: contextlib.ExitStack,
    calls: tuple[str, ...],
    *,
    ttl: float,
    slow: Callable[[str], bool],
    many: bool = False,
) -> Field:
    server = scene.setup.place.address
    made = scene.leases(ttl=ttl, max_ttl=100 * ttl)
    way = jwt_way(scene, issuer, token_ttl="300s", token_max_ttl="3600s")
    paths = {
        LOGIN: f"auth/{way.mount}/login",
        ISSUE: made.creds(),
        RENEW: "sys/leases/renew",
        REVOKE: "sys/leases/revoke",
    }
    sent: dict[str, int] = {}
    spots = [
        Spot(
            name=f"{call}-{name}",
            call=call,
            trouble=trouble,
            proxy=stack.enter_context(FaultProxy(server)),
            path=paths[call],
            site=Site(path=paths[call], server=server, decoy=decoy, sent=sent),
        )
        for call in calls
        for name, trouble in TROUBLES.items()
        if call in trouble.calls and (not trouble.slow or slow(call))
    ]
    others = {name: stack.enter_context(FaultProxy(server)) for name in (WELL, *([MANY] if many else []))}
    one = {"path": made.creds(), "connection": place_of(scene.database), "required": False, "verify": []}
    roles: dict[str, dict[str, Any]] = {
        spot.role: {**one, "upstream": f"vault.{spot.name}", **({"drain": "1s"} if spot.call == REVOKE else {})}
        for spot in spots
    }
    found = Field(scene=scene, spots=spots, others=others, document={}, sent=sent)
    roles[found.well] = {**one, "upstream": f"vault.{WELL}"}
    if many:
        roles |= {role: {**one, "upstream": f"vault.{MANY}"} for role in found.many}
    hosts = [server.removeprefix("http://")]
    proxies = {**{spot.name: spot.proxy for spot in spots}, **others}
    vaults = {name: {"address": proxy.address, "redirect_hosts": hosts} for name, proxy in proxies.items()}
    document = agent_document(scene.place, {}, way, roles)
    for name, role in roles.items():
        document["role"][name] = role
    found.document = {**document, "vault": vaults}
    return found


def resident(agent: Agent) -> int:
    """The most memory that the agent has ever had resident (KiB)."""
    found = re.search(r"VmHWM:\s+([0-9]+) kB", Path(f"/proc/{agent.pid}/status").read_text())
    assert found
    return int(found[1])


def unsaid(agent: Agent, spots: Iterable[Spot]) -> dict[str, list[str]]:
    """By spot, what the agent said where it did not say what was wrong; or where nothing was."""
    said = {spot.name: (spot.trouble.says, spot.said(agent)) for spot in spots}
    return {
        name: lines
        for name, (says, lines) in said.items()
        if (not any(re.search(says, line) for line in lines) if says else lines)
    }


def storms(spots: Iterable[Spot]) -> dict[str, int]:
    """The spots with more than ten calls in any 60 s while their trouble lasted, and how many."""
    most = {}
    for spot in spots:
        times = spot.tried() if spot.trouble.says else []
        worst = max((sum(1 for at in times if begin <= at < begin + 60) for begin in times), default=0)
        if worst > 10:
            most[spot.name] = worst
    return most


def check_no_token_went(decoy: Decoy, agent: Agent) -> None:
    """Row D-03."""
    assert decoy.asked == []
    assert "Traceback" not in agent.stderr
    assert agent.logged("crashed") == []


def check_little_was_taken(field_: Field, agent: Agent) -> None:
    """Of a gigabyte no more than a mebibyte is read, beside what lies in the sockets' buffers; and none is kept."""
    assert {name: sent for name, sent in field_.sent.items() if sent > 64 << 20} == {}
    assert {"huge", "endless"} <= field_.sent.keys()
    assert resident(agent) < MEMORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lasting", "ttl"),
    [
        pytest.param(2.5, 60.0, marks=pytest.mark.timeout(120), id="short"),
        pytest.param(75.0, 300.0, marks=[pytest.mark.long, pytest.mark.timeout(400)], id="75s"),
    ],
)
def test_troubles_at_login_and_issue_are_told_bounded_and_got_over(
    build: BuildField, decoy: Decoy, lasting: float, ttl: float
) -> None:
    found = build(LOGIN, ISSUE, ttl=ttl, slow=lambda call: lasting > 10)
    scene = found.scene
    for spot in found.spots:
        spot.begin()
    agent = scene.agent(found.document).wait_listening()
    began = time.monotonic()
    followed = [spot.role for spot in found.spots if not spot.trouble.says]
    failing = [spot for spot in found.spots if spot.trouble.says]
    assert eventually(lambda: all(agent.ask(f"/v1/{role}").status == 200 for role in (found.well, *followed)))
    while time.monotonic() < began + lasting:
        found.look(agent, [found.well, *followed])
        time.sleep(0.3)

    # Why, for whoever asks; and at once.
    assert eventually(lambda: not unsaid(agent, found.spots)), unsaid(agent, found.spots)
    health = agent.health()
    told = {spot.name: health["roles"][spot.role]["error"] or "" for spot in failing}
    assert {name: text for name, text in told.items() if not re.search(f"vault.{name}|no answer within", text)} == {}
    for spot in failing:
        answer = agent.ask(f"/v1/{spot.role}")
        assert answer.status == 503, spot.name
        assert int(answer.headers["retry-after"]) >= 1
    assert found.dark == []
    assert storms(found.spots) == {}
    for spot in found.spots:
        if spot.name.endswith("limited"):
            times = spot.tried()
            assert all(later - sooner >= PATIENT for sooner, later in itertools.pairwise(times)), times

    for spot in found.spots:
        spot.proxy.clear()
    # A backoff of a few failures, or of as many as the budget allows in a minute; then one deadline.
    within = 30.0 if lasting < 10 else 75.0
    assert eventually(lambda: all(agent.ask(f"/v1/{spot.role}").status == 200 for spot in failing), within), agent.role(
        next(spot.role for spot in failing if agent.ask(f"/v1/{spot.role}").status != 200)
    )
    for spot in found.spots:
        with log_in(place_of(scene.database), agent.read(spot.role)) as app:
            app.execute("SELECT * FROM reports")
    check_no_token_went(decoy, agent)
    check_little_was_taken(found, agent)
    assert agent.stop() == 0, agent.logged("left-behind")
    # What a lost answer had issued has ended with its login; a login whose answer was lost has nothing.
    assert eventually(lambda: users_of(scene.database) == set())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lasting", "ttl"),
    [
        pytest.param(7.0, 8.0, marks=pytest.mark.timeout(120), id="short"),
        pytest.param(100.0, 60.0, marks=[pytest.mark.long, pytest.mark.timeout(500)], id="100s"),
    ],
)
def test_troubles_at_renewal_and_revocation_cost_no_reader_anything(
    build: BuildField, decoy: Decoy, lasting: float, ttl: float
) -> None:
    found = build(RENEW, REVOKE, ttl=ttl, slow=lambda call: call == RENEW or lasting > 10, many=True)
    scene = found.scene
    agent = scene.agent(found.document).wait_listening()
    roles = [*(spot.role for spot in found.spots), found.well, *found.many]
    assert eventually(lambda: all(agent.ask(f"/v1/{role}").status == 200 for role in roles))
    began = time.monotonic()
    before = {spot.role: agent.read(spot.role).username for spot in found.spots if spot.call == REVOKE}
    for spot in found.spots:
        spot.begin()
    # Five roles with one silent upstream.
    silence = found.others[MANY].fault("", hang=True)
    silent = time.monotonic()
    for role in before:
        assert agent.ask(f"/v1/{role}/rotate", method="POST").status == 202
    while time.monotonic() < began + lasting:
        found.look(agent, [role for role in roles if role not in found.many])
        time.sleep(0.3)

    assert found.dark == []
    assert eventually(lambda: not unsaid(agent, found.spots)), unsaid(agent, found.spots)
    assert storms(found.spots) == {}
    assert agent.role(found.well)["phase"] == "fresh"
    assert agent.logged("renewed", role=found.well)
    # One call at a time probes for all of them, once one has had no answer.
    assert eventually(lambda: found.others[MANY].count(since=silent) >= 8), "nobody probed"
    probes = [seen.at for seen in found.others[MANY].seen(since=silent)][5:]
    gaps = [later - sooner for sooner, later in itertools.pairwise(probes)]
    assert min(gaps) > 0.2, gaps

    found.others[MANY].clear(silence)
    for spot in found.spots:
        spot.proxy.clear()
    clear = time.time()
    within = 30.0 if lasting < 10 else 90.0
    renewing = [spot.role for spot in found.spots if spot.call == RENEW]
    assert eventually(lambda: all(_renewed(agent, role, clear) for role in renewing), within), [
        role for role in renewing if not _renewed(agent, role, clear)
    ]
    assert eventually(lambda: not set(before.values()) & users_of(scene.database), within)
    assert eventually(lambda: all(agent.ask(f"/v1/{role}").status == 200 for role in roles), within)
    check_no_token_went(decoy, agent)
    check_little_was_taken(found, agent)
    assert agent.stop() == 0, agent.logged("left-behind")
    assert users_of(scene.database) == set()


def _renewed(agent: Agent, role: str, since: float) -> bool:
    """Whether it is well, and what it holds was obtained, or renewed, after the trouble."""
    found = agent.role(role)
    return found["phase"] == "fresh" and found["error"] is None and bool(agent.logged("renewed", role=role))


# -- what lies around ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_lies_around_changes_nothing(
    own_vault_place: StartPlace,
    vault_scene: VaultScene,
    authority: Authority,
    issuer: Issuer,
    decoy: Decoy,
    tmp_path: Path,
) -> None:
    """D-02: variables and files in the home directory that other clients of Vault, and of HTTP, obey."""
    place = own_vault_place(tls=tls_of(authority))
    setup = VaultSetup(place, tmp_path)
    made = setup.database(vault_scene.database)
    way = setup.jwt(issuer, setup.policy(made.creds()), token_ttl="120s")
    role = {"path": made.creds(), "connection": place_of(vault_scene.database)}
    server = {"address": place.address, "ca_cert": str(place.ca)}
    document = agent_document(vault_scene.place, server, way, {"database/creds/app": role})
    home, wrong = tmp_path / "home", tmp_path / "wrong.pem"
    home.mkdir()
    wrong.write_text("no certificate\n")
    (home / ".vault-token").write_text("hvs.ambient")
    (home / ".netrc").write_text("machine 127.0.0.1 login ambient password ambient\n")
    ambient = {
        **{f"{product}_TOKEN": "hvs.ambient" for product in ("VAULT", "BAO")},
        **{f"{product}_ADDR": decoy.address for product in ("VAULT", "BAO")},
        **{f"{product}_AGENT_ADDR": decoy.address for product in ("VAULT", "BAO")},
        **{f"{product}_PROXY_ADDR": decoy.address for product in ("VAULT", "BAO")},
        **{f"{product}_HTTP_PROXY": decoy.address for product in ("VAULT", "BAO")},
        **{f"{product}_NAMESPACE": "ambient" for product in ("VAULT", "BAO")},
        **{f"{product}_CACERT": str(wrong) for product in ("VAULT", "BAO")},
        **{f"{product}_CAPATH": str(wrong) for product in ("VAULT", "BAO")},
        **{f"{product}_CLIENT_CERT": str(wrong) for product in ("VAULT", "BAO")},
        **{f"{product}_CLIENT_KEY": str(wrong) for product in ("VAULT", "BAO")},
        **dict.fromkeys(("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY"), decoy.address),
        **dict.fromkeys(("https_proxy", "http_proxy", "all_proxy"), decoy.address),
        **{name: str(wrong) for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")},
        "HOME": str(home),
        "NETRC": str(home / ".netrc"),
    }
    agent = vault_scene.agent(document, environment=ambient).wait_ready()

    held = agent.read("database/creds/app")
    log_in(place_of(vault_scene.database), held).close()

    assert users_of(vault_scene.database) == {held.username}
    assert agent.stop() == 0
    assert users_of(vault_scene.database) == set()
    assert decoy.asked == []
    assert "hvs.ambient" not in agent.stderr

    # What is configured is obeyed: the decoy does hear of those who ask it.
    document["vault"]["proxy"] = decoy.address
    again = vault_scene.agent(document).wait_listening()
    assert eventually(lambda: bool(decoy.asked))
    assert decoy.asked[0].startswith(f"CONNECT {place.address.removeprefix('https://')} ")
    assert again.stop() in (0, 6)
