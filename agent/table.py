"""Health as a table for people: pure text from the JSON of `/v1/sys/health`."""

from collections.abc import Mapping, Sequence
from typing import Any

_FOOTNOTE = "* our login's end, which comes before the lease's own: each renewal of the login moves it on"
_COLUMNS = ("ROLE", "STATE", "LEFT", "NEXT", "IN", "DRAINING", "VERIFIED", "GENERATION")


def seconds(value: float | None) -> str:
    """A length of time as people read it; "-" for none."""
    if value is None:
        return "-"
    whole = int(value)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines with aligned columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _row(name: str, role: Mapping[str, Any]) -> tuple[str, ...]:
    retrying = role["retry_in"] is not None and role["error"]
    return (
        name,
        role["state"] if role["state"] != "none" else role["phase"],
        seconds(role["remaining"]) + ("*" if role.get("ends_with_login") else ""),
        "retry" if retrying else (role["next_step"] or "-"),
        seconds(role["retry_in"] if retrying else role["next_in"]),
        str(role["draining"]),
        {True: "yes", False: "no", None: "-"}[role["verified"]],
        str(role["generation"] or "-"),
    )


def health(report: Mapping[str, Any]) -> list[str]:
    """The lines of `leasehold status`."""
    answers = [word for word in ("started", "ready", "live") if report[word]]
    missing = [f"not {word}" for word in ("started", "ready", "live") if not report[word]]
    lines = [f"leasehold {report['version']}: {', '.join(answers + missing)}", ""]
    if report["roles"]:
        lines += columns([_COLUMNS, *(_row(name, role) for name, role in report["roles"].items())])
        if any(role.get("ends_with_login") for role in report["roles"].values()):
            lines.append(_FOOTNOTE)
    else:
        lines.append("no role that this uid may read")
    for name, role in report["roles"].items():
        if role["error"]:
            lines.append(f"{name}: {role['error']} ({role['failures']} failed in a row)")
    lines += [f"{file['path']}: {file['state']}{_why(file)}" for file in report["files"]]
    lines += [f"{up['name']}: does not answer" for up in report["upstreams"] if up["circuit"] == "open"]
    lines += [f"{up['name']}: {_login(up)}" for up in report["upstreams"] if "login" in up]
    return lines


def _login(upstream: Mapping[str, Any]) -> str:
    """One upstream's login in a line: how long it lasts and what comes next, or why there is none."""
    login = upstream["login"]
    how = login["method"] + (f" at {login['mount']}" if login["mount"] else "")
    left = login["expires_in"]
    if left is not None:
        said = f"logged in by {how} at {upstream['address']}, {seconds(left)} left"
    else:
        said = f"{'logging in' if login['phase'] == 'starting' else 'not logged in'} by {how} at {upstream['address']}"
    if login["error"]:
        retry = f"; next try in {seconds(login['retry_in'])}" if login["retry_in"] is not None else ""
        return f"{said}: {login['error']} ({login['failures']} failed in a row{retry})"
    if login["next_step"] and login["next_in"] is not None:
        said += f", {login['next_step']} in {seconds(login['next_in'])}"
    return said + (f", {login['draining']} older draining" if login["draining"] else "")


def _why(file: Mapping[str, Any]) -> str:
    return f" ({file['error']})" if file.get("error") else ""
