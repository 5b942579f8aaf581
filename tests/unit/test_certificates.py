"""When certificates end: read from files that openssl made, and from some that nobody should have made."""

import asyncio
import base64
import itertools
import os
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import structlog.testing

from agent.certificates import Certificates, first_end, first_end_in
from tests.fakes import FakeClock, settle

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")

DAY = 86400.0


EC = ("ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")


def certificate(directory: Path, name: str, days: int, kind: Sequence[str] = EC) -> str:
    """A PEM file's text."""
    subject = ("-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost")
    argv = ["openssl", "req", "-x509", "-newkey", *kind, "-nodes", *subject, "-days", str(days)]
    subprocess.run([*argv, "-keyout", "key", "-out", name], cwd=directory, check=True, capture_output=True)
    return (directory / name).read_text()


def pem(der: bytes) -> str:
    """A certificate's text."""
    return f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(der).decode()}\n-----END CERTIFICATE-----\n"


def said(path: Path) -> float:
    """The end in openssl's own words, as Unix time."""
    argv = ["openssl", "x509", "-in", str(path), "-noout", "-enddate"]
    text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.partition("=")[2].strip()
    return time.mktime(time.strptime(text, "%b %d %H:%M:%S %Y %Z")) - time.timezone


@pytest.mark.parametrize("days", [1, 365, 40_000])
@pytest.mark.parametrize("kind", [EC, ("rsa:2048",)], ids=["ec", "rsa"])
def test_the_end_is_the_one_that_openssl_reads(tmp_path: Path, days: int, kind: Sequence[str]) -> None:
    """Beyond 2049 the encoding of the instant is another (RFC 5280, 4.1.2.5)."""
    certificate(tmp_path, "cert", days, kind)

    assert first_end(tmp_path / "cert") == said(tmp_path / "cert")
    assert first_end(tmp_path / "cert") == pytest.approx(time.time() + days * DAY, abs=60)


def test_of_a_bundle_the_first_end_counts_whatever_stands_between(tmp_path: Path) -> None:
    texts = [certificate(tmp_path, name, days) for name, days in (("a", 30), ("b", 10), ("c", 20))]
    (tmp_path / "bundle").write_text("# comment\n" + "\nnot PEM\n".join([*texts, (tmp_path / "key").read_text()]))

    assert first_end(tmp_path / "bundle") == said(tmp_path / "b")


def test_what_is_cut_short_is_no_certificate(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificate(tmp_path, "cert", 1))

    for cut in range(len(der)):
        with pytest.raises(ValueError, match=r"\w"):
            first_end_in(pem(der[:cut]))


def test_a_pipe_in_the_files_place_holds_nobody_up(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "cert")

    with pytest.raises(OSError, match="is a pipe, not a file"):
        first_end(tmp_path / "cert")


@pytest.mark.parametrize("text", ["", "hello", pem(b"")[:-9], "-----BEGIN CERTIFICATE-----\nA\n-----END"])
def test_what_is_no_pem_is_no_certificate(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        first_end_in(text)


def test_no_byte_of_a_certificate_can_bring_another_error(tmp_path: Path) -> None:
    der = ssl.PEM_cert_to_DER_cert(certificate(tmp_path, "cert", 1))
    refused = 0

    for at, value in itertools.product(range(len(der)), (0x00, 0x7F, 0x80, 0x84, 0xFF)):
        try:
            first_end_in(pem(der[:at] + bytes([value]) + der[at + 1 :]))
        except ValueError:
            refused += 1

    assert refused > 100, "lengths and tags that are wrong are noticed"


async def test_files_are_looked_at_again_and_one_that_cannot_be_read_is_said_once(
    tmp_path: Path, clock: FakeClock
) -> None:
    await asyncio.to_thread(certificate, tmp_path, "cert", 10)
    name, lost = ("postgresql", "sslcert"), ("postgresql", "sslrootcert")
    watched = Certificates({name: str(tmp_path / "cert"), lost: str(tmp_path / "gone")}, clock)

    with structlog.testing.capture_logs() as lines:
        looking = asyncio.ensure_future(watched.run())
        await _until(lambda: bool(watched.ends))
        first = dict(watched.ends)
        await asyncio.to_thread(certificate, tmp_path, "cert", 90)
        await clock.advance(301)
        await _until(lambda: watched.ends != first)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)

    assert first == {name: pytest.approx(time.time() + 10 * DAY, abs=60)}
    assert watched.ends == {name: pytest.approx(time.time() + 90 * DAY, abs=60)}
    told: list[MutableMapping[str, Any]] = [line for line in lines if "warning" in line]
    assert [line["warning"] for line in told] == [
        f"postgresql.sslrootcert: {tmp_path}/gone: No such file or directory; its end cannot be watched"
    ]


async def test_without_files_nothing_runs(clock: FakeClock) -> None:
    looking = asyncio.ensure_future(Certificates({}, clock).run())
    await settle()

    assert looking.done()


async def _until(holds: Any) -> None:
    """Let a thread do its work."""
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.to_thread(lambda: None)
            await settle()


async def test_without_a_thread_what_was_read_last_still_holds(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate(tmp_path, "cert", 10)
    looking = Certificates({("db", "sslcert"): str(tmp_path / "cert")}, clock)
    task = asyncio.create_task(looking.run())
    await asyncio.sleep(0.1)
    known = looking.ends

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with structlog.testing.capture_logs() as lines:
        await clock.advance(301)
        await settle()
    alive = not task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

    assert alive
    assert looking.ends == known != {}
    assert [line["warning"] for line in lines] == [
        "certificates: no thread to be had (pids limit?); their ends cannot be watched"
    ]
