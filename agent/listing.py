"""Leases, and what happened to them, as tables for people: pure text from the mappings that --json prints.

A table fits 100 columns. What would make it wider loses its beginning, save for what people copy: ids and user names.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from agent.table import columns, seconds

WIDTH = 100
_LEAST = 8
_GAP = 2

Row = Mapping[str, Any]


def instant(wall: float) -> str:
    """Unix time as UTC in whole seconds."""
    return datetime.fromtimestamp(int(wall), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def leases(rows: Sequence[Row]) -> list[str]:
    """A line per lease."""
    if not rows:
        return ["no leases"]
    head = ("LEASE", "ROLE", "STATE", "ENDS IN", "OWNER")
    return _table(head, [_lease(row) for row in rows], elastic=(1, 4))


def _lease(row: Row) -> tuple[str, ...]:
    left = row["remaining"]
    ends = "-" if left is None else seconds(left) if left > 0 else f"{seconds(-left)} ago"
    return (row["lease_id"], row["role"], row["state"], ends, row["owner"])


def groups(rows: Sequence[Row], by: str) -> list[str]:
    """A line for each value of `by`, the one with most leases first: who lets them pile up."""
    if not rows:
        return ["no leases"]
    found: dict[str, dict[str, int]] = {}
    for row in rows:
        counts = found.setdefault(str(row[by]), {})
        counts[row["state"]] = counts.get(row["state"], 0) + 1
    states = sorted({row["state"] for row in rows})
    ranked = sorted(found.items(), key=lambda item: (-sum(item[1].values()), item[0]))
    head = (by.upper(), "LEASES", *(state.upper() for state in states))
    lines = [(name, str(sum(n.values())), *(str(n.get(state, 0)) for state in states)) for name, n in ranked]
    return _table(head, lines, elastic=(0,))


def acts(rows: Sequence[Row]) -> list[str]:
    """A line for each thing that happened."""
    if not rows:
        return ["nothing"]
    head = ("TIME", "WHAT", "FOR", "USER", "ROLE", "OWNER")
    lines = [
        (row["time"], row["what"], seconds(row["granted_ttl"]), row["user"], row["role"], row["owner"]) for row in rows
    ]
    return _table(head, lines, elastic=(4, 5))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], *, elastic: Sequence[int]) -> list[str]:
    """Aligned lines; the `elastic` columns give way, the widest first, where it would be too wide."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    while sum(widths) + _GAP * (len(widths) - 1) > WIDTH:
        widest = max(elastic, key=lambda i: widths[i])
        if widths[widest] <= _LEAST:
            break
        widths[widest] -= 1
    return columns([head, *([_fit(cell, widths[i]) for i, cell in enumerate(row)] for row in rows)])


def _fit(cell: str, width: int) -> str:
    return cell if len(cell) <= width else f"…{cell[len(cell) - width + 1 :]}"


def counts(found: Mapping[str, Any]) -> list[str]:
    """Numbers first, one per line; then a table for each that is broken down."""
    single = [(name, value) for name, value in found.items() if not isinstance(value, Mapping)]
    lines = columns([(_words(name), str(value)) for name, value in single]) if single else []
    for name, rows in found.items():
        if isinstance(rows, Mapping) and rows:
            lines += ["", *_broken_down(_words(name), rows)]
    return lines


def _broken_down(name: str, rows: Mapping[str, Any]) -> list[str]:
    if not all(isinstance(row, Mapping) for row in rows.values()):
        return _table((name.upper(), "LEASES"), [(each, str(count)) for each, count in rows.items()], elastic=(0,))
    heads = list(dict.fromkeys(key for row in rows.values() for key in row))
    lines = [(each, *(str(row.get(head, "-")) for head in heads)) for each, row in rows.items()]
    return _table((name.upper(), *(_words(head).upper() for head in heads)), lines, elastic=(0,))


def _words(name: str) -> str:
    return name.replace("_", " ")
