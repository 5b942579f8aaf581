"""Where credentials at AWS come from: STS against a web identity token, EKS's pod identity, or the instance's role."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlencode

from agent.clock import Clock
from agent.config.upstreams import MethodConfig
from agent.errors import NoIdentity
from agent.identity.files import Reading
from agent.identity.services import Question, Reply, ask, text_in
from agent.identity.sigv4 import Keys
from agent.identity.tokens import jwt_in
from agent.leases.lease import Secret

_INSTANCE = "http://169.254.169.254"
_POD_IDENTITY = "http://169.254.170.23"
_SESSION_NAME = "leasehold"
_ROLES = "/latest/meta-data/iam/security-credentials/"
_CODE = re.compile(r"<Code>([A-Za-z.]{1,64})</Code>")
_FORM = "application/x-www-form-urlencoded; charset=utf-8"
_LATER = frozenset({"IDPCommunicationError", "InternalFailure", "ServiceUnavailable", "RequestExpired"})


def sts_url(config: MethodConfig) -> str:
    """STS of the region: the global place for us-east-1, which is what servers expect by default."""
    if config.sts_endpoint is not None:
        return config.sts_endpoint.rstrip("/") + "/"
    if config.region == "us-east-1":
        return "https://sts.amazonaws.com/"
    return f"https://sts.{config.region}.amazonaws.com{'.cn' * config.region.startswith('cn-')}/"


async def keys(config: MethodConfig, token: Reading | None, clock: Clock) -> Keys:
    """Fresh credentials: from STS where there are a token and a role for it, from the pod identity agent where there is
    only a token, else from the instance's metadata.

    Raises:
        NoIdentity: what should vouch for the pod is missing or refused.
        Unavailable: the service does not answer.
    """
    if token is None:
        return await _of_instance(config, clock)
    if config.role_arn is None:
        return await _of_pod(config, token.secret(), clock)
    return await _assumed(config, config.role_arn, jwt_in(token, clock.wall()), clock)


async def _assumed(config: MethodConfig, role_arn: str, token: Secret, clock: Clock) -> Keys:
    """IRSA: AssumeRoleWithWebIdentity, which is not signed: the token is the proof."""
    form = {
        "Action": "AssumeRoleWithWebIdentity",
        "Version": "2011-06-15",
        "RoleArn": role_arn,
        "RoleSessionName": _SESSION_NAME,
        "WebIdentityToken": token.reveal(),
    }
    reply = await ask(
        Question(
            service="STS",
            remedy="look at region and sts_endpoint",
            url=sts_url(config),
            method="POST",
            headers={"Content-Type": _FORM},
            body=Secret(urlencode(form)),
        ),
        clock,
    )
    if not reply.ok:
        raise _refused_by_sts(reply, role_arn)
    names = ("AccessKeyId", "SecretAccessKey", "SessionToken")
    return _keys(reply, {name: _element(reply, name) for name in names}, names)


def _refused_by_sts(reply: Reply, role_arn: str) -> Exception:
    found = _CODE.search(reply.text)
    code = found[1] if found else str(reply.status)
    if code in _LATER:
        return reply.bad(f"answered {code}")
    remedy = "look at the role's trust policy and the token's audience"
    return NoIdentity(f"STS refuses the web identity token for {role_arn} ({code}); {remedy}")


def _element(reply: Reply, name: str) -> str:
    """The text of an element that may stand there only once. No XML parser: there is nothing here to expand."""
    found = re.findall(rf"<{name}>\s*([!-;=-~]{{1,16384}}?)\s*</{name}>", reply.text)
    if len(found) != 1 or "&" in found[0]:
        raise reply.bad(f"answered without {name}")
    return str(found[0])


async def _of_pod(config: MethodConfig, token: Secret, clock: Clock) -> Keys:
    reply = await ask(
        Question(
            service="the EKS pod identity agent",
            remedy="is its add-on installed in the cluster? or set role_arn, for IRSA",
            url=f"{(config.metadata_endpoint or _POD_IDENTITY).rstrip('/')}/v1/credentials",
            headers={"Authorization": token},
            metadata=True,
        ),
        clock,
    )
    if not reply.ok:
        raise NoIdentity(
            f"the EKS pod identity agent answered {reply.status}; is the service account associated with a role?"
        )
    return _keys(reply, reply.fields(), ("AccessKeyId", "SecretAccessKey", "Token"))


async def _of_instance(config: MethodConfig, clock: Clock) -> Keys:
    """IMDSv2: a session's token first, which no forwarding proxy of the pod can be tricked into fetching."""
    base = (config.metadata_endpoint or _INSTANCE).rstrip("/")

    async def asked(method: str, path: str, headers: Mapping[str, str | Secret]) -> Reply:
        remedy = "a pod reaches it only with a hop limit of at least 2; or set role_arn and web_identity_token_file"
        service = "the instance's metadata service"
        question = Question(
            service=service, remedy=remedy, url=base + path, method=method, headers=headers, metadata=True
        )
        reply = await ask(question, clock)
        if not reply.ok:
            raise NoIdentity(f"{service} answered {reply.status}; has the instance a role? {remedy}")
        return reply

    session = await asked("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    with_session = {"X-aws-ec2-metadata-token": Secret(text_in(session, {"a token": session.text}, "a token"))}
    listed = await asked("GET", _ROLES, with_session)
    role = text_in(listed, {"a role": listed.text.partition("\n")[0].strip()}, "a role")
    reply = await asked("GET", _ROLES + quote(role, safe=""), with_session)
    return _keys(reply, reply.fields(), ("AccessKeyId", "SecretAccessKey", "Token"))


def _keys(reply: Reply, found: Mapping[str, object], names: tuple[str, str, str]) -> Keys:
    id_, secret, session = (text_in(reply, found, name) for name in names)
    return Keys(id=id_, secret=Secret(secret), session=Secret(session))
