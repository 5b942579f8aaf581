"""Signed JSON web tokens: checking a signature and the claims about time and audience."""

import base64
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

LEEWAY = 60.0  # seconds that clocks may differ by
EXPIRY_LEEWAY = 150.0  # added to the newest of iat and nbf for a token without an end

_HASHES: Mapping[str, type[hashes.SHA256 | hashes.SHA384 | hashes.SHA512]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}


class Rejected(ValueError):
    """Why a token is not good."""


def claims_of(token: str) -> dict[str, Any]:
    """The claims, unchecked."""
    parts = token.split(".")
    if len(parts) != 3:
        raise Rejected("error verifying token signature: go-jose/go-jose: compact JWS format must have three parts")
    try:
        found = json.loads(_decoded(parts[1]))
    except ValueError as exc:
        raise Rejected("error verifying token signature: illegal base64 data at input byte 0") from exc
    if not isinstance(found, dict):
        raise Rejected("error verifying token signature: claims are not an object")
    return found


def verify(token: str, keys: Sequence[str]) -> dict[str, Any]:
    """The claims of a token that one of the PEM keys signed."""
    claims = claims_of(token)
    head, payload, signature = token.split(".")
    try:
        algorithm = str(json.loads(_decoded(head)).get("alg"))
        raw = _decoded(signature)
    except (ValueError, AttributeError) as exc:
        raise Rejected("error verifying token signature: illegal base64 data at input byte 0") from exc
    if not any(_signed(pem, algorithm, f"{head}.{payload}".encode(), raw) for pem in keys):
        raise Rejected("error verifying token signature: no known key successfully validated the token signature")
    return claims


def check_times(claims: dict[str, Any]) -> None:
    """Rejected unless the token is good now."""
    begun, made, ends = (float(claims.get(name) or 0) for name in ("nbf", "iat", "exp"))
    if not (begun or made or ends):
        raise Rejected("no issued at (iat), not before (nbf), or expiration time (exp) claims in token")
    now = time.time()
    if (ends or max(begun, made) + EXPIRY_LEEWAY) + LEEWAY < now:
        raise Rejected("invalid expiration time (exp) claim: token is expired")
    if begun - LEEWAY > now:
        raise Rejected("invalid not before (nbf) claim: token not yet valid")
    if made - LEEWAY > now:
        raise Rejected("invalid issued at (iat) claim: token issued in the future")


def check_audience(claims: dict[str, Any], wanted: Sequence[str]) -> None:
    """Rejected unless the token is meant for one of these; none wanted: for anybody."""
    given = claims.get("aud") or []
    if wanted and not {given} & {*wanted} if isinstance(given, str) else wanted and not {*given} & {*wanted}:
        raise Rejected("invalid audience (aud) claim: audience claim does not match any expected audience")


def _signed(pem: str, algorithm: str, message: bytes, signature: bytes) -> bool:
    key = load_pem_public_key(pem.encode())
    digest = _HASHES.get(algorithm[2:])
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm.startswith("RS") and digest:
            key.verify(signature, message, padding.PKCS1v15(), digest())
            return True
        if isinstance(key, ec.EllipticCurvePublicKey) and algorithm.startswith("ES") and digest:
            half = len(signature) // 2
            numbers = (int.from_bytes(signature[:half]), int.from_bytes(signature[half:]))
            key.verify(encode_dss_signature(*numbers), message, ec.ECDSA(digest()))
            return True
    except InvalidSignature:
        return False
    return False


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
