"""The shipped alerts say what they mean, read metrics that exist, and fire when they should (R003-088 to R003-091)."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import catalogue
from agent.meters import Kind
from tests import promql

PLACE = Path(__file__).parents[2] / "deploy" / "prometheus"
RULES: dict[str, Any] = {
    rule["alert"]: rule
    for group in yaml.safe_load((PLACE / "leasehold.rules.yaml").read_text())["groups"]
    for rule in group["rules"]
}
TESTS: dict[str, Any] = {
    test["name"]: test for test in yaml.safe_load((PLACE / "leasehold.tests.yaml").read_text())["tests"]
}
METRICS = {metric.name: metric for metric in catalogue.ALL}
GIVEN = {"job", "instance"}
"""Labels that Prometheus adds to whatever it scrapes."""


@pytest.mark.parametrize("name", TESTS)
def test_alerts_fire_when_they_should_and_only_then(name: str) -> None:
    test = TESTS[name]
    database = promql.filled(test)

    for case in test["alert_rule_test"]:
        found = promql.firing(RULES[case["alertname"]], database, promql.seconds(case["eval_time"]), 60.0)

        expected = [(each["exp_labels"], each["exp_annotations"]) for each in case["exp_alerts"]]
        assert [(alert.labels, alert.annotations) for alert in found] == expected, case


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool; it comes with Prometheus")
@pytest.mark.parametrize(
    "command", [("check", "rules", "leasehold.rules.yaml"), ("test", "rules", "leasehold.tests.yaml")]
)
def test_promtool_says_the_same(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PLACE, capture_output=True, text=True, timeout=50)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", RULES)
def test_every_alert_is_tested_both_ways(name: str) -> None:
    cases = [case for test in TESTS.values() for case in test["alert_rule_test"] if case["alertname"] == name]

    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


@pytest.mark.parametrize("name", RULES)
def test_an_alert_reads_metrics_and_labels_that_exist(name: str) -> None:
    rule = RULES[name]
    used = promql.names(rule["expr"])

    assert used
    assert used.keys() <= METRICS.keys()
    for metric, labels in used.items():
        assert labels <= set(METRICS[metric].labels)
        counted = f"increase({metric}" in rule["expr"]
        assert counted == (METRICS[metric].kind is Kind.COUNTER)
    known = GIVEN.union(*(METRICS[metric].labels for metric in used))
    grouped = {label for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(", ")}
    told = {label for text in rule["annotations"].values() for label in re.findall(r"\$labels\.(\w+)", text)}
    assert grouped <= known
    assert told <= (grouped or known)


@pytest.mark.parametrize("test", TESTS.values(), ids=TESTS)
def test_the_tests_use_series_as_they_are_exposed(test: dict[str, Any]) -> None:
    for one in test["input_series"]:
        name, _, braces = one["series"].partition("{")
        assert set(re.findall(r"(\w+)=", braces)) == GIVEN | set(METRICS[name].labels)


@pytest.mark.parametrize(
    "expression", ["rate(a[5m])", "a and b", "a > bool 1", "sum(a)", "a[5m]", "1 or 2", "a offset 5m"]
)
def test_what_the_evaluator_does_not_know_it_refuses(expression: str) -> None:
    with pytest.raises(ValueError, match=r"not|`or`|was expected"):
        promql.evaluate(expression, promql.Database(), 0.0)


def test_an_increase_reaches_to_the_edges_of_its_range_but_not_below_zero() -> None:
    database = promql.Database()
    for n in range(11):
        database.add("steady_total", {}, n * 60.0, 1000.0 + n)
        database.add("young_total", {}, n * 60.0, float(n))

    # Ten in 600 s; over 660 s the first reaches 60 s further back, while the second was zero at its first sample.
    assert promql.evaluate("increase(steady_total[11m])", database, 600.0) == {frozenset(): 11.0}
    assert promql.evaluate("increase(young_total[11m])", database, 600.0) == {frozenset(): 10.0}
