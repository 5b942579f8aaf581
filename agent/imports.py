"""Importing the part of a package that is needed, where the package's own `__init__` would import all of it.

A pod's agent needs one module of hvac and a few of psycopg; their packages load 60 and 40 more, for 80 ms and 6 MiB.
Nothing depends on this but time and memory: whoever imports the package itself, before or after, gets it whole, with
the same modules (`from hvac import adapters`; an attribute that only an import sets is not set twice).
"""

import importlib
import importlib.util
import sys
import threading

_lock = threading.Lock()


def import_below(package: str, *modules: str) -> None:
    """Import these modules of a package without running the package's own `__init__`; blocks.

    No other thread may import the package itself meanwhile.

    Args:
        modules: by full name; they must not need what the `__init__` defines.
    """
    with _lock:
        if package in sys.modules or all(module in sys.modules for module in modules):
            _import(modules)
            return
        spec = importlib.util.find_spec(package)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
        sys.modules[package] = importlib.util.module_from_spec(spec)
        try:
            _import(modules)
        finally:
            del sys.modules[package]  # it is no package that anybody else should find


def _import(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)
