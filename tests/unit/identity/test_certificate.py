"""Client certificates: looked at before the handshake, which would not say what is wrong."""

import shutil
import subprocess
import time
from pathlib import Path

import pytest

from agent.config.upstreams import Vault
from agent.errors import NoIdentity
from agent.identity.proof import Identity
from tests.fakes import FakeClock
from tests.unit.identity.builders import identity

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make certificates with")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate of one day, its key, and the key with a passphrase."""
    place = tmp_path_factory.mktemp("certificates")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    _openssl(
        place, "req", "-x509", *curve, "-nodes", "-subj", "/CN=pod", "-days", "1", "-keyout", "key", "-out", "cert"
    )
    _openssl(place, "pkcs8", "-topk8", "-in", "key", "-out", "locked", "-passout", "pass:x", "-v2", "aes-256-cbc")
    return place


def _openssl(place: Path, *argv: str) -> None:
    subprocess.run(["openssl", *argv], cwd=place, check=True, capture_output=True)


def _cert(made: Path, key: str = "key", certificate: str = "cert", *, ahead: float = 0.0) -> Identity:
    clock = FakeClock(wall=time.time() + ahead)
    return identity("cert", clock, name="pod", client_cert=str(made / certificate), client_key=str(made / key))


async def test_the_login_names_the_files_to_show_and_the_role(made: Path) -> None:
    subject = _cert(made)

    proof = await subject.prove()

    assert (proof.path, proof.body) == ("auth/cert/login", {"name": "pod"})
    assert proof.certificate == (str(made / "cert"), str(made / "key"))
    assert subject.binding


async def test_the_servers_own_client_certificate_stands_in_where_none_is_given(made: Path) -> None:
    server = Vault(address="https://vault:8200", client_cert=str(made / "cert"), client_key=str(made / "key"))

    proof = await identity("cert", FakeClock(wall=time.time()), server=server).prove()

    assert (proof.body, proof.certificate) == ({}, (str(made / "cert"), str(made / "key")))


async def test_certificate_and_key_may_stand_in_one_file(made: Path, tmp_path: Path) -> None:
    both = tmp_path / "both"
    both.write_text((made / "key").read_text() + (made / "cert").read_text())

    assert (await _cert(tmp_path, "both", "both").prove()).certificate == (str(both), str(both))


async def test_a_certificate_that_has_ended_says_how_long_ago(made: Path) -> None:
    with pytest.raises(NoIdentity, match=r"the client certificate .*/cert ended 3 h ago; have one issued there"):
        await _cert(made, ahead=86400 + 3 * 3600).prove()


async def test_the_end_of_another_certificate_in_the_chain_is_the_servers_to_judge(made: Path, tmp_path: Path) -> None:
    """Only the first is the client's own; an old issuer may stand there for other servers' sake."""
    broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    (tmp_path / "cert").write_text((made / "cert").read_text() + broken)
    shutil.copy(made / "key", tmp_path)

    assert (await _cert(tmp_path).prove()).certificate is not None


@pytest.mark.parametrize(
    ("certificate", "key", "reason"),
    [
        ("gone", "key", "the client certificate .*/gone is not there"),
        ("cert", "gone", "the client key .*/gone is not there"),
        ("key", "key", r"the client certificate .*/key holds no certificate that can be read \(PEM\)"),
        ("cert", "cert", r"the client key .*/cert holds no private key \(PEM\)"),
        ("cert", "locked", "the client key .*/locked needs a passphrase, which nobody is here to type"),
    ],
)
async def test_what_is_of_no_use_is_named(made: Path, certificate: str, key: str, reason: str) -> None:
    with pytest.raises(NoIdentity, match=reason):
        await _cert(made, key, certificate).prove()
