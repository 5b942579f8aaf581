"""The gcp method: an identity token that the metadata server signs for the login's role."""

from urllib.parse import quote, urlencode

from agent.clock import Clock
from agent.config.upstreams import Method
from agent.errors import NoIdentity
from agent.identity.jwt import fault_of
from agent.identity.mounts import login_path
from agent.identity.proof import Proof
from agent.identity.services import Question, ask
from agent.identity.watched import Files, FromFiles
from agent.leases.lease import Secret

# By address, so that no name server has a say in where the question goes.
_METADATA = "http://169.254.169.254"


class GcpIdentity(FromFiles):
    """A pod's service account at Google."""

    def __init__(self, method: Method, clock: Clock) -> None:
        super().__init__(Files((), clock))
        self._method = method
        self._clock = clock

    async def prove(self) -> Proof:
        """The login's request with a token fetched for it."""
        config = self._method.config
        # format=full names the instance, which roles of type gce check.
        query = {"audience": config.resource or f"vault/{config.role}", "format": "full"}
        account = quote(config.service_account, safe="@")
        base = (config.metadata_endpoint or _METADATA).rstrip("/")
        question = Question(
            service="the metadata server",
            remedy="is workload identity enabled for the node pool? look at metadata_endpoint",
            url=f"{base}/computeMetadata/v1/instance/service-accounts/{account}/identity?{urlencode(query)}",
            headers={"Metadata-Flavor": "Google"},
            metadata=True,
        )
        reply = await ask(question, self._clock)
        if not reply.ok:
            raise NoIdentity(
                f"the metadata server answered {reply.status} for service account {config.service_account}; "
                "look at service_account, and at its binding to the pod's"
            )
        token = reply.text.strip()
        if reply.flavor != "Google" or fault_of(token, self._clock.wall()):
            raise reply.bad("answered no identity token")
        body = {"role": config.role, "jwt": Secret(token)}
        return Proof(path=login_path(self._method), body=body, namespace=self._method.namespace)
