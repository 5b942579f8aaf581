"""hvac's adapter, ours: what a Vault wants in a request is hvac's to know, how it travels is ours.

Imported by the wire's threads only: hvac and requests take 65 ms to load.
"""

from collections.abc import Mapping

import requests
from hvac.adapters import RawAdapter

from agent import __version__
from agent.engines.vault.tls import Contexts
from agent.engines.vault.transport import Reply, Route, Transport


class ClusterAdapter(RawAdapter):  # type: ignore[misc]  # hvac has no types
    """hvac's adapter over a Transport. One per thread, like the session in it.

    It never raises for a status, follows no redirect (the caller does, where a token may go), keeps no cookie, and
    takes nothing from the environment or from a home directory: hvac's Client, which reads VAULT_TOKEN and
    ~/.vault-token where no token is given, is not used.

    Args:
        contexts: for TLS.
        server_name: name the certificates must carry.
        proxy: its URL, None for none.
    """

    def __init__(self, contexts: Contexts, server_name: str | None, proxy: str | None) -> None:
        session = requests.Session()
        session.trust_env = False
        session.adapters.clear()
        self._transport = Transport(contexts, server_name, proxy)
        for scheme in ("http://", "https://"):
            session.mount(scheme, self._transport)
        session.headers.clear()
        session.headers.update(
            {
                "User-Agent": f"leasehold/{__version__}",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
            }
        )
        super().__init__(session=session, allow_redirects=False, ignore_exceptions=True, strict_http=True)

    def ask(
        self,
        method: str,
        path: str,
        route: Route,
        *,
        token: str | None,
        namespace: str | None,
        query: Mapping[str, str],
        body: bytes | None,
        wrap_ttl: int,
    ) -> Reply:
        """The answer to one request; `path` is quoted already, and begins below /v1/.

        Raises:
            NotSent, GivenUp, Lost, Garbled, tls.BadFiles: there is none.
        """
        self._transport.route = route
        self.base_uri = f"{route.address.label}{route.address.base}"
        self.token = token
        self.namespace = namespace
        answer = self.request(
            method,
            f"/v1/{path}",
            headers={"Content-Type": "application/json"} if body is not None else {},
            params=dict(query),
            data=body,
            wrap_ttl=wrap_ttl or None,
        )
        assert isinstance(answer, Reply)  # noqa: S101 - for the type checker: the transport makes no other
        return answer
