"""The manifests keep their promises; a cluster to run them needs more than a test has (docs/kubernetes.md).

What an API server would say is read from the strict schemas of each Kubernetes release.
"""

import copy
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

import agent
from agent.arguments import parser
from agent.config import check
from agent.config.load import load
from agent.config.model import Config
from tests import manifests
from tests.manifests import ROOT, Document, Pod, environment, pod, rendered

TREE = ROOT.parents[1]
PODS = ("base-native", "base-plain", "examples/app", "examples/source-004")
NATIVE = ("base-native", "examples/app")
OBJECTS = (*PODS, "vault-auth")
NEWEST = int(kubernetes_validate.latest_version().split(".")[1])
OLDEST = {place: 29 if place in NATIVE else 25 for place in OBJECTS}
"""Native sidecars are on by default from 1.29; the schemas begin with 1.25."""

MEASURED = 85
"""MiB of the agent's container at most, its short-lived commands included; docs/kubernetes.md has the measurement."""

every_pod = pytest.mark.parametrize("place", PODS)


@cache
def _pod(place: str) -> Pod:
    return pod(place)


def config_of(place: str) -> Config:
    """What the sidecar of that pod loads."""
    one = _pod(place)
    arguments = parser(environment(one.sidecar)).parse_args(one.sidecar["args"])
    return load(one.files(one.sidecar)[arguments.config], environ=environment(one.sidecar))


# -- what an API server says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", OBJECTS)
def test_every_current_release_takes_every_object(place: str) -> None:
    documents = rendered(place)

    for minor in range(OLDEST[place], NEWEST + 1):
        for document in documents:
            kubernetes_validate.validate(document, f"1.{minor}", strict=True)

    assert documents
    assert NEWEST >= 34


@pytest.mark.parametrize("key", ["initContaners", "automountServiceAccountTokens"])
def test_a_word_that_the_api_does_not_know_would_be_found(key: str) -> None:
    (deployment,) = [copy.deepcopy(one) for one in rendered("base-native") if one["kind"] == "Deployment"]
    deployment["spec"]["template"]["spec"][key] = []

    with pytest.raises(kubernetes_validate.ValidationError, match=key):
        kubernetes_validate.validate(deployment, f"1.{NEWEST}", strict=True)


@pytest.mark.parametrize("place", OBJECTS)
def test_kustomize_builds_what_these_tests_read(place: str) -> None:
    tools = {"kustomize": ["build"], "kubectl": ["kustomize"]}
    words = next(([path, *then] for name, then in tools.items() if (path := shutil.which(name))), None)
    if words is None:
        pytest.skip("neither kustomize nor kubectl is on PATH")

    built = subprocess.run([*words, str(ROOT / place)], capture_output=True, text=True, check=True, timeout=50).stdout

    theirs = yaml.safe_load_all(manifests.without_hashes(built))
    assert sorted(theirs, key=_named) == sorted(rendered(place), key=_named)


def _named(document: Document) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


# -- Pod Security "restricted" ----------------------------------------------------------------------------------------

_HOST = ("hostNetwork", "hostPID", "hostIPC", "hostUsers")
_VOLUMES = {"configMap", "emptyDir", "projected", "secret", "downwardAPI", "persistentVolumeClaim", "ephemeral", "csi"}


def violations(spec: Document) -> list[str]:
    """What Pod Security Standards' "restricted" would say, and a read-only root besides."""
    found = [key for key in _HOST if spec.get(key)]
    found += [f"sysctls {one}" for one in spec["securityContext"].get("sysctls", ())]
    found += [f"volume {one['name']}" for one in spec["volumes"] if not set(one) - {"name"} <= _VOLUMES]
    for container in [*spec.get("initContainers", ()), *spec["containers"]]:
        context = container["securityContext"]
        wanted = {
            "runAsNonRoot": True,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "privileged": None,
            "procMount": None,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        found += [f"{container['name']}: {key}" for key, value in wanted.items() if context.get(key) != value]
        if not context.get("runAsUser") or not context.get("runAsGroup"):
            found.append(f"{container['name']}: runAsUser")
        if any("hostPort" in port for port in container.get("ports", ())):
            found.append(f"{container['name']}: hostPort")
    return found


@every_pod
def test_every_container_is_restricted(place: str) -> None:
    assert violations(_pod(place).spec) == []


@pytest.mark.parametrize(
    "loosen",
    [
        lambda spec: spec.update(hostNetwork=True),
        lambda spec: spec["volumes"].append({"name": "node", "hostPath": {"path": "/"}}),
        lambda spec: spec["containers"][0]["securityContext"].pop("runAsNonRoot"),
        lambda spec: spec["containers"][0]["securityContext"].update(runAsUser=0),
        lambda spec: spec["containers"][0]["securityContext"].update(allowPrivilegeEscalation=True),
        lambda spec: spec["containers"][0]["securityContext"].update(readOnlyRootFilesystem=False),
        lambda spec: spec["containers"][0]["securityContext"].update(privileged=True),
        lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["SYS_PTRACE"]),
        lambda spec: spec["initContainers"][0]["securityContext"].pop("seccompProfile"),
        lambda spec: spec["initContainers"][0]["ports"][0].update(hostPort=8210),
    ],
)
def test_a_looser_container_would_be_found(loosen: Callable[[Any], None]) -> None:
    spec = copy.deepcopy(_pod("base-native").spec)
    loosen(spec)

    assert violations(spec) != []


@every_pod
def test_the_agent_has_the_uid_of_its_image_and_no_app_has_it(place: str) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", (TREE / "Dockerfile").read_text(), re.MULTILINE)
    one = _pod(place)

    ids = [(c["securityContext"]["runAsUser"], c["securityContext"]["runAsGroup"]) for c in one.agents]

    assert set(ids) == {(int(user[0]), int(user[1]))}
    assert all(app["securityContext"]["runAsUser"] != int(user[0]) for app in one.apps)


@every_pod
def test_files_and_socket_have_a_group_that_every_container_is_in(place: str) -> None:
    """fsGroup: the memory volumes hand it on to what the agent makes in them (0440, 0660); it is nobody's own group."""
    one = _pod(place)

    group = one.spec["securityContext"]["fsGroup"]

    assert group > 0
    assert group not in {each["securityContext"]["runAsGroup"] for each in one.containers}
    assert {template.group for template in config_of(place).template} == {None}


@every_pod
def test_containers_share_neither_processes_nor_the_clusters_tokens(place: str) -> None:
    one = _pod(place)
    (account,) = [each for each in one.documents if each["kind"] == "ServiceAccount"]

    assert one.spec["shareProcessNamespace"] is False
    assert one.spec["automountServiceAccountToken"] is False
    assert one.spec["enableServiceLinks"] is False
    assert account["automountServiceAccountToken"] is False
    assert account["metadata"]["name"] == one.spec["serviceAccountName"]


# -- volumes ----------------------------------------------------------------------------------------------------------


@every_pod
def test_the_projected_token_and_the_state_are_the_agents_alone(place: str) -> None:
    """Design section 8 and the issue: mounted in the sidecar (and its init container), and nowhere else."""
    one = _pod(place)
    state = one.mount_of(one.sidecar, str(config_of(place).agent.state_dir))
    tokens = {volume["name"] for volume in one.spec["volumes"] if "projected" in volume}
    assert tokens
    assert state is not None

    for app in one.apps:
        assert not {mount["name"] for mount in app["volumeMounts"]} & (tokens | {state["name"]})
    for container in one.agents:
        assert {mount["name"] for mount in container["volumeMounts"]} > tokens | {state["name"]}


@every_pod
def test_the_token_has_an_audience_of_its_own_and_is_where_the_agent_looks(place: str) -> None:
    one, method = _pod(place), config_of(place).auto_auth.method
    assert method is not None
    mount = one.mount_of(one.sidecar, method.config.token_path)
    assert mount is not None

    (source,) = one.volume(mount["name"])["projected"]["sources"]

    token = source["serviceAccountToken"]
    assert token["audience"] == "vault"
    assert 600 <= token["expirationSeconds"] <= 3600
    assert f"{mount['mountPath']}/{token['path']}" == method.config.token_path
    assert mount["readOnly"] is True


@every_pod
def test_what_is_written_is_in_memory_and_bounded(place: str) -> None:
    """Memory volumes count as memory of whoever writes them: the container's limit has room for all that is full."""
    one = _pod(place)
    volumes = {volume["name"]: volume["emptyDir"] for volume in one.spec["volumes"] if "emptyDir" in volume}
    assert all(volume["medium"] == "Memory" for volume in volumes.values())
    sizes = {name: _mebibytes(volume["sizeLimit"]) for name, volume in volumes.items()}

    for container in one.agents:
        written = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
        assert set(written) <= set(volumes)
        limit, request = (_mebibytes(container["resources"][kind]["memory"]) for kind in ("limits", "requests"))
        assert limit >= 2 * (MEASURED + sum(sizes[name] for name in written))
        assert request >= MEASURED + sum(sizes[name] for name in written)
        assert "cpu" not in container["resources"]["limits"]


def _mebibytes(text: str) -> int:
    found = re.fullmatch(r"(\d+)Mi", text)
    assert found, text
    return int(found[1])


@every_pod
def test_apps_only_read(place: str) -> None:
    one = _pod(place)
    for app in one.apps:
        assert all(mount.get("readOnly") is True for mount in app["volumeMounts"])
    assert not [mount for each in one.containers for mount in each["volumeMounts"] if "subPath" in mount]


@every_pod
def test_the_apps_file_is_where_its_variable_says(place: str) -> None:
    """Source 004: SECRETS_PATH names a file that the agent writes, on a volume that both see at the same path."""
    one = _pod(place)
    written = {template.destination for template in config_of(place).template}

    for app in one.apps:
        path = environment(app)["SECRETS_PATH"]
        theirs, ours = one.mount_of(app, path), one.mount_of(one.sidecar, path)
        assert path in written
        assert theirs is not None
        assert ours is not None
        assert (theirs["name"], theirs["mountPath"]) == (ours["name"], ours["mountPath"])
        assert "emptyDir" in one.volume(ours["name"])


@every_pod
def test_socket_and_state_have_directories_of_the_agents_own_in_their_volumes(place: str) -> None:
    """A memory volume's root can be written by every container of the pod: sticky will do for a file, not for these."""
    one, config = _pod(place), config_of(place)
    assert config.listener.unix is not None

    for directory in (Path(config.listener.unix.address).parent, Path(str(config.agent.state_dir))):
        mount = one.mount_of(one.sidecar, str(directory))
        assert mount is not None
        assert directory != Path(mount["mountPath"])
        assert "emptyDir" in one.volume(mount["name"])


@every_pod
def test_everybody_looks_for_the_socket_where_it_is(place: str) -> None:
    one, config = _pod(place), config_of(place)
    assert config.listener.unix is not None
    mount = one.mount_of(one.sidecar, config.listener.unix.address)
    assert mount is not None

    for container in (one.sidecar, *one.apps):
        named = environment(container).get("LEASEHOLD_SOCKET")
        mounted = mount in [{k: v for k, v in each.items() if k != "readOnly"} for each in container["volumeMounts"]]
        assert named == (config.listener.unix.address if mounted else None)


# -- the agent's command line and configuration -----------------------------------------------------------------------


@every_pod
def test_every_argument_exists_and_the_configuration_is_where_it_says(place: str) -> None:
    one = _pod(place)
    for container in one.agents:
        arguments = parser(environment(container)).parse_args(container["args"])

        assert "command" not in container, "the image's own entry point"
        assert arguments.command in ("run", "once")
        assert arguments.config in one.files(container)
        assert load(one.files(container)[arguments.config], environ=environment(container)) == config_of(place)


def test_source_004_has_its_containers_paths_and_level() -> None:
    """R004-054, R004-056, R004-059 to R004-064: the article's Deployment, with our image and arguments."""
    one, config = _pod("examples/source-004"), config_of("examples/source-004")

    arguments = parser().parse_args(one.sidecar["args"])

    assert arguments.log_level == "warning"
    assert arguments.config == "/vault/config/agent.toml"
    assert one.spec["serviceAccountName"] == "api-sa"
    assert [each["name"] for each in one.spec["containers"]] == ["leasehold", "app"]
    assert [each["args"][0] for each in one.spec["initContainers"]] == ["once"]
    assert one.volume("vault-secrets")["emptyDir"]["medium"] == "Memory"
    assert config.vault["vault"].address == "https://vault.internal:8200"
    assert config.auto_auth.sink == ()
    assert config.template[0].destination == "/etc/secrets/db-creds"
    assert config.template_config.render_interval == 300.0


def test_source_004_says_how_its_app_could_read_the_login() -> None:
    """What its comment recommends loads, and lies in a memory volume that the app mounts and may read."""
    one = _pod("examples/source-004")
    text = one.files(one.sidecar)["/vault/config/agent.toml"]
    table = re.search(r"(?m)(?:^#   .*\n)+", text)
    assert table is not None

    config = load(text + re.sub(r"(?m)^# *", "", table[0]), environ=environment(one.sidecar))

    (sink,) = config.auto_auth.sink
    mounts = [one.mount_of(container, sink.config.path) for container in (one.sidecar, *one.apps)]
    (volume,) = {mount["name"] for mount in mounts if mount is not None}
    assert None not in mounts
    assert one.volume(volume)["emptyDir"]["medium"] == "Memory"
    assert sink.config.mode == 0o440
    assert one.spec["securityContext"]["fsGroup"]
    assert check.warnings(config) == check.warnings(config_of("examples/source-004"))


@every_pod
def test_roles_are_for_the_apps_uid_alone(place: str) -> None:
    uids = {f"uid:{app['securityContext']['runAsUser']}" for app in _pod(place).apps}

    for role in config_of(place).role.values():
        assert {*role.allow, *(role.allow_rotate or ())} <= uids


@every_pod
def test_the_image_is_pinned_to_this_version(place: str) -> None:
    one = _pod(place)

    assert {each["image"].rpartition(":")[2] for each in one.agents} == {agent.__version__}
    assert all(re.search(r":\d+\.\d+\.\d+$|@sha256:[0-9a-f]{64}$", each["image"]) for each in one.containers)


# -- start and stop ---------------------------------------------------------------------------------------------------


@every_pod
def test_started_is_asked_at_the_health_port_and_nothing_kills_the_agent(place: str) -> None:
    one, config = _pod(place), config_of(place)
    assert config.listener.health is not None
    probe = one.sidecar["startupProbe"]
    (port,) = [each for each in one.sidecar["ports"] if each["name"] == probe["httpGet"]["port"]]

    assert probe["httpGet"]["path"] == "/startupz"
    assert config.listener.health.address.rpartition(":")[2] == str(port["containerPort"])
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 600
    assert not [each["name"] for each in one.containers if "livenessProbe" in each]


def test_a_native_sidecar_comes_before_the_app_and_stays() -> None:
    for place in NATIVE:
        (sidecar,) = _pod(place).spec["initContainers"]
        assert sidecar["restartPolicy"] == "Always"
        assert sidecar == _pod(place).sidecar


def test_without_native_sidecars_the_init_container_hands_over() -> None:
    """Design section 8: `once` through the same state_dir, before any other container."""
    for place in ("base-plain", "examples/source-004"):
        one = _pod(place)
        (once,) = one.spec["initContainers"]
        assert "restartPolicy" not in once
        assert once["args"][0] == "once"
        assert one.mount_of(once, str(config_of(place).agent.state_dir)) is not None
        assert one.sidecar in one.spec["containers"]


def test_readiness_by_credential_is_only_where_it_was_asked_for() -> None:
    asked = {place for place in PODS if any("readinessProbe" in each for each in _pod(place).agents)}

    assert asked == {"examples/app"}
    assert _pod("examples/app").sidecar["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}


@every_pod
def test_the_kubelets_patience_covers_the_apps_drain_and_the_agents_stop(place: str) -> None:
    """A plain sidecar hears SIGTERM with the app, a native one after it; 30 s is what an app has by default."""
    config, patience = config_of(place), _pod(place).spec["terminationGracePeriodSeconds"]

    if place in NATIVE:
        assert not config.agent.stop_grace
        assert patience >= 30 + config.agent.stop_timeout + 5
    else:
        assert config.agent.stop_grace >= 30 + 5
        assert patience >= config.agent.stop_grace + config.agent.stop_timeout + 5


def test_the_two_bases_differ_in_nothing_else() -> None:
    native, plain = _pod("base-native"), _pod("base-plain")
    apart = {"initContainers", "containers"}
    assert {k: v for k, v in native.spec.items() if k not in apart} == {
        k: v for k, v in plain.spec.items() if k not in apart
    }
    assert native.apps == plain.apps
    assert {k: v for k, v in native.sidecar.items() if k != "restartPolicy"} == plain.sidecar
    one, other = config_of("base-native"), config_of("base-plain")
    assert (one.vault, one.auto_auth, one.role, one.template) == (
        other.vault,
        other.auto_auth,
        other.role,
        other.template,
    )


# -- rights in the cluster --------------------------------------------------------------------------------------------


def test_only_the_vault_server_gets_a_right_and_only_to_review_tokens() -> None:
    rights = [one for place in OBJECTS for one in rendered(place) if "rbac" in one["apiVersion"]]

    (binding,) = rights
    assert binding["roleRef"]["name"] == "system:auth-delegator"
    assert [(one["kind"], one["name"], one["namespace"]) for one in binding["subjects"]] == [
        ("ServiceAccount", "vault", "vault")
    ]
