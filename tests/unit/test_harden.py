import os
import subprocess
import sys

import pytest

from agent.harden import AMBIENT, drop_ambient

PROBE = """
import os, resource, sys
from agent.harden import harden
problems = harden()
print(resource.getrlimit(resource.RLIMIT_CORE), oct(os.umask(0)), problems)
status = open("/proc/self/status").read() if sys.platform == "linux" else ""
print(os.stat("/proc/self/mem").st_uid if sys.platform == "linux" else 0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_DUMPABLE and /proc are Linux's")
def test_a_hardened_process_dumps_no_core_and_is_closed_to_others_of_its_uid() -> None:
    """D-30, design: hardening before the first secret."""
    as_nobody = {"user": 65534} if os.geteuid() == 0 else {}
    script = f"import sys; sys.path[:0] = {sys.path!r}\n{PROBE}"
    if as_nobody:  # nobody cannot read our tree: import first, then change
        script = f"import os, sys; sys.path[:0] = {sys.path!r}\nimport agent.harden; os.setuid(65534)\n{PROBE}"

    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()

    assert out[0] == "(0, 0) 0o77 []"
    assert out[1] == "0", "an undumpable process's /proc belongs to root"


def test_ambient_credentials_are_dropped_and_named() -> None:
    """R004-037."""
    environ = {"PGPASSWORD": "x", "VAULT_TOKEN": "y", "HOME": "/", "DB_PASSWORD": "z", "PGTZ": "x"}

    found = drop_ambient(environ)

    assert sorted(found) == ["DB_PASSWORD", "PGPASSWORD", "PGTZ", "VAULT_TOKEN"]
    assert environ == {"HOME": "/"}
    assert "DATABASE_URL" in AMBIENT


@pytest.mark.parametrize("product", ["VAULT", "BAO"])
def test_what_leads_to_another_server_or_another_ca_is_dropped(product: str) -> None:
    ours = [f"{product}_{name}" for name in ("ADDR", "AGENT_ADDR", "PROXY_ADDR", "CACERT", "CAPATH", "SKIP_VERIFY")]
    tls = ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"]
    environ = dict.fromkeys([*ours, *tls, "VAULT_PORT_8200_TCP", "VAULT_SERVICE_HOST"], "x")

    assert drop_ambient(environ) == [*ours, *tls]
    assert list(environ) == ["VAULT_PORT_8200_TCP", "VAULT_SERVICE_HOST"]
