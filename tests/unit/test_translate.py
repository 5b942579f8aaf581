"""The configuration's words as other rooms' values."""

from agent.translate import certificates_of
from tests.unit.config.documents import METHOD, at_vault, read

CERTIFICATE = '[auto_auth.method]\ntype = "cert"\nconfig = { client_cert = "/m", client_key = "/k" }'


def test_a_clusters_certificates_are_watched() -> None:
    config = read(at_vault(more_vault='ca_cert = "/ca"\nclient_cert = "/c"\nclient_key = "/k"'))

    assert certificates_of(config) == {("vault", "client_cert"): "/c", ("vault", "ca_cert"): "/ca"}


def test_a_certificate_that_logs_in_is_watched() -> None:
    assert certificates_of(read(at_vault(method=CERTIFICATE))) == {("vault", "method.client_cert"): "/m"}


def test_a_cluster_without_certificates_has_none_to_watch() -> None:
    assert certificates_of(read(at_vault(method=METHOD))) == {}
