"""The image's recipe keeps to its promises; building it needs a registry, so that is left to whoever publishes it."""

import fnmatch
import re
from pathlib import Path

TREE = Path(__file__).parents[2]
TEXT = re.sub(r"\\\n", " ", (TREE / "Dockerfile").read_text())
STEPS = [line.split(None, 1) for line in TEXT.splitlines() if line and not line.startswith("#")]
LAST = STEPS[max(i for i, (word, _) in enumerate(STEPS) if word == "FROM") :]


def _of(steps: list[list[str]], word: str) -> list[str]:
    return [rest for first, rest in steps if first == word]


def test_every_stage_stands_on_the_same_base_pinned_by_digest() -> None:
    (base,) = _of(STEPS, "ARG")
    assert re.fullmatch(r"PYTHON=\S+/python:3\.\d+-slim@sha256:[0-9a-f]{64}", base)
    assert {stage.split()[0] for stage in _of(STEPS, "FROM")} == {"${PYTHON}"}


def test_the_last_stage_installs_nothing_and_keeps_no_installer() -> None:
    commands = " ".join(_of(LAST, "RUN"))
    assert not re.search(r"pip install|apt|apk|curl|wget|gcc", commands)
    assert "pip uninstall" in commands
    assert "ensurepip" in commands


def test_every_dependency_is_installed_with_its_hash() -> None:
    installs = re.findall(r" install [^&]*", " ".join(_of(STEPS, "RUN")))
    assert installs
    assert all("--require-hashes" in one or "--no-index" in one for one in installs)


def test_it_runs_as_a_number_that_is_not_root() -> None:
    (user,) = _of(LAST, "USER")
    uid, gid = user.split(":")
    assert (int(uid), int(gid)) > (0, 0)


def test_it_starts_the_agent_without_a_shell_and_names_no_secret() -> None:
    assert _of(LAST, "ENTRYPOINT") == ['["leasehold"]']
    assert _of(LAST, "CMD") == ['["run"]']
    assert not re.search(r"password|token|secret_", " ".join(_of(STEPS, "ENV")), re.IGNORECASE)


def test_the_program_is_compiled_for_good() -> None:
    assert re.search(r"compileall [^&]*-f [^&]*--invalidation-mode unchecked-hash", " ".join(_of(STEPS, "RUN")))


def test_all_that_is_copied_exists_and_is_let_through_and_nothing_else_is() -> None:
    let_through = [line[1:] for line in (TREE / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [word for rest in _of(STEPS, "COPY") if not rest.startswith("--from") for word in rest.split()[:-1]]
    assert all((TREE / name).exists() for name in copied)
    assert all(any(fnmatch.fnmatch(name, one) for one in let_through) for name in copied)
    assert sorted(let_through) == sorted(copied)
