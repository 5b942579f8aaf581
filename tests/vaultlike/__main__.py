"""The in-tree server as a process: until SIGTERM or SIGINT; SIGHUP reads the certificate again."""

import argparse
import signal
import sys
from pathlib import Path

from tests.vaultlike.server import Tls, VaultLike


def main() -> int:
    """Serve."""
    parser = argparse.ArgumentParser(prog="python -m tests.vaultlike", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of loopback; 0 takes a free one")
    parser.add_argument("--root-token", default="root")
    parser.add_argument("--unseal-key", default="unseal")
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    parser.add_argument("--tls-client-ca", type=Path)
    said = parser.parse_args()
    tls = None
    if said.tls_cert and said.tls_key:
        tls = Tls(cert=said.tls_cert, key=said.tls_key, client_ca=said.tls_client_ca)
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)  # threads started from here on leave them to us
    server = VaultLike(port=said.port, root_token=said.root_token, unseal_key=said.unseal_key, tls=tls)
    sys.stdout.write(server.start() + "\n")
    sys.stdout.flush()
    while signal.sigwait(handled) == signal.SIGHUP:
        server.reload()
    server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
