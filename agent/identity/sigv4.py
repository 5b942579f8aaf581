"""AWS Signature Version 4, as far as a POST to "/" needs it. Pure: the instant is an argument.

hvac brings a signer too, but it reads the machine's clock itself, by a call that Python is about to remove.
Source: AWS, "Create a signed AWS API request"; its published test vectors are tests here.
"""

import hashlib
import hmac
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.leases.lease import Secret

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, kw_only=True)
class Keys:
    """Credentials at AWS; `session` is "" where they are no temporary ones."""

    id: str = field(repr=False)
    secret: Secret
    session: Secret


def signed(
    headers: Mapping[str, str], body: str, *, keys: Keys, region: str, service: str, wall: float
) -> Mapping[str, str]:
    """The headers of a POST to "/", `Host` among them, with date, session token and signature added.

    Args:
        wall: Unix time; AWS takes signatures for 5 to 15 minutes.
    """
    at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(wall))
    dated = {**headers, "X-Amz-Date": at}
    if keys.session.reveal():
        dated["X-Amz-Security-Token"] = keys.session.reveal()
    names = ";".join(sorted(name.lower() for name in dated))
    scope = f"{at[:8]}/{region}/{service}/aws4_request"
    to_sign = "\n".join([_ALGORITHM, at, scope, _sha256(_canonical(dated, names, body))])
    signature = hmac.new(_key(keys.secret, scope), to_sign.encode(), hashlib.sha256).hexdigest()
    credential = f"{keys.id}/{scope}"
    return {
        **dated,
        "Authorization": f"{_ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}",
    }


def _canonical(headers: Mapping[str, str], names: str, body: str) -> str:
    by_name = sorted((name.lower(), " ".join(value.split())) for name, value in headers.items())
    lines = "".join(f"{name}:{value}\n" for name, value in by_name)
    return "\n".join(["POST", "/", "", lines, names, _sha256(body)])


def _key(secret: Secret, scope: str) -> bytes:
    key = f"AWS4{secret.reveal()}".encode()
    for part in scope.split("/"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
