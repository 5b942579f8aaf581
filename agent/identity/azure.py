"""The azure method: a token of Entra ID, for a federated service account or for the machine's managed identity."""

from collections.abc import Mapping
from urllib.parse import quote, urlencode

from agent.clock import Clock
from agent.config.upstreams import Method
from agent.errors import NoIdentity
from agent.identity.files import Reading, Source
from agent.identity.mounts import login_path
from agent.identity.proof import Proof
from agent.identity.services import Question, Reply, ask
from agent.identity.tokens import jwt_in
from agent.identity.watched import Files, FromFiles
from agent.leases.lease import Secret

_AUTHORITY = "https://login.microsoftonline.com"
_METADATA = "http://169.254.169.254"
_RESOURCE = "https://management.azure.com/"
_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_MACHINE = {
    "subscription_id": "subscriptionId",
    "resource_group_name": "resourceGroupName",
    "vm_name": "name",
    "vmss_name": "vmScaleSetName",
}


class AzureIdentity(FromFiles):
    """A pod's identity at Azure."""

    def __init__(self, method: Method, clock: Clock) -> None:
        token = method.config.federated_token_file
        remedy = "is the pod labelled azure.workload.identity/use? or set federated_token_file"
        sources = [] if token is None else [Source(path=token, what="the federated token", remedy=remedy)]
        super().__init__(Files(sources, clock))
        self._method = method
        self._clock = clock

    async def prove(self) -> Proof:
        """The login's request with a token fetched for it."""
        readings = await self._files.read()
        body: dict[str, str | Secret] = {} if self._method.config.role is None else {"role": self._method.config.role}
        for reading in readings:
            body["jwt"] = await self._exchanged(reading)
        if not readings:
            body["jwt"] = await self._of_machine()
            body.update(await self._machine())
        return Proof(path=login_path(self._method), body=body, namespace=self._method.namespace)

    async def _exchanged(self, reading: Reading) -> Secret:
        """Workload identity federation: the pod's token is the client's assertion (RFC 7523, 2.2)."""
        config = self._method.config
        form = {
            "grant_type": "client_credentials",
            "client_id": config.client_id or "",
            # A resource that ends with a slash keeps it: its token's audience does too.
            "scope": f"{config.resource or _RESOURCE}/.default",
            "client_assertion_type": _ASSERTION,
            "client_assertion": jwt_in(reading, self._clock.wall()).reveal(),
        }
        authority = (config.authority_host or _AUTHORITY).rstrip("/")
        question = Question(
            service="Entra ID",
            remedy="look at authority_host and tenant_id",
            url=f"{authority}/{quote(config.tenant_id or '', safe='')}/oauth2/v2.0/token",
            method="POST",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
            body=Secret(urlencode(form)),
        )
        reply = await ask(question, self._clock)
        if not reply.ok:
            wrong = "look at client_id, tenant_id and the federated credential's issuer, subject and audience"
            raise NoIdentity(f"Entra ID refuses the federated token ({reply.status}); {wrong}")
        return Secret(reply.text_of("access_token"))

    async def _of_machine(self) -> Secret:
        config = self._method.config
        query = {"api-version": "2018-02-01", "resource": config.resource or _RESOURCE}
        if config.client_id is not None:
            query["client_id"] = config.client_id
        reply = await self._metadata("/metadata/identity/oauth2/token", query)
        if not reply.ok:
            raise NoIdentity(
                f"the machine's metadata service answered {reply.status}; has the machine a managed identity? "
                "look at client_id and resource"
            )
        return Secret(reply.text_of("access_token"))

    async def _machine(self) -> Mapping[str, str]:
        """What the server may want to know of the machine, as far as its metadata says."""
        reply = await self._metadata("/metadata/instance/compute", {"api-version": "2021-02-01", "format": "json"})
        if not reply.ok:
            return {}
        fields = reply.fields()
        found = {ours: fields.get(theirs) for ours, theirs in _MACHINE.items()}
        if found["vmss_name"]:
            del found["vm_name"]  # a machine of a scale set is known by the set
        return {name: value for name, value in found.items() if isinstance(value, str) and value}

    async def _metadata(self, path: str, query: Mapping[str, str]) -> Reply:
        question = Question(
            service="the machine's metadata service",
            remedy="is this a machine of Azure? or set federated_token_file",
            url=f"{(self._method.config.metadata_endpoint or _METADATA).rstrip('/')}{path}?{urlencode(query)}",
            headers={"Metadata": "true"},
            metadata=True,
        )
        return await ask(question, self._clock)
