"""The collector's settings, in processes of their own."""

import os
import subprocess
import sys

import pytest


def run(*lines: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_collector_looks_seldom_during_the_start_and_as_usual_after_it() -> None:
    said = run(
        "import gc",
        "usual = gc.get_threshold()",
        "from agent import garbage",
        "garbage.spare_start()",
        "print(gc.get_threshold()[0] >= 10 * usual[0], gc.isenabled())",
        "garbage.settle()",
        "print(gc.get_threshold() == usual, gc.get_freeze_count() > 1000)",
    )

    assert said.split() == ["True"] * 4


def test_a_run_is_spared_before_it_imports_anything_large() -> None:
    said = run(
        "import gc, sys",
        "looks = []",
        "gc.callbacks.append(lambda phase, info: looks.append(phase) if 'agent.cli' in sys.modules else None)",
        "from agent import cli",
        "code = cli.main(['run', '-c', '/dev/null/none'])",
        "print(code, 'agent.app' in sys.modules, looks.count('start') < 20)",
    )

    assert said.split() == ["2", "True", "True"]


@pytest.mark.skipif(not os.confstr("CS_GNU_LIBC_VERSION"), reason="only glibc has heaps by thread")
def test_threads_share_one_heap() -> None:
    """glibc's own report names each heap; a thread that has allocated has one of its own otherwise."""
    heaps = (
        "import ctypes, os, sys, tempfile, threading",
        "libc = ctypes.CDLL(None)",
        "libc.fopen.restype = ctypes.c_void_p",
        "def fill(): libc.free(ctypes.c_void_p(allocate(100)))",
        "allocate = libc.malloc",
        "allocate.restype = ctypes.c_void_p",
        "for _ in range(3):",
        "    thread = threading.Thread(target=fill)",
        "    thread.start()",
        "    thread.join()",
        "path = tempfile.mktemp()",
        "stream = ctypes.c_void_p(libc.fopen(path.encode(), b'w'))",
        "libc.malloc_info(0, stream)",
        "libc.fclose(stream)",
        "print(open(path).read().count('<heap '))",
        "os.unlink(path)",
    )

    assert int(run(*heaps)) > 1
    assert run("from agent.garbage import one_heap", "one_heap()", *heaps) == "1"
