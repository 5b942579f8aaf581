"""deploy/vault asks for no more than a pod needs, fits the manifests, and its script shows the password to nobody."""

import json
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from tests import bootstrap
from tests.bootstrap import FILES
from tests.manifests import pod
from tests.unit.test_kubernetes import PODS, config_of

POLICY = (FILES / "app-readonly.policy.hcl").read_text()


def _json(name: str) -> Any:
    return json.loads((FILES / name).read_text())


# -- the policy -------------------------------------------------------------------------------------------------------


def grants(text: str) -> dict[str, list[str]]:
    """Capabilities by path."""
    bare = re.sub(r"#.*", "", text)
    found = re.findall(r'path "([^"]+)" \{\s*capabilities = \[([^\]]*)\]', bare)
    assert len(found) == len(re.findall(r"\bpath\b", bare)), "a path that this does not read"
    return {path: re.findall(r'"(\w+)"', words) for path, words in found}


def too_broad(text: str) -> list[str]:
    """Paths with a wildcard, and capabilities beyond reading and updating (R004-042)."""
    found = [path for path in grants(text) if re.search(r"[*+]", path)]
    return found + [f"{path}: {word}" for path, words in grants(text).items() for word in {*words} - {"read", "update"}]


def test_the_policy_names_every_path_and_nothing_wider() -> None:
    assert too_broad(POLICY) == []
    assert grants(POLICY) == {
        "database/creds/app-readonly": ["read"],
        "sys/leases/renew": ["update"],
        "sys/leases/revoke": ["update"],
        "auth/token/renew-self": ["update"],
        "auth/token/lookup-self": ["read"],
        "auth/token/revoke-self": ["update"],
    }


def test_what_is_optional_stands_there_as_a_comment() -> None:
    """The wrapping of a sink's token, and looking at one's own rights."""
    bare = re.sub(r'(?m)^# (?=path "|  capabilities|\})', "", POLICY)

    more = {path: words for path, words in grants(bare).items() if path not in grants(POLICY)}

    assert more == {"sys/wrapping/wrap": ["update"], "sys/capabilities-self": ["update"]}


@pytest.mark.parametrize(
    "wider",
    [
        'path "database/creds/*" { capabilities = ["read"] }',
        'path "database/creds/+" { capabilities = ["read"] }',
        'path "database/roles/app-readonly" { capabilities = ["list"] }',
        'path "sys/leases/revoke-prefix/database" { capabilities = ["update", "sudo"] }',
    ],
)
def test_a_wider_policy_would_be_found(wider: str) -> None:
    assert too_broad(POLICY + wider) != []


def test_leases_of_other_roles_are_out_of_reach() -> None:
    """A lease's id begins with the path that issued it."""
    bounds = re.findall(r'"lease_id"\s*=\s*\["([^"]+)"\]', POLICY)

    assert bounds == ["database/creds/app-readonly/*"] * 2


@pytest.mark.parametrize("place", PODS)
def test_every_manifest_gets_along_with_it(place: str) -> None:
    config = config_of(place)
    for name, role in config.role.items():
        assert role.upstream == "vault"
        assert grants(POLICY)[role.path or name] == ["read"]


# -- roles and connection ---------------------------------------------------------------------------------------------


def test_the_login_is_bound_to_one_account_and_audience_and_brings_one_policy() -> None:
    role = _json("app-service-role.auth.json")
    spec = pod("base-native").spec
    (source,) = [one["projected"]["sources"][0] for one in spec["volumes"] if "projected" in one]
    method = config_of("base-native").auto_auth.method
    assert method is not None

    assert role["bound_service_account_names"] == [spec["serviceAccountName"]]
    assert role["bound_service_account_namespaces"] == ["default"]
    assert role["audience"] == source["serviceAccountToken"]["audience"]
    assert role["token_policies"] == ["leasehold-app-readonly"]
    assert role["token_no_default_policy"] is True
    assert f"auth/{method.mount}/role/{method.config.role}" in (FILES / "bootstrap.sh").read_text()


def test_the_connection_is_a_template_and_names_no_password() -> None:
    """R004-006, R004-007: plugin_name, not plugin; only the roles that are listed."""
    config = _json("postgresql.database.json")

    assert config["plugin_name"] == "postgresql-database-plugin"
    assert "plugin" not in config
    assert "password" not in config
    assert config["connection_url"].startswith("postgresql://{{username}}:{{password}}@")
    assert config["allowed_roles"] == ["app-readonly"]


def test_a_user_ends_with_its_sessions_before_it_is_dropped() -> None:
    (statement,) = _json("app-readonly.role.json")["revocation_statements"]
    order = [statement.index(word) for word in ("NOLOGIN", "terminate", "DROP ROLE")]

    assert order == sorted(order)


def test_the_lease_of_a_user_that_is_gone_can_be_revoked() -> None:
    """Without the guard the server would try for ever, and never reach the next lease below a prefix."""
    (statement,) = _json("app-readonly.role.json")["revocation_statements"]

    assert statement.startswith(
        "DO $$ BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = '{{name}}') THEN"
    )


def test_the_login_does_not_cut_leases_short() -> None:
    """Leases die with the login: a shorter one would bound how long an outage of the server can be bridged."""
    role, login = _json("app-readonly.role.json"), _json("app-service-role.auth.json")

    assert login["token_ttl"] == role["default_ttl"] == "1h"
    assert login["token_max_ttl"] == role["max_ttl"] == "24h"


# -- the script -------------------------------------------------------------------------------------------------------

_CLI = """#!/bin/sh
printf '%s\\n' "$*" >> "$HOME/argv"
case "$1" in read) exit 2 ;; esac
case " $* " in *"=- "*) cat >> "$HOME/stdin"; echo >> "$HOME/stdin" ;; esac
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Copies of the files, and a CLI that writes down what it was given."""
    (tmp_path / "cli").write_text(_CLI)
    (tmp_path / "cli").chmod(0o755)
    (tmp_path / "password").write_text("hunter2-hunter2\n")
    return tmp_path


def test_no_argument_holds_the_password(directory: Path) -> None:
    (directory / "reviewer").write_text("reviewers.own.token\n")
    (directory / "ca.pem").write_text("the cluster's CA")
    outside = {
        "KUBERNETES_HOST": "https://10.0.0.1:6443",
        "KUBERNETES_CA_FILE": str(directory / "ca.pem"),
        "REVIEWER_TOKEN_FILE": str(directory / "reviewer"),
    }

    done = bootstrap.run(directory / "cli", directory, outside)

    argv = (directory / "argv").read_text()
    assert done.returncode == 0, done.stderr
    assert (directory / "stdin").read_text() == "hunter2-hunter2\nreviewers.own.token\n"
    assert not re.search("hunter2|reviewers.own", argv + done.stdout + done.stderr)
    assert "kubernetes_host=https://10.0.0.1:6443" in argv
    assert f"kubernetes_ca_cert=@{directory / 'ca.pem'}" in argv


def test_a_server_in_the_cluster_reviews_as_itself(directory: Path) -> None:
    done = bootstrap.run(directory / "cli", directory, {})

    argv = (directory / "argv").read_text().splitlines()
    assert done.returncode == 0, done.stderr
    assert "write auth/kubernetes/config kubernetes_host=https://kubernetes.default.svc" in argv
    assert not any("rotate-root" in line for line in argv)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"DB_ADMIN_PASSWORD_FILE": ""}, "DB_ADMIN_PASSWORD_FILE must name a file"),
        ({"REVIEWER_TOKEN_FILE": "/nowhere"}, "takes KUBERNETES_CA_FILE"),
    ],
)
def test_what_is_missing_is_named(directory: Path, environment: dict[str, str], said: str) -> None:
    done = bootstrap.run(directory / "cli", directory, environment)

    assert done.returncode == 1
    assert said in done.stderr


def test_the_script_can_be_run() -> None:
    assert (FILES / "bootstrap.sh").stat().st_mode & stat.S_IXUSR
