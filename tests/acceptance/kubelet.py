"""Runs the containers of a manifest as processes, as a kubelet would: their arguments, environment, ids and volumes.

There is no container here: a path below a mount stands for the same path below a directory, in arguments, environment
and configuration alike. With root the ids, the group of the volumes and the lack of every capability are the
manifest's; without it everything is the tests' own.
"""

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.arguments import parser
from tests.acceptance.harness import Program, eventually
from tests.acceptance.others import environment, python_of_others
from tests.issuers import ProjectedToken
from tests.manifests import Document, Pod
from tests.manifests import environment as variables

ROOT = os.geteuid() == 0


class Kubelet:
    """One pod on a node.

    Args:
        pod: from the manifests.
        place: on a memory file system; takes the volumes and the processes' output.
        stands_for: what else is something different here, such as a server's address: old words to new ones. Each must
            occur in the pod's configuration.
        config_maps: files of ConfigMaps that do not come with the manifest, by its name.
        token: makes the tokens of the projected volume.
        started: every process is put there.
    """

    def __init__(
        self,
        pod: Pod,
        place: Path,
        *,
        stands_for: Mapping[str, str],
        config_maps: Mapping[str, Mapping[str, str]],
        token: Callable[[], str],
        started: list[Program],
    ) -> None:
        self.pod = pod
        self._place = place
        self._words = dict(stands_for)
        self._started = started
        self._python = python_of_others() if ROOT else sys.executable
        self._check()
        if not ROOT:
            self._words |= {f"uid:{app['securityContext']['runAsUser']}": f"uid:{os.getuid()}" for app in pod.apps}
        for volume in pod.spec["volumes"]:
            self._make(volume, config_maps, token)

    def _check(self) -> None:
        text = "".join(self.pod.files(self.pod.sidecar).values())
        missing = [word for word in self._words if word not in text]
        assert not missing, f"the configuration does not hold {missing}"

    def volume(self, name: str) -> Path:
        """Its directory."""
        return self._place / "volumes" / name

    def path(self, container: Document, path: str) -> Path:
        """Where that path of the container is here."""
        mount = self.pod.mount_of(container, path)
        assert mount is not None, f"{path} is in the image of {container['name']}"
        return self.volume(mount["name"]) / Path(path).relative_to(mount["mountPath"])

    # -- volumes -----------------------------------------------------------------------------------------------------

    def _make(self, volume: Document, config_maps: Mapping[str, Mapping[str, str]], token: Callable[[], str]) -> None:
        directory = self.volume(volume["name"])
        if "projected" in volume:
            ProjectedToken(directory, token)
        elif "configMap" in volume:
            directory.mkdir(parents=True)
            for name, text in self._files(volume["configMap"]["name"], config_maps).items():
                (directory / name).write_text(self._here(text, self.pod.sidecar))
        else:
            directory.mkdir(parents=True)
            if ROOT:
                os.chown(directory, 0, self.pod.spec["securityContext"]["fsGroup"])
            directory.chmod(0o3777)  # as the kubelet leaves a memory volume, where there is an fsGroup
        if ROOT and "projected" in volume:
            self._give_to_the_group(directory)

    def _give_to_the_group(self, directory: Path) -> None:
        for path in directory.rglob("*"):
            os.chown(path, 0, self.pod.spec["securityContext"]["fsGroup"], follow_symlinks=False)

    def _files(self, name: str, config_maps: Mapping[str, Mapping[str, str]]) -> Mapping[str, str]:
        made = {one["metadata"]["name"]: one["data"] for one in self.pod.documents if one["kind"] == "ConfigMap"}
        return made[name] if name in made else config_maps[name]

    def _here(self, text: str, container: Document) -> str:
        mounts = {one["mountPath"]: str(self.volume(one["name"])) for one in container["volumeMounts"]}
        for old, new in {**self._words, **mounts}.items():
            text = text.replace(old, new)
        return text

    # -- containers --------------------------------------------------------------------------------------------------

    def start(self, container: Document) -> Program:
        """The container's process."""
        assert "command" not in container
        return self._run(container, [self._here(one, container) for one in container["args"]])

    def exec(self, container: Document, *argv: str) -> Program:
        """A command of ours with the container's ids and environment, as `kubectl exec` runs one; its end is there."""
        program = self._run(container, list(argv))
        program.wait()
        return program

    def _run(self, container: Document, argv: list[str]) -> Program:
        directory = self._place / container["name"]
        directory.mkdir(exist_ok=True)
        # The default path of the configuration stands for another one too.
        given = {"LEASEHOLD_CONFIG": parser().parse_args(["run"]).config, **variables(container)}
        found = {name: self._here(value, container) for name, value in given.items()}
        program = Program(
            argv,
            directory,
            python=self._python,
            before=self._before(container),
            environment={**(environment() if ROOT else {}), **found},
        )
        self._started.append(program)
        return program

    def _before(self, container: Document) -> list[str]:
        if not ROOT:
            return []
        context = container["securityContext"]
        ids = [f"--reuid={context['runAsUser']}", f"--regid={context['runAsGroup']}"]
        group = f"--groups={self.pod.spec['securityContext']['fsGroup']}"
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["allowPrivilegeEscalation"] is False
        return ["setpriv", *ids, group, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]

    # -- probes ------------------------------------------------------------------------------------------------------

    def probe(self, container: Document, port: int, kind: str = "startupProbe") -> bool:
        """One question of the kubelet, at the port that the container's stands for."""
        asked = container[kind]["httpGet"]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=container[kind]["timeoutSeconds"])
        try:
            connection.request("GET", asked["path"])
            return 200 <= connection.getresponse().status < 400
        except OSError:
            return False
        finally:
            connection.close()

    def wait_started(self, program: Program, container: Document, port: int) -> None:
        """Return once its startup probe succeeds."""
        came = eventually(lambda: program.code is not None or self.probe(container, port))
        assert came, f"not started: {program!r}\n{program.stderr[-4000:]}"
        assert program.code is None, f"not started: {program!r}\n{program.stderr[-4000:]}"

    def read(self, container: Document, path: str) -> str:
        """What a process of that container reads there; subprocess.CalledProcessError if it may not."""
        code = "import sys; sys.stdout.write(open(sys.argv[1]).read())"
        argv = [*self._before(container), self._python, "-c", code, str(self.path(container, path))]
        return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=20).stdout

    def ask(self, container: Document, role: str) -> dict[str, Any]:
        """What a process of that container gets from the socket."""
        got = self.exec(container, "get", role, "--json")
        assert got.code == 0, got.stderr
        found: dict[str, Any] = json.loads(got.stdout)
        return found
