"""What the process gives up before it holds a first secret. Best effort on systems other than Linux, and says so."""

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import MutableMapping

_PR_SET_DUMPABLE = 4

AMBIENT = (
    *("DB_PASSWORD", "DATABASE_URL", "VAULT_TOKEN", "VAULT_ADDR", "VAULT_NAMESPACE", "BAO_TOKEN", "BAO_ADDR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"),
)
"""Variables that libraries would pick up behind our back: a static fallback, or another server than the configured.
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
