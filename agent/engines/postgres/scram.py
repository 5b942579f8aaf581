"""SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677) in PostgreSQL's spelling, so that the server never sees a password.

What `CREATE ROLE … PASSWORD` sends may end in the server's log, in pg_stat_activity and in pg_stat_statements; from
a verifier nobody can log in. SASLprep is left out on purpose: it changes no printable ASCII text, and `names.password`
makes nothing else.
"""

import base64
import hashlib
import hmac
import secrets

ROUNDS = 4096
"""The server's own default; the JDBC driver's SCRAM library refuses fewer, and more would slow every login down."""


def verifier(password: str, *, salt: bytes | None = None, rounds: int = ROUNDS) -> str:
    """What the server stores for `password` (printable ASCII): `SCRAM-SHA-256$rounds:salt$StoredKey:ServerKey`."""
    if not (password.isascii() and password.isprintable()):
        raise ValueError("a password must be printable ASCII: SASLprep is not applied")
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    server_key = _hmac(salted, b"Server Key")
    return f"SCRAM-SHA-256${rounds}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _base64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()
