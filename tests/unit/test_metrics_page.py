"""docs/metrics.md cannot lie: it has every metric there is, with its type and labels, and no other."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from agent import catalogue
from agent.api.metrics import render
from agent.leases.cache import Phase
from tests.unit.test_alerts import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
ROWS = {
    name: (kind, tuple(re.findall(r"`(\w+)`", labels)))
    for name, kind, labels in re.findall(r"(?m)^\| `(\w+)` \| (\w+) \| ([^|]*)\| [^|]+ \|$", PAGE)
}


def test_the_page_has_every_metric_with_its_type_and_labels() -> None:
    ours = {name: row for name, row in ROWS.items() if name.startswith("leasehold_")}

    assert ours == {metric.name: (metric.kind.value, metric.labels) for metric in catalogue.ALL}


def test_the_page_has_what_the_process_tells_of_itself() -> None:
    body, _ = render([], openmetrics=False)
    told = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}": (family.type, ())
        for family in text_string_to_metric_families(body.decode())
        if family.name.startswith("process_")
    }

    assert {name: row for name, row in ROWS.items() if name.startswith("process_")} == told


def test_the_page_names_every_phase_and_state() -> None:
    for word in (*Phase, "published", "draining", "doomed"):
        assert f"`{word}`" in PAGE


def test_every_line_of_the_log_that_pages_and_alerts_send_to_exists() -> None:
    from agent.log import Event

    texts = PAGE + " ".join(rule["annotations"]["description"] for rule in RULES.values())
    named = set(re.findall(r"\b([a-z]+-(?:failed|jump))\b", texts)) | {"denied", "circuit"}

    assert named <= {event.value for event in Event}
