"""As much of PromQL as the shipped alerts use, and promtool's rule tests over it: Prometheus itself is on few machines.

Where promtool is installed, the tests run it on the same files, so that this cannot drift from it.
"""

import itertools
import math
import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
Value = float | Vector

LOOKBACK = 300.0
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_TOKEN = re.compile(
    r'\s*(?:(?P<number>\d+(?:\.\d+)?(?![\w]))|(?P<duration>\d+[smhd])|(?P<name>[a-zA-Z_:][\w:]*)|(?P<string>"[^"]*")'
    r"|(?P<sign>==|!=|=~|!~|>=|<=|[-+*/><=(){}\[\],]))"
)
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_MATCHERS: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    "!~": lambda value, wanted: re.fullmatch(wanted, value) is None,
}


@dataclass
class Database:
    """Series: by their labels, `__name__` among them, their samples as (time, value) in order."""

    series: dict[Labels, list[tuple[float, float]]] = field(default_factory=dict)

    def add(self, name: str, labels: Mapping[str, str], at: float, value: float) -> None:
        """One more sample."""
        self.series.setdefault(frozenset({("__name__", name), *labels.items()}), []).append((at, value))


def evaluate(expression: str, database: Database, at: float) -> Value:
    """What the expression means at that time.

    Raises:
        ValueError: it uses what this does not know.
    """
    parser = _Parser(expression, database, at)
    value = parser.alternatives()
    parser.end()
    return value


def names(expression: str) -> dict[str, set[str]]:
    """The metrics that an expression reads, with the labels that it names of each in braces."""
    found: dict[str, set[str]] = {}
    for metric, braces in re.findall(r"\b((?:leasehold|process)_\w+)(\{[^}]*\})?", expression):
        found.setdefault(metric, set()).update(re.findall(r"(\w+)\s*[=!]", braces))
    return found


class _Parser:
    def __init__(self, text: str, database: Database, at: float) -> None:
        self._tokens = [*_tokens(text), ("end", "")]
        self._next = 0
        self._database = database
        self._at = at

    # -- tokens -----------------------------------------------------------------------------------------------------

    def _sees(self, *texts: str) -> bool:
        kind, text = self._tokens[self._next]
        return text in texts and kind != "string"

    def _take(self, kind: str = "") -> str:
        found, text = self._tokens[self._next]
        if kind not in ("", found):
            raise ValueError(f"a {kind} was expected, not {text!r}")
        self._next += 1
        return text

    def _expect(self, *texts: str) -> str:
        if not self._sees(*texts):
            raise ValueError(f"{texts} was expected, not {self._tokens[self._next][1]!r}")
        return self._take()

    def end(self) -> None:
        self._take("end")

    # -- from the weakest binding to the strongest ------------------------------------------------------------------

    def alternatives(self) -> Value:
        left = self._comparison()
        while self._sees("or"):
            self._take()
            right = self._comparison()
            if not isinstance(left, dict) or not isinstance(right, dict):
                raise ValueError("`or` joins vectors")
            left = {**right, **left}
        return left

    def _comparison(self) -> Value:
        left = self._sum()
        if not self._sees(*_COMPARISONS):
            return left
        holds = _COMPARISONS[self._take()]
        right = self._sum()
        if not isinstance(left, dict):
            raise ValueError("a vector is compared")
        pairs = _matched(left, right)
        return {labels: value for labels, value, other in pairs if holds(value, other)}

    def _sum(self) -> Value:
        left = self._product()
        while self._sees("+", "-"):
            work = {"+": operator.add, "-": operator.sub}[self._take()]
            left = _combined(left, self._product(), work)
        return left

    def _product(self) -> Value:
        left = self._atom()
        while self._sees("*", "/"):
            work = {"*": operator.mul, "/": _divide}[self._take()]
            left = _combined(left, self._atom(), work)
        return left

    def _atom(self) -> Value:
        kind, text = self._tokens[self._next]
        if kind == "number":
            return float(self._take())
        if self._sees("("):
            self._take()
            value = self.alternatives()
            self._expect(")")
            return value
        if self._sees("sum", "max"):
            return self._aggregation()
        if self._sees("increase"):
            return self._increase()
        if self._sees("time"):
            self._take()
            self._expect("(")
            self._expect(")")
            return self._at
        if kind != "name":
            raise ValueError(f"{text!r} is not known here")
        return self._instant(*self._selector())

    def _aggregation(self) -> Vector:
        total = self._take() == "sum"
        self._expect("by")
        self._expect("(")
        kept = [self._take("name")]
        while self._sees(","):
            self._take()
            kept.append(self._take("name"))
        self._expect(")")
        self._expect("(")
        vector = self.alternatives()
        self._expect(")")
        if not isinstance(vector, dict):
            raise ValueError("an aggregation is of a vector")
        groups: dict[Labels, list[float]] = {}
        for labels, value in vector.items():
            groups.setdefault(frozenset(each for each in labels if each[0] in kept), []).append(value)
        return {labels: math.fsum(values) if total else max(values) for labels, values in groups.items()}

    def _increase(self) -> Vector:
        self._take()
        self._expect("(")
        name, matchers = self._selector()
        self._expect("[")
        span = seconds(self._take("duration"))
        self._expect("]")
        self._expect(")")
        found: Vector = {}
        for labels, samples in self._select(name, matchers):
            inside = [sample for sample in samples if self._at - span <= sample[0] <= self._at]
            if len(inside) >= 2:
                found[_unnamed(labels)] = _grown(inside, self._at - span, self._at)
        return found

    def _selector(self) -> tuple[str, list[tuple[str, str, str]]]:
        name, matchers = self._take("name"), []
        if self._sees("{"):
            while not self._sees("}"):
                self._take()  # the brace, or a comma
                label, sign = self._take("name"), self._expect(*_MATCHERS)
                matchers.append((label, sign, self._take("string")[1:-1]))
            self._take()
        return name, matchers

    def _select(
        self, name: str, matchers: list[tuple[str, str, str]]
    ) -> Iterator[tuple[Labels, list[tuple[float, float]]]]:
        for labels, samples in self._database.series.items():
            values = dict(labels)
            if values["__name__"] == name and all(_MATCHERS[s](values.get(n, ""), wanted) for n, s, wanted in matchers):
                yield labels, samples

    def _instant(self, name: str, matchers: list[tuple[str, str, str]]) -> Vector:
        found: Vector = {}
        for labels, samples in self._select(name, matchers):
            before = bisect_right(samples, (self._at, math.inf)) - 1
            if before >= 0 and self._at - samples[before][0] <= LOOKBACK:
                found[labels] = samples[before][1]
        return found


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at = 0
    text = text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise ValueError(f"not understood: {text[at : at + 20]!r}")
        yield str(found.lastgroup), found[str(found.lastgroup)]
        at = found.end()


def seconds(duration: str) -> float:
    """`5m` as seconds."""
    return float(duration[:-1]) * _UNITS[duration[-1]]


def _unnamed(labels: Labels) -> Labels:
    return frozenset(each for each in labels if each[0] != "__name__")


def _divide(one: float, other: float) -> float:
    if other == 0:
        return math.nan if one == 0 else math.copysign(math.inf, one)
    return one / other


def _matched(left: Vector, right: Value) -> list[tuple[Labels, float, float]]:
    if not isinstance(right, dict):
        return [(labels, value, right) for labels, value in left.items()]
    others = {_unnamed(labels): value for labels, value in right.items()}
    return [(n, value, others[_unnamed(n)]) for n, value in left.items() if _unnamed(n) in others]


def _combined(left: Value, right: Value, work: Callable[[float, float], float]) -> Value:
    if isinstance(left, dict):
        return {_unnamed(labels): work(value, other) for labels, value, other in _matched(left, right)}
    if isinstance(right, dict):
        return {_unnamed(labels): work(left, value) for labels, value in right.items()}
    return work(left, right)


def _grown(samples: Sequence[tuple[float, float]], begin: float, end: float) -> float:
    """A counter's increase over the range, extrapolated to its edges as Prometheus does."""
    values = [value for _, value in samples]
    grown = math.fsum(b - a if b >= a else b for a, b in itertools.pairwise(values))
    (first, value), (last, _) = samples[0], samples[-1]
    seen = last - first
    step = seen / (len(samples) - 1)
    ahead, behind = first - begin, end - last
    if grown > 0 and value >= 0:
        ahead = min(ahead, seen * value / grown)  # a counter was not below zero
    reach = seen + sum(edge if edge < 1.1 * step else step / 2 for edge in (ahead, behind))
    return grown * reach / seen


# -- promtool's tests ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Alert:
    """One alert that fires."""

    labels: Mapping[str, str]
    annotations: Mapping[str, str]


def written(text: str) -> list[float | None]:
    """The values that a test writes as `0+1x3 _ 7x2`."""
    values: list[float | None] = []
    for word in text.split():
        found = re.fullmatch(r"(_|-?\d+(?:\.\d+)?)(?:([+-]\d+(?:\.\d+)?))?(?:x(\d+))?", word)
        if found is None:
            raise ValueError(f"{word!r} is no series of values")
        times = int(found[3]) if found[3] else 0
        start, step = (None if found[1] == "_" else float(found[1])), float(found[2] or 0)
        count = times if start is None and found[3] else times + 1
        values += [None if start is None else start + step * n for n in range(count)]
    return values


def filled(test: Mapping[str, Any]) -> Database:
    """A test's input series."""
    database = Database()
    step = seconds(test["interval"])
    for one in test["input_series"]:
        name, _, braces = one["series"].partition("{")
        labels = dict(re.findall(r'(\w+)="([^"]*)"', braces))
        for n, value in enumerate(written(one["values"])):
            if value is not None:
                database.add(name, labels, n * step, value)
    return database


def firing(rule: Mapping[str, Any], database: Database, at: float, every: float) -> list[Alert]:
    """The alerts of a rule that fire at that time, evaluated from 0 on."""
    active: dict[Labels, float] = {}
    now = 0.0
    while now <= at:
        found = evaluate(rule["expr"], database, now)
        if not isinstance(found, dict):
            raise ValueError("an alert is a vector")
        active = {labels: active.get(labels, now) for labels in map(_unnamed, found)}
        now += every
    hold = seconds(rule.get("for", "0s"))
    return [
        Alert(
            labels={**dict(labels), **rule["labels"]},
            annotations={name: _expanded(text, dict(labels)) for name, text in rule["annotations"].items()},
        )
        for labels, since in active.items()
        if now - every - since >= hold
    ]


def _expanded(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{\s*\$labels\.(\w+)\s*}}", lambda found: labels[found[1]], text)
