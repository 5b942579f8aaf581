"""What operators are told of a running agent: metrics on socket and port, probes on a port that knows nobody."""

import http.client
import signal
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from agent import catalogue
from tests import promql
from tests.acceptance.conftest import RunAgent
from tests.acceptance.harness import Agent, as_uid, eventually
from tests.acceptance.others import as_root
from tests.acceptance.scenes import ROLE, document
from tests.fix_postgres import Database, StartCluster, create_database

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "leasehold.rules.yaml"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scraped(text: str) -> Samples:
    """Every sample by name and labels."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in plain(text)
        for sample in family.samples
    }


def scrape(agent: Agent) -> Samples:
    """What the socket tells an operator."""
    answer = agent.ask("/metrics")
    assert answer.status == 200, answer
    return scraped(answer.text)


def value(samples: Samples, name: str, **labels: str) -> float:
    """One sample."""
    return samples[name, frozenset(labels.items())]


def fetched(port: int, path: str, method: str = "GET", headers: Mapping[str, str] | None = None) -> tuple[int, str]:
    """Status and body of one request over TCP."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def expression(alert: str) -> str:
    """What the shipped rules watch."""
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return next(str(rule["expr"]) for rule in rules if rule["alert"] == alert)


def holds(alert: str, *scrapes: Samples) -> bool:
    """Whether the alert's expression is true after these scrapes, half a minute apart."""
    database = promql.Database()
    for n, samples in enumerate(scrapes):
        for (name, labels), number in samples.items():
            database.add(name, {**dict(labels), "job": "leasehold", "instance": "here"}, 30.0 * n, number)
    return bool(promql.evaluate(expression(alert), database, 30.0 * (len(scrapes) - 1)))


@pytest.fixture
def port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def test_a_scrape_tells_what_the_agent_does(run_agent: RunAgent, place: Path, database: Database) -> None:
    """R002-015, R003-080, R003-082 to R003-087: each figure is what the agent's other answers say."""
    agent = run_agent(document(place, database, default_ttl="1h")).wait_ready()
    credential = agent.read(ROLE)
    agent.ask(f"/v1/{ROLE}", headers={"If-None-Match": f'W/"{credential.generation}"'})
    first = scrape(agent)
    agent.ask(f"/v1/{ROLE}/rotate", method="POST", body={})
    assert eventually(lambda: agent.role(ROLE)["generation"] not in (None, credential.generation))
    time.sleep(1.0)  # a scrape is answered from the last one for a second

    samples = scrape(agent)

    role, call = {"role": ROLE}, {"role": ROLE, "upstream": "postgresql"}
    health = agent.role(ROLE)
    assert value(samples, "leasehold_started") == value(samples, "leasehold_ready") == 1
    assert value(samples, "leasehold_live") == 1
    assert value(samples, "leasehold_degraded") == 0
    assert abs(value(samples, "leasehold_lease_remaining_seconds", **role) - health["remaining"]) < 2
    assert value(samples, "leasehold_lease_ttl_seconds", **role) == 3600
    assert value(samples, "leasehold_lease_overlap_seconds", **role) == 900
    assert value(samples, "leasehold_generation", **role) == health["generation"]
    assert value(samples, "leasehold_lease_verified", **role) == 1
    assert value(samples, "leasehold_role_phase", phase="fresh", **role) == 1
    assert value(samples, "leasehold_role_phase", phase="failing", **role) == 0
    assert value(samples, "leasehold_replacements_total", **role) == 1
    assert value(samples, "leasehold_leases", state="published", **role) == 1
    assert value(samples, "leasehold_leases", state="draining", **role) == health["draining"] == 1
    assert value(samples, "leasehold_leases_unrevoked", **role) == 0
    assert value(samples, "leasehold_issues_total", outcome="ok", **call) == 2
    assert value(samples, "leasehold_issues_total", outcome="failed", **call) == 0
    assert value(samples, "leasehold_verifications_total", outcome="ok", **call) == 2
    issued = {"upstream": "postgresql", "operation": "issue"}
    assert value(samples, "leasehold_upstream_call_duration_seconds_count", **issued) == 2
    assert value(samples, "leasehold_upstream_call_duration_seconds_bucket", le="+Inf", **issued) == 2
    assert value(samples, "leasehold_circuit_open", upstream="postgresql") == 0
    assert value(samples, "leasehold_sweeps_total", upstream="postgresql", outcome="failed") == 0
    assert value(samples, "leasehold_reads_total", outcome="served", **role) == 1
    assert value(samples, "leasehold_reads_total", outcome="unchanged", **role) == 1
    assert value(samples, "leasehold_renders_total", path=str(agent.file), outcome="ok") >= 2
    assert value(samples, "leasehold_connections", listener="unix") >= 1
    assert value(samples, "process_resident_memory_bytes") > 10e6
    assert value(samples, "process_open_fds") > 3
    assert value(samples, "leasehold_threads") >= 1
    assert value(first, "leasehold_replacements_total", **role) == 0
    for shown in (credential, agent.read(ROLE)):
        text = agent.ask("/metrics").text
        assert not any(secret in text for secret in (shown.password, shown.username, shown.lease_id))


def test_the_scrape_has_every_metric_of_the_catalogue_and_no_other(
    run_agent: RunAgent, place: Path, database: Database
) -> None:
    agent = run_agent(document(place, database)).wait_ready()

    text = agent.ask("/metrics").text
    strict = agent.ask("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0;q=0.5,*/*;q=0.1"})

    kinds = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}": family.type
        for family in plain(text)
        if not family.name.startswith("process_")
    }
    assert kinds == {metric.name: metric.kind.value for metric in catalogue.ALL}
    assert strict.headers["content-type"].startswith("application/openmetrics-text")
    assert {family.name for family in openmetrics(strict.text)} == {family.name for family in plain(text)}


@as_root
def test_metrics_on_the_socket_are_for_operators(run_agent: RunAgent, place: Path, database: Database) -> None:
    told: dict[str, Any] = document(place, database, allow=["any"])
    told["listener"]["unix"]["socket_mode"] = "0666"
    agent = run_agent(told).wait_ready()

    with as_uid(12345):
        refused, read = agent.ask("/metrics"), agent.ask(f"/v1/{ROLE}")

    assert (refused.status, read.status) == (403, 200)
    assert 'add "uid:12345" to allow_admin' in refused.error


def test_the_health_port_answers_probes_and_nothing_else(
    run_agent: RunAgent, place: Path, database: Database, port: int
) -> None:
    told = document(place, database, allow=["any"])
    told["listener"]["health"] = {"address": f"127.0.0.1:{port}"}
    agent = run_agent(told).wait_ready()
    everything = (
        *(f"/v1/{ROLE}", f"/v1/{ROLE}/", f"/v1/{ROLE}/rotate", f"http://127.0.0.1/v1/{ROLE}", f"//v1/{ROLE}"),
        *("/v1/sys/health", "/v1/sys/leases", "/v1/sys/leases/stats", "/v1/%64atabase/creds/app", "/metrics", "/"),
        *("/startupz/../v1/sys/health", "/readyz/", "/READYZ", "/livez%00", "*"),
    )

    assert [fetched(port, f"/{name}")[0] for name in ("startupz", "readyz", "livez")] == [200, 200, 200]
    assert fetched(port, "/readyz?verbose", "HEAD") == (200, "")
    assert fetched(port, "/readyz", "POST")[0] == 405
    for path in everything:
        for method in ("GET", "POST"):
            status, body = fetched(port, path, method)
            assert status in (400, 404), (method, path)
            assert agent.read(ROLE).password not in body
            assert "creds" not in body, "no role's name"


def test_the_health_port_gives_metrics_where_it_is_told_to(
    run_agent: RunAgent, place: Path, database: Database, port: int
) -> None:
    told = document(place, database)
    told["listener"]["health"] = {"address": f"127.0.0.1:{port}", "metrics": True}
    agent = run_agent(told).wait_ready()

    status, text = fetched(port, "/metrics")

    assert status == 200
    assert value(scraped(text), "leasehold_connections", listener="health") == 1
    assert value(scraped(text), "leasehold_ready") == 1
    secret = agent.read(ROLE)
    assert not any(each in text for each in (secret.password, secret.username, secret.lease_id))


def test_the_health_port_says_that_the_agent_is_not_ready_until_the_agent_is_gone(
    run_agent: RunAgent, place: Path, own_cluster: StartCluster, tmp_path: Path, port: int
) -> None:
    cluster = own_cluster()
    told = document(place, create_database(cluster, tmp_path))
    told["agent"]["stop_timeout"] = "3s"
    told["listener"]["health"] = {"address": f"127.0.0.1:{port}"}
    agent = run_agent(told).wait_ready()
    assert fetched(port, "/readyz")[0] == 200

    cluster.pause()  # so that the revocation takes its time
    agent.send(signal.SIGTERM)

    assert eventually(lambda: not agent.socket.exists())
    assert (fetched(port, "/readyz")[0], fetched(port, "/livez")[0]) == (503, 200)
    assert agent.wait() == 6
    with pytest.raises(OSError, match="refused"):
        fetched(port, "/livez")


def test_two_agents_cannot_share_a_health_port(run_agent: RunAgent, place: Path, database: Database, port: int) -> None:
    told = document(place, database)
    told["listener"]["health"] = {"address": f"127.0.0.1:{port}"}
    run_agent(told).wait_ready()
    again = {**told, "listener": {**told["listener"], "unix": {"address": str(place / "second.sock")}}}

    second = run_agent(again)

    assert second.wait() == 3
    assert f"health port 127.0.0.1:{port}: Address already in use; choose another" in second.stderr
    assert not (place / "second.sock").exists()


@pytest.mark.timeout(150)
def test_a_database_that_is_away_shows_and_so_do_the_leases_that_it_keeps(
    run_agent: RunAgent, place: Path, own_cluster: StartCluster, tmp_path: Path
) -> None:
    """R003-090, R003-091, R003-111, R000-016: degraded, circuit and piling leases rise with the outage and fall."""
    cluster = own_cluster()
    database = create_database(cluster, tmp_path)
    told = document(place, database, default_ttl="5s", max_ttl="15s")
    agent = run_agent(told).wait_ready()
    before = scrape(agent)
    upstream, role = {"upstream": "postgresql"}, {"role": ROLE}
    assert not holds("LeaseholdExpiredLeasesPilingUp", before)
    assert not holds("LeaseholdDatabaseUnusable", before)

    cluster.kill()
    assert eventually(lambda: value(scrape(agent), "leasehold_circuit_open", **upstream) == 1)
    assert eventually(lambda: value(scrape(agent), "leasehold_leases_unrevoked", **role) > 0)
    during = scrape(agent)
    health = agent.health()

    assert value(during, "leasehold_degraded") == 1
    assert value(during, "leasehold_live") == 1, "no outage is the agent's own"
    assert value(during, "leasehold_ready") == 0
    assert value(during, "leasehold_leases_expired_total", **role) == 1
    assert value(during, "leasehold_role_failures", **role) > 0
    assert value(during, "leasehold_renewals_total", outcome="failed", **role, **upstream) > 0
    assert (health["degraded"], health["upstreams"][0]["healthy"]) == (True, False)
    assert holds("LeaseholdExpiredLeasesPilingUp", before, during)
    assert holds("LeaseholdDatabaseUnusable", before, during)
    assert holds("LeaseholdNotReady", during)
    assert holds("LeaseholdRoleWithoutCredential", during)
    assert holds("LeaseholdRenewalsFailing", before, during)

    cluster.start()
    assert eventually(lambda: agent.probe("readyz") == 200, within=60)
    assert eventually(lambda: value(scrape(agent), "leasehold_leases_unrevoked", **role) == 0, within=60)
    after = scrape(agent)

    assert value(after, "leasehold_circuit_open", **upstream) == 0
    assert not holds("LeaseholdExpiredLeasesPilingUp", during, after)
    assert not holds("LeaseholdNotReady", after)
    assert eventually(lambda: not agent.health()["degraded"])
