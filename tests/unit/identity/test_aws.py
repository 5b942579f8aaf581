"""AWS: three ways to credentials, and the signed request that the login carries, checked as STS would."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import BadResponse, NoIdentity, Unavailable, UpstreamError
from agent.identity.proof import Proof
from tests.fakes import FakeClock
from tests.unit.identity.builders import WALL, identity, jwt, revealed
from tests.unit.identity.standin import Asked, StandIn, answer

ID, SECRET, SESSION = "ASIAEXAMPLE", "s3cr/et+key", "se/ss+ion=="
ARN = "arn:aws:iam::123456789012:role/app"

ASSUMED = f"""<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">
  <AssumeRoleWithWebIdentityResult>
    <SubjectFromWebIdentityToken>system:serviceaccount:a:b</SubjectFromWebIdentityToken>
    <AssumedRoleUser><Arn>{ARN}</Arn><AssumedRoleId>AROA:leasehold</AssumedRoleId></AssumedRoleUser>
    <Credentials>
      <SessionToken>{SESSION}</SessionToken>
      <SecretAccessKey>{SECRET}</SecretAccessKey>
      <Expiration>2027-01-15T09:00:00Z</Expiration>
      <AccessKeyId>{ID}</AccessKeyId>
    </Credentials>
  </AssumeRoleWithWebIdentityResult>
</AssumeRoleWithWebIdentityResponse>"""

KEYS = {"AccessKeyId": ID, "SecretAccessKey": SECRET, "Token": SESSION, "Code": "Success"}


def refused(code: str) -> str:
    """STS's word for no."""
    return f"<ErrorResponse><Error><Code>{code}</Code><Message>hunter2</Message></Error></ErrorResponse>"


def irsa(tmp_path: Path, **claims: Any) -> dict[str, Any]:
    """The configuration of a pod with a projected token for STS."""
    (tmp_path / "token").write_text(jwt(sub="pod", **claims))
    return {"role_arn": ARN, "web_identity_token_file": str(tmp_path / "token"), "role": "app"}


def headers_of(proof: Proof) -> Mapping[str, str]:
    """The signed request's headers, as the server reads them."""
    carried = json.loads(base64.b64decode(revealed(proof.body)["iam_request_headers"]))
    return {name: value for name, (value,) in carried.items()}


def signature_of(proof: Proof, region: str) -> str:
    """The Authorization header that AWS would expect for what the login carries, step by step as its manual has it."""
    body = revealed(proof.body)
    headers = {name.lower(): value for name, value in headers_of(proof).items() if name != "Authorization"}
    at = headers["x-amz-date"]
    names = ";".join(sorted(headers))
    payload = hashlib.sha256(base64.b64decode(body["iam_request_body"])).hexdigest()
    lines = "".join(f"{name}:{headers[name]}\n" for name in sorted(headers))
    canonical = f"{body['iam_http_request_method']}\n/\n\n{lines}\n{names}\n{payload}"
    scope = f"{at[:8]}/{region}/sts/aws4_request"
    to_sign = f"AWS4-HMAC-SHA256\n{at}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = ("AWS4" + SECRET).encode()
    for part in (at[:8], region, "sts", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, to_sign.encode(), "sha256").hex()
    return f"AWS4-HMAC-SHA256 Credential={ID}/{scope}, SignedHeaders={names}, Signature={signature}"


async def test_a_web_identity_token_becomes_a_signed_question_who_we_are(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(ASSUMED)) as sts:
        subject = identity(
            "aws",
            clock,
            sts_endpoint=sts.url,
            region="eu-west-3",
            header_value="vault.example",
            mount_path="aws-eu",
            **irsa(tmp_path, exp=WALL + 600),
        )
        proof = await subject.prove()

    (asked,) = sts.asked
    assert (asked.method, asked.target) == ("POST", "/")
    assert asked.form == {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": ARN,
        "RoleSessionName": "leasehold",
        "WebIdentityToken": jwt(sub="pod", exp=WALL + 600),
    }
    assert "authorization" not in asked.headers
    body = revealed(proof.body)
    assert (proof.path, body["role"], body["iam_http_request_method"]) == ("auth/aws-eu/login", "app", "POST")
    assert base64.b64decode(body["iam_request_url"]).decode() == f"{sts.url}/"
    assert base64.b64decode(body["iam_request_body"]) == b"Action=GetCallerIdentity&Version=2011-06-15"
    headers = headers_of(proof)
    assert headers["Host"] == sts.url.removeprefix("http://")
    assert headers["X-Vault-AWS-IAM-Server-ID"] == "vault.example"
    assert headers["X-Amz-Security-Token"] == SESSION
    assert headers["X-Amz-Date"] == "20270115T080000Z"
    assert headers["Authorization"] == signature_of(proof, "eu-west-3")
    assert "x-vault-aws-iam-server-id" in headers["Authorization"]


async def test_the_secret_key_leaves_in_no_form_and_nothing_shows_in_a_repr(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(ASSUMED)) as sts:
        proof = await identity("aws", clock, sts_endpoint=sts.url, **irsa(tmp_path)).prove()

    assert SECRET not in json.dumps(revealed(proof.body))
    assert SECRET not in json.dumps(dict(headers_of(proof)))
    assert SESSION not in repr(proof)


@pytest.mark.parametrize(
    ("region", "url"),
    [
        ("us-east-1", "https://sts.amazonaws.com/"),
        ("eu-west-3", "https://sts.eu-west-3.amazonaws.com/"),
        ("cn-north-1", "https://sts.cn-north-1.amazonaws.com.cn/"),
    ],
)
async def test_without_an_endpoint_the_regions_own_is_named(clock: FakeClock, region: str, url: str) -> None:
    with StandIn(_instance) as metadata:
        proof = await identity("aws", clock, region=region, metadata_endpoint=metadata.url).prove()

    assert base64.b64decode(revealed(proof.body)["iam_request_url"]).decode() == url
    assert headers_of(proof)["Authorization"] == signature_of(proof, region)


def _instance(asked: Asked) -> bytes:
    if asked.method == "PUT":
        return answer("imds-token")
    if asked.headers.get("x-aws-ec2-metadata-token") != "imds-token":
        return answer(status=401)
    if asked.path == "/latest/meta-data/iam/security-credentials/":
        return answer("node-role\n")
    return answer(KEYS) if asked.path == "/latest/meta-data/iam/security-credentials/node-role" else answer(status=404)


async def test_the_instances_own_role_is_asked_for_with_a_sessions_token(clock: FakeClock) -> None:
    with StandIn(_instance) as metadata:
        proof = await identity("aws", clock, metadata_endpoint=metadata.url, role="app").prove()

    assert [(asked.method, asked.path) for asked in metadata.asked] == [
        ("PUT", "/latest/api/token"),
        ("GET", "/latest/meta-data/iam/security-credentials/"),
        ("GET", "/latest/meta-data/iam/security-credentials/node-role"),
    ]
    assert metadata.asked[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "60"
    assert headers_of(proof)["Authorization"] == signature_of(proof, "us-east-1")


async def test_eks_pod_identity_is_asked_with_the_token_alone(tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / "token").write_text("eyJ.pod.identity")
    with StandIn(lambda asked: answer(KEYS)) as agent:
        proof = await identity(
            "aws", clock, metadata_endpoint=agent.url, web_identity_token_file=str(tmp_path / "token")
        ).prove()

    (asked,) = agent.asked
    assert (asked.method, asked.path, asked.headers["authorization"]) == ("GET", "/v1/credentials", "eyJ.pod.identity")
    assert headers_of(proof)["Authorization"] == signature_of(proof, "us-east-1")


@pytest.mark.parametrize(
    ("said", "kind", "text"),
    [
        (
            answer(refused("AccessDenied"), status=403),
            NoIdentity,
            f"STS refuses the web identity token for {ARN} (AccessDenied); "
            "look at the role's trust policy and the token's audience",
        ),
        (
            answer("<Code>hunter 2</Code>", status=400),
            NoIdentity,
            f"STS refuses the web identity token for {ARN} (400); "
            "look at the role's trust policy and the token's audience",
        ),
        (
            answer(refused("IDPCommunicationError"), status=400),
            BadResponse,
            "STS answered IDPCommunicationError; look at region and sts_endpoint",
        ),
        (answer("<html>"), BadResponse, "STS answered without AccessKeyId; look at region and sts_endpoint"),
        (
            answer(ASSUMED.replace(SECRET, "&bomb;")),
            BadResponse,
            "STS answered without SecretAccessKey; look at region and sts_endpoint",
        ),
        (
            answer(ASSUMED + ASSUMED),
            BadResponse,
            "STS answered without AccessKeyId; look at region and sts_endpoint",
        ),
        (answer(status=503), Unavailable, "STS answered 503; look at region and sts_endpoint"),
    ],
)
async def test_what_sts_says_otherwise_is_named(
    tmp_path: Path, clock: FakeClock, said: bytes, kind: type[UpstreamError], text: str
) -> None:
    with StandIn(lambda asked: said) as sts, pytest.raises(kind) as caught:
        await identity("aws", clock, sts_endpoint=sts.url, **irsa(tmp_path)).prove()

    assert type(caught.value) is kind
    assert str(caught.value) == text


async def test_a_token_that_has_ended_is_not_sent_to_sts(tmp_path: Path, clock: FakeClock) -> None:
    with StandIn(lambda asked: answer(ASSUMED)) as sts, pytest.raises(NoIdentity, match="ended 5 min ago"):
        await identity("aws", clock, sts_endpoint=sts.url, **irsa(tmp_path, exp=WALL - 300)).prove()

    assert sts.asked == []


@pytest.mark.parametrize(
    ("respond", "text"),
    [
        (lambda asked: answer(status=403), "the instance's metadata service answered 403; has the instance a role?"),
        (
            lambda asked: answer("token") if asked.method == "PUT" else answer(status=404),
            "the instance's metadata service answered 404; has the instance a role?",
        ),
    ],
)
async def test_an_instance_without_a_role_is_named(
    clock: FakeClock, respond: Callable[[Asked], bytes], text: str
) -> None:
    with StandIn(respond) as metadata, pytest.raises(NoIdentity) as caught:
        await identity("aws", clock, metadata_endpoint=metadata.url).prove()

    assert str(caught.value).startswith(text)


async def test_metadata_that_would_break_a_header_is_refused(clock: FakeClock) -> None:
    with StandIn(lambda asked: answer("token\r\nX-Evil: 1")) as metadata, pytest.raises(BadResponse):
        await identity("aws", clock, metadata_endpoint=metadata.url).prove()

    assert len(metadata.asked) == 1
