"""What the process gives up before it holds a first secret. Best effort on systems other than Linux, and says so."""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import MutableMapping

_PR_SET_DUMPABLE = 4

_OF_A_VAULT = (
    *(
        "TOKEN",
        "ADDR",
        "AGENT_ADDR",
        "NAMESPACE",
        "PROXY_ADDR",
        "HTTP_PROXY",
        "SRV_LOOKUP",
        "REDIRECT_ADDR",
        "WRAP_TTL",
    ),
    *("CACERT", "CACERT_BYTES", "CAPATH", "CLIENT_CERT", "CLIENT_KEY", "TLS_SERVER_NAME", "SKIP_VERIFY", "MFA"),
)

AMBIENT = (
    *("DB_PASSWORD", "DATABASE_URL"),
    *(f"{product}_{name}" for product in ("VAULT", "BAO") for name in _OF_A_VAULT),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
)
"""Variables that libraries would pick up behind our back: a static fallback, another server than the configured,
another CA, or a file for the keys of TLS. The products' own are named one by one: a service that is called vault gives
every pod VAULT_PORT and the like, which mean nothing here.
Beside them everything that begins with PG, which is libpq's."""


def drop_ambient(environ: MutableMapping[str, str]) -> list[str]:
    """Remove ambient credentials and addresses from `environ`; the names of those that were there."""
    found = [name for name in environ if name in AMBIENT or name.startswith("PG")]
    for name in found:
        del environ[name]
    return found


def harden() -> list[str]:
    """No core dumps, no ptrace or /proc/<pid>/mem by others of our uid, nothing readable by accident; and room to work.

    Returns:
        What could not be done, one line each.
    """
    problems = []
    os.umask(0o077)
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (OSError, ValueError) as error:
        problems.append(f"core dumps could not be switched off: {error}")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        # A socket full of clients must not take the descriptors that our own logins need.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            problems.append(f"PR_SET_DUMPABLE failed: {os.strerror(ctypes.get_errno())}")
    else:
        problems.append("this system has no PR_SET_DUMPABLE: others of our uid may read our memory")
    return problems
