"""TLS as a client, with nothing of the environment in it.

`ssl.create_default_context` obeys SSL_CERT_FILE and SSL_CERT_DIR, and writes session keys to where SSLKEYLOGFILE says.
"""

import errno
import ssl
from pathlib import Path

# Where distributions keep the CAs that they trust, after the places that OpenSSL was built with.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


def bare_context() -> ssl.SSLContext:
    """Checks certificates and names, and trusts nobody yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def trust_system(context: ssl.SSLContext) -> None:
    """Have `context` trust the CAs that this system trusts.

    Raises:
        FileNotFoundError: it keeps none.
        OSError: they cannot be used.
    """
    built = ssl.get_default_verify_paths()
    file = next((path for path in (built.openssl_cafile, *_BUNDLES) if path and Path(path).is_file()), None)
    folder = built.openssl_capath if built.openssl_capath and Path(built.openssl_capath).is_dir() else None
    if file is None and folder is None:
        raise FileNotFoundError(errno.ENOENT, "this system keeps no CA certificates")
    context.load_verify_locations(file, folder)
