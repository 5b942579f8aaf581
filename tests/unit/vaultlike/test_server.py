"""The in-tree server beside Vault's wire: faults, its log, its process, and engines that the wire suite leaves out."""

import http.client
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import SSHCertificate, load_ssh_public_identity

from tests.vaultlike import VaultLike


@pytest.fixture
def server() -> Iterator[VaultLike]:
    """Up, and fresh."""
    with VaultLike() as one:
        yield one


def ask(
    port: int, method: str, path: str, body: object = None, token: str | None = "root", timeout: float = 10.0
) -> tuple[int, dict[str, Any]]:
    """Status and body, on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, f"/v1/{path}", content, {"X-Vault-Token": token} if token else {})
        response = connection.getresponse()
        raw = response.read()
        return response.status, json.loads(raw) if raw.strip() else {}
    finally:
        connection.close()


# -- faults ----------------------------------------------------------------------------------------------------------


def test_a_scripted_status_is_given_as_often_as_said_and_only_there(server: VaultLike):
    server.fault("sys/mounts", status=429, body={"errors": ["slow"]}, headers={"Retry-After": "7"}, times=1)

    assert ask(server.port, "GET", "auth/token/lookup-self")[0] == 200
    assert ask(server.port, "GET", "sys/mounts") == (429, {"errors": ["slow"]})
    assert ask(server.port, "GET", "sys/mounts")[0] == 200


def test_a_fault_is_taken_away_again(server: VaultLike):
    server.fault(status=500, body="<html>")
    server.fault("sys/mounts", status=502)
    server.clear("")

    assert ask(server.port, "GET", "auth/token/lookup-self")[0] == 200
    assert ask(server.port, "GET", "sys/mounts")[0] == 502
    server.clear()
    assert ask(server.port, "GET", "sys/mounts")[0] == 200


def test_a_reset_is_a_reset(server: VaultLike):
    server.fault(reset=True)

    with pytest.raises(ConnectionResetError):
        ask(server.port, "GET", "sys/mounts")


def test_a_hang_gives_nothing_and_keeps_the_connection(server: VaultLike):
    server.fault(hang=True)

    with pytest.raises(TimeoutError):
        ask(server.port, "GET", "sys/mounts", timeout=0.2)


def test_raw_bytes_are_sent_as_they_are(server: VaultLike):
    server.fault(raw=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")

    with pytest.raises(json.JSONDecodeError):
        ask(server.port, "GET", "sys/mounts")


def test_an_answer_is_cut_off(server: VaultLike):
    server.fault(cut=10)

    with pytest.raises(http.client.IncompleteRead) as cut:
        ask(server.port, "GET", "sys/mounts")
    assert len(cut.value.partial) == 10


def test_what_was_asked_is_done_although_the_answer_is_lost(server: VaultLike):
    ask(server.port, "POST", "sys/mounts/kv", {"type": "kv"})
    server.fault("kv/a", reset=True, after=True, times=1)

    with pytest.raises(ConnectionResetError):
        ask(server.port, "POST", "kv/a", {"x": "1"})

    assert ask(server.port, "GET", "kv/a")[1]["data"] == {"x": "1"}


# -- the log ---------------------------------------------------------------------------------------------------------


def test_the_log_tells_who_asked_what_and_shows_no_token(server: VaultLike):
    accessor = ask(server.port, "GET", "auth/token/lookup-self")[1]["data"]["accessor"]
    server.forget()

    ask(server.port, "POST", "sys/leases/renew", {"lease_id": "database/creds/app/x"})
    ask(server.port, "GET", "sys/mounts", token="wrong")

    renewal, stranger = server.requests()
    assert (renewal.method, renewal.path, renewal.status) == ("POST", "sys/leases/renew", 400)
    assert (renewal.accessor, renewal.body) == (accessor, {"lease_id": "database/creds/app/x"})
    assert (stranger.accessor, stranger.status) == ("", 403)
    assert "root" not in str(renewal.headers)
    assert server.requests("sys/mounts", "GET") == [stranger]


# -- up and down -----------------------------------------------------------------------------------------------------


def test_what_it_knows_outlives_a_stop_and_what_ended_meanwhile_ends_at_the_start(server: VaultLike):
    ask(server.port, "POST", "sys/mounts/kv", {"type": "kv"})
    ask(server.port, "POST", "kv/a", {"x": "1"})
    body = {"policies": ["default"], "ttl": "1h"}
    token = ask(server.port, "POST", "auth/token/create", body)[1]["auth"]["client_token"]

    server.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(server.port, "GET", "kv/a")
    server.start()

    assert ask(server.port, "GET", "kv/a")[1]["data"] == {"x": "1"}
    assert ask(server.port, "GET", "auth/token/lookup-self", token=token)[0] == 200


def test_a_process_of_it_is_scripted_over_its_own_port():
    command = [sys.executable, "-m", "tests.vaultlike", "--root-token", "admin"]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline().rsplit(":", 1)[1])
            fault = {"prefix": "sys/mounts", "status": 500, "body": {"errors": ["scripted"]}}

            assert ask(port, "POST", "control/faults", fault, token="root")[0] == 403
            assert ask(port, "POST", "control/faults", fault, token="admin")[0] == 204
            assert ask(port, "GET", "sys/mounts", token="admin") == (500, {"errors": ["scripted"]})
            assert ask(port, "DELETE", "control/faults", token="admin")[0] == 204
            assert ask(port, "GET", "sys/mounts", token="admin")[0] == 200
            seen = ask(port, "GET", "control/requests", token="admin")[1]["data"]
            assert [(one["path"], one["status"]) for one in seen] == [("sys/mounts", 500), ("sys/mounts", 200)]
        finally:
            process.terminate()
    assert process.returncode == 0


# -- engines that issue on writing -----------------------------------------------------------------------------------


def pki(server: VaultLike, **role: Any) -> None:
    """A mount `pki` with the role `web`."""
    ask(server.port, "POST", "sys/mounts/pki", {"type": "pki"})
    ask(server.port, "POST", "pki/root/generate/internal", {"common_name": "root", "ttl": "24h"})
    ask(server.port, "POST", "pki/roles/web", {"allowed_domains": "example.com", "allow_subdomains": True, **role})


def test_a_certificate_is_issued_without_a_lease_and_says_when_it_ends(server: VaultLike):
    pki(server, key_type="ec", ttl="1h")

    status, body = ask(server.port, "POST", "pki/issue/web", {"common_name": "a.example.com", "ttl": "60s"})

    made = x509.load_pem_x509_certificate(body["data"]["certificate"].encode())
    root = x509.load_pem_x509_certificate(body["data"]["issuing_ca"].encode())
    key = serialization.load_pem_private_key(body["data"]["private_key"].encode(), None)
    made.verify_directly_issued_by(root)
    assert (status, body["lease_id"], body["lease_duration"]) == (200, "", 0)
    assert body["data"]["expiration"] == int(made.not_valid_after_utc.timestamp())
    assert key.public_key() == made.public_key()


def test_a_role_may_lease_its_certificates_which_cannot_be_renewed(server: VaultLike):
    pki(server, key_type="ec", ttl="60s", generate_lease=True)

    body = ask(server.port, "POST", "pki/issue/web", {"common_name": "a.example.com"})[1]

    assert (body["renewable"], body["lease_duration"]) == (False, 60)
    renewal = ask(server.port, "POST", "sys/leases/renew", {"lease_id": body["lease_id"]})
    assert renewal == (400, {"errors": ["lease is not renewable"]})


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"common_name": "example.org"}, "common name example.org not allowed by this role"),
        ({}, "the common_name field is required"),
        ({"common_name": "a.example.com", "ttl": "100h"}, "beyond the expiration of the CA certificate"),
    ],
)
def test_a_certificate_that_the_role_does_not_allow_is_refused(server: VaultLike, asked: dict[str, str], said: str):
    pki(server, key_type="ec")

    status, body = ask(server.port, "POST", "pki/issue/web", asked)

    assert (status, said in body["errors"][0]) == (400, True)


def test_a_public_key_is_signed_for_a_login_name(server: VaultLike):
    ask(server.port, "POST", "sys/mounts/ssh", {"type": "ssh"})
    ca = ask(server.port, "POST", "ssh/config/ca", {"generate_signing_key": True})[1]["data"]["public_key"]
    ask(server.port, "POST", "ssh/roles/app", {"key_type": "ca", "default_user": "app", "ttl": "5m"})
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    public = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(*form).decode()

    body = ask(server.port, "POST", "ssh/sign/app", {"public_key": public, "valid_principals": "deploy"})[1]

    signed = load_ssh_public_identity(body["data"]["signed_key"].encode())
    assert isinstance(signed, SSHCertificate)
    signed.verify_cert_signature()
    assert signed.valid_principals == [b"deploy"]
    assert signed.signature_key().public_bytes(*form).decode() == ca.strip()
    assert signed.valid_before - signed.valid_after == 330
    assert (body["lease_id"], body["lease_duration"]) == ("", 0)


def test_a_one_time_password_is_leased(server: VaultLike):
    ask(server.port, "POST", "sys/mounts/ssh", {"type": "ssh"})
    ask(server.port, "POST", "ssh/roles/otp", {"key_type": "otp", "default_user": "app", "cidr_list": "127.0.0.0/8"})

    body = ask(server.port, "POST", "ssh/creds/otp", {"ip": "127.0.0.1"})[1]
    stranger = ask(server.port, "POST", "ssh/creds/otp", {"ip": "10.0.0.1"})

    assert (body["data"]["key_type"], body["data"]["username"], body["renewable"]) == ("otp", "app", False)
    assert body["lease_id"].startswith("ssh/creds/otp/")
    assert stranger == (400, {"errors": ["Error validating IP: IP does not belong to role"]})
