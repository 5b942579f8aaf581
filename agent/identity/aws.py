"""The aws method (iam): the login's body is a signed request to STS, "who am I?", which the server sends on.

Nothing is sent to STS by us here: whoever holds the body may ask it who we are for some minutes, and nothing else; the
header X-Vault-AWS-IAM-Server-ID, which is signed too, binds it to one server.
"""

import base64
import json
from urllib.parse import urlsplit

from agent.clock import Clock
from agent.config.upstreams import Method
from agent.identity.awskeys import keys, sts_url
from agent.identity.files import Source
from agent.identity.mounts import login_path
from agent.identity.proof import Proof
from agent.identity.sigv4 import signed
from agent.identity.watched import Files, FromFiles
from agent.leases.lease import Secret

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"


class AwsIdentity(FromFiles):
    """A pod's role at AWS."""

    def __init__(self, method: Method, clock: Clock) -> None:
        token = method.config.web_identity_token_file
        remedy = "is the service account annotated with a role? or set web_identity_token_file"
        sources = [] if token is None else [Source(path=token, what="the web identity token", remedy=remedy)]
        super().__init__(Files(sources, clock))
        self._method = method
        self._clock = clock

    async def prove(self) -> Proof:
        """The login's request, signed with credentials fetched for it."""
        config = self._method.config
        token = next(iter(await self._files.read()), None)
        fetched = await keys(config, token, self._clock)
        url = sts_url(config)
        headers = {"Host": urlsplit(url).netloc, "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
        if config.header_value is not None:
            headers["X-Vault-AWS-IAM-Server-ID"] = config.header_value
        headers = dict(
            signed(headers, _BODY, keys=fetched, region=config.region, service="sts", wall=self._clock.wall())
        )
        body = {
            **({} if config.role is None else {"role": config.role}),
            "iam_http_request_method": "POST",
            "iam_request_url": _base64(url),
            "iam_request_body": _base64(_BODY),
            "iam_request_headers": Secret(_base64(json.dumps({name: [value] for name, value in headers.items()}))),
        }
        return Proof(path=login_path(self._method), body=body, namespace=self._method.namespace)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
