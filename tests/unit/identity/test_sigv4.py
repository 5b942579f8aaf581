"""Signatures, against AWS's published vectors and against another implementation."""

import warnings

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from agent.identity.sigv4 import Keys, signed
from agent.leases.lease import Secret

# The AWS Signature Version 4 test suite: 30 August 2015, 12:36:00 UTC.
AT = 1_440_938_160.0
KEYS = Keys(id="AKIDEXAMPLE", secret=Secret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"), session=Secret(""))


@pytest.mark.parametrize(
    ("headers", "body", "names", "signature"),
    [
        ({}, "", "host;x-amz-date", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        (
            {"Content-Type": "application/x-www-form-urlencoded"},
            "Param1=value1",
            "content-type;host;x-amz-date",
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
    ],
    ids=["post-vanilla", "post-x-www-form-urlencoded"],
)
def test_the_published_vectors_are_met(headers: dict[str, str], body: str, names: str, signature: str) -> None:
    found = signed(
        {"Host": "example.amazonaws.com", **headers}, body, keys=KEYS, region="us-east-1", service="service", wall=AT
    )

    assert found["X-Amz-Date"] == "20150830T123600Z"
    credential = "AKIDEXAMPLE/20150830/us-east-1/service/aws4_request"
    assert found["Authorization"] == (
        f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}"
    )


TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(secret=TEXT, session=st.just("") | TEXT, region=st.sampled_from(["us-east-1", "eu-west-3"]), server=TEXT)
def test_another_implementation_signs_the_same(secret: str, session: str, region: str, server: str) -> None:
    """hvac's signer takes the time from the machine, so ours is told the time that it took."""
    from hvac.aws_utils import SigV4Auth

    body = "Action=GetCallerIdentity&Version=2011-06-15"
    headers = {"Content-Type": "text/plain", "Host": "sts.amazonaws.com", "X-Vault-AWS-IAM-Server-ID": server}
    theirs = requests.Request("POST", "https://sts.amazonaws.com/", headers=headers, data=body).prepare()
    del theirs.headers["Content-Length"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        SigV4Auth("AKIDEXAMPLE", secret, session or None, region).add_auth(theirs)

    keys = Keys(id="AKIDEXAMPLE", secret=Secret(secret), session=Secret(session))
    ours = signed(
        headers, body, keys=keys, region=region, service="sts", wall=_instant(str(theirs.headers["X-Amz-Date"]))
    )

    assert dict(ours) == dict(theirs.headers)


def _instant(text: str) -> float:
    from datetime import UTC, datetime

    return datetime.strptime(text, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()


def test_no_key_shows_in_a_repr() -> None:
    keys = Keys(id="AKIDEXAMPLE", secret=Secret("canary-1"), session=Secret("canary-2"))

    assert "canary" not in repr(keys)
    assert "AKID" not in repr(keys)
