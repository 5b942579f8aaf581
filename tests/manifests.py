"""The manifests of deploy/kubernetes as a cluster gets them, in plain Python: the part of kustomize that they use.

Whatever else a kustomization says is refused, so that nothing is left out unseen; where kubectl or kustomize is at
hand, a test compares with it (tests/unit/test_kubernetes.py).
"""

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1] / "deploy" / "kubernetes"
_KNOWN = {"apiVersion", "kind", "resources", "components", "patches", "images", "configMapGenerator", "namespace"}
_CLUSTER_WIDE = {"ClusterRoleBinding"}
_LISTS = {"volumeMounts": "mountPath"}
"""What tells the items of a list apart, where it is not their `name`."""

Document = dict[str, Any]


def rendered(place: str) -> list[Document]:
    """Every object of that directory below `ROOT`."""
    return _built(ROOT / place, [])


def _built(directory: Path, so_far: list[Document]) -> list[Document]:
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    unknown = set(kustomization) - _KNOWN
    assert not unknown, f"{directory}: this does not read {unknown}"
    found = list(so_far)
    for name in kustomization.get("resources", ()):
        path = directory / name
        found += _built(path, []) if path.is_dir() else list(yaml.safe_load_all(path.read_text()))
    for name in kustomization.get("components", ()):
        found = _built(directory / name, found)
    for one in kustomization.get("configMapGenerator", ()):
        found = _generated(found, directory, one)
    for one in kustomization.get("patches", ()):
        found = [_patched(document, directory, one) for document in found]
    for document in found:
        _set_images(document, kustomization.get("images", ()))
        if "namespace" in kustomization and document["kind"] not in _CLUSTER_WIDE:
            document["metadata"]["namespace"] = kustomization["namespace"]
    return found


def _generated(found: list[Document], directory: Path, one: Mapping[str, Any]) -> list[Document]:
    assert set(one) <= {"name", "files", "behavior"}, one
    data = {name: (directory / name).read_text() for name in one["files"]}
    made = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": one["name"]}, "data": data}
    kept = [each for each in found if (each["kind"], each["metadata"]["name"]) != ("ConfigMap", one["name"])]
    assert (len(kept) < len(found)) == (one.get("behavior") == "replace"), one
    return [*kept, made]


def _patched(document: Document, directory: Path, one: Mapping[str, Any]) -> Document:
    assert set(one) <= {"path", "target"}, one
    patch = yaml.safe_load((directory / one["path"]).read_text())
    meant = one.get("target") or {"kind": patch["kind"], "name": patch["metadata"]["name"]}
    actual = {"kind": document["kind"], "name": document["metadata"]["name"]}
    if any(actual[key] != value for key, value in meant.items()):
        return document
    merged: Document = _merged(document, {**patch, "metadata": document["metadata"]})
    return merged


def _merged(old: Any, new: Any, key: str = "") -> Any:
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{name: _merged(old.get(name), value, name) for name, value in new.items()}}
    if isinstance(old, list) and isinstance(new, list) and all(isinstance(item, dict) for item in [*old, *new]):
        name = _LISTS.get(key, "name")
        named = {item[name]: item for item in old}
        return list({**named, **{item[name]: _merged(named.get(item[name]), item) for item in new}}.values())
    return copy.deepcopy(new)


def _set_images(document: Document, images: Any) -> None:
    for container in containers(document):
        for one in images:
            name, _, tag = container["image"].rpartition(":")
            if name == one["name"]:
                container["image"] = f"{one.get('newName', name)}:{one.get('newTag', tag)}"


def containers(document: Document) -> Iterator[Document]:
    """Every container of a Deployment, those of the start first."""
    spec = document.get("spec", {}).get("template", {}).get("spec", {})
    yield from spec.get("initContainers", ())
    yield from spec.get("containers", ())


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One Deployment's pod, with what the tests ask of it.

    Attributes:
        spec: of the pod.
        documents: all that comes with it.
    """

    spec: Document
    documents: list[Document]

    @property
    def containers(self) -> list[Document]:
        """All, those of the start first."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]

    @property
    def agents(self) -> list[Document]:
        """Those that run our image."""
        return [one for one in self.containers if one["image"].rpartition(":")[0].endswith("/leasehold")]

    @property
    def sidecar(self) -> Document:
        """The agent that stays."""
        (one,) = [each for each in self.agents if each["args"][0] == "run"]
        return one

    @property
    def apps(self) -> list[Document]:
        """The others."""
        return [one for one in self.containers if one not in self.agents]

    def volume(self, name: str) -> Document:
        """By its name."""
        (one,) = [each for each in self.spec["volumes"] if each["name"] == name]
        return dict(one)

    def mount_of(self, container: Document, path: str) -> Document | None:
        """The mount that the path lies in, the nearest; None if it lies in the image."""
        around = [one for one in container["volumeMounts"] if Path(path).is_relative_to(one["mountPath"])]
        return max(around, key=lambda one: len(one["mountPath"]), default=None)

    def files(self, container: Document) -> dict[str, str]:
        """What the mounted ConfigMaps of this pod show there, by path."""
        maps = {one["metadata"]["name"]: one["data"] for one in self.documents if one["kind"] == "ConfigMap"}
        return {
            f"{mount['mountPath']}/{name}": text
            for mount in container["volumeMounts"]
            for name, text in maps.get(self.volume(mount["name"]).get("configMap", {}).get("name"), {}).items()
        }


def pod(place: str) -> Pod:
    """The pod of the one Deployment there."""
    documents = rendered(place)
    (deployment,) = [one for one in documents if one["kind"] == "Deployment"]
    return Pod(spec=deployment["spec"]["template"]["spec"], documents=documents)


def environment(container: Document) -> dict[str, str]:
    """What the container finds, with an address for what only the cluster knows."""
    return {one["name"]: one.get("value", "127.0.0.1") for one in container.get("env", ())}


def without_hashes(text: str) -> str:
    """Generated ConfigMaps are named NAME-HASH by kustomize."""
    return re.sub(r"\b(leasehold|vault-config)-[0-9a-z]{10}\b", r"\1", text)
