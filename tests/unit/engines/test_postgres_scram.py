"""Verifiers, checked against the arithmetic of the RFC done another way."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.engines.postgres.scram import ROUNDS, verifier

ASCII = st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=64)


def _client_is_accepted(password: str, stored: str) -> bool:
    """A whole SCRAM exchange as RFC 5802 has it, from the verifier alone on the server's side."""
    _, parameters, keys = stored.split("$")
    rounds, salt = parameters.split(":")
    stored_key, server_key = (base64.b64decode(key) for key in keys.split(":"))
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), base64.b64decode(salt), int(rounds))
    client_key = hmac.new(salted, b"Client Key", "sha256").digest()
    message = b"n=,r=nonce,r=nonce,s=salt,i=4096,c=biws,r=nonce"
    signature = hmac.new(hashlib.sha256(client_key).digest(), message, "sha256").digest()
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    expected = hmac.new(stored_key, message, "sha256").digest()
    recovered = bytes(a ^ b for a, b in zip(proof, expected, strict=True))
    knows_us = hmac.new(salted, b"Server Key", "sha256").digest() == server_key
    return hashlib.sha256(recovered).digest() == stored_key and knows_us


def test_the_verifier_of_the_rfc_7677_example_is_right():
    """User `user`, password `pencil`, the salt and rounds of RFC 7677, section 3; the server signature it lists."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    stored = verifier("pencil", salt=salt, rounds=4096)
    server_key = base64.b64decode(stored.rsplit(":", 1)[1])
    exchange = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
        b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )

    signature = hmac.new(server_key, exchange, "sha256").digest()

    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="


@given(password=ASCII)
@settings(max_examples=25, deadline=None)
def test_a_client_with_the_password_is_accepted_and_another_is_not(password):
    stored = verifier(password)

    assert _client_is_accepted(password, stored)
    assert not _client_is_accepted(password + "x", stored)


def test_the_verifier_holds_no_password_and_a_fresh_salt():
    first, second = verifier("correct horse"), verifier("correct horse")

    assert first != second
    assert first.startswith(f"SCRAM-SHA-256${ROUNDS}:")
    assert "horse" not in first


@pytest.mark.parametrize("text", ["pässword", "tab\t", "nul\0"])
def test_a_password_that_saslprep_could_change_is_refused(text):
    with pytest.raises(ValueError, match="printable ASCII"):
        verifier(text)
