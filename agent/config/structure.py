"""A parsed document into the frozen classes of `model`, with every mistake and its place.

cattrs walks the classes and gathers the mistakes; `values` judges each value. cattrs is imported when first needed: a
program that only asks for help does not pay for it.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, get_origin

import attrs

from agent.config import model, values
from agent.config.hints import TABLES, Hints
from agent.config.places import METHOD, SERVER, SINK, VAULT, Faults, Path

KEYS = frozenset(name for table in TABLES for name in attrs.fields_dict(table))
"""Every key that means something somewhere."""


def structure(tree: dict[str, Any], faults: Faults) -> model.Config:
    """`tree` as a Config; what cannot be structured is noted and left at a placeholder.

    `faults.broken` then holds the tables that are placeholders: nothing said of them means anything.
    """
    import cattrs

    try:
        config: model.Config = _converter().structure(tree, model.Config)
    except cattrs.BaseValidationError as error:
        hints = Hints()
        for path, text, broken in list(_told(error, (), hints)):
            faults.add(path, text, broken=broken)
            if not broken:
                _remove(tree, path)
    else:
        return config
    for table in faults.broken:
        _hollow(tree, table)
    config = _converter().structure(tree, model.Config)
    return config


def _remove(tree: Any, path: Path) -> None:
    for part in path[:-1]:
        tree = tree[part]
    del tree[path[-1]]


_HOLLOW: dict[Path, dict[str, Any]] = {
    ("role",): {"upstream": ""},
    ("template",): {"destination": ""},
    ("listener",): {"address": ""},
    (SERVER,): {"host": "", "dbname": "", "user": ""},
    (VAULT,): {"address": ""},
    METHOD: {"type": "token_file"},
    SINK: {"config": {"path": ""}},
}
"""By the group of a broken table; one of another group is left out."""


def _hollow(tree: dict[str, Any], table: Path) -> None:
    """Put a placeholder where a table is broken, so that others may still refer to it by name or number."""
    container: Any = tree
    for part in table[:-1]:
        container = container.get(part) if isinstance(container, dict) else None
    name: Any = table[-1]
    hollow = _HOLLOW.get(table if table == METHOD else table[:-1])
    if hollow is None and isinstance(container, dict):
        container.pop(name, None)
    elif hollow is not None and (isinstance(container, list) or (isinstance(container, dict) and name in container)):
        container[name] = dict(hollow)


# -- what cattrs found -----------------------------------------------------------------------------------------------


def _told(error: Any, path: Path, hints: Hints) -> Iterator[tuple[Path, str, bool]]:
    """Every mistake in an exception group of cattrs: place, text, and whether its table is useless."""
    import cattrs

    for sub in error.exceptions:
        place = (*path, *_noted(sub))
        if isinstance(sub, cattrs.BaseValidationError):
            yield from _told(sub, place, hints)
        elif isinstance(sub, cattrs.ForbiddenExtraKeysError):
            for key in sorted(sub.extra_fields):
                yield (*place, key), hints.unknown(key, sub.cl), False
        elif isinstance(sub, KeyError):
            yield place, "is required", True
        elif isinstance(sub, values.Wrong):
            yield place, str(sub), True
        else:  # pragma: no cover - a bug of ours, not a mistake in the file
            raise sub


def _noted(error: BaseException) -> Path:
    """Where cattrs found `error`, seen from the table or array it was at."""
    notes: list[Any] = getattr(error, "__notes__", [])
    return tuple(note.name if hasattr(note, "name") else note.index for note in notes)


# -- the converter ---------------------------------------------------------------------------------------------------


@functools.cache
def _converter() -> Any:
    from cattrs import Converter
    from cattrs.cols import homogenous_tuple_structure_factory, mapping_structure_factory
    from cattrs.gen import make_dict_structure_fn

    def table(cls: Any, converter: Any) -> Any:
        inner = make_dict_structure_fn(
            cls,
            converter,
            _cattrs_forbid_extra_keys=True,
            _cattrs_detailed_validation=True,
            _cattrs_use_linecache=False,
        )
        return _only(dict, "a table", inner)

    def named(cls: Any, converter: Any) -> Any:
        return _only(dict, "a table", mapping_structure_factory(cls, converter))

    def array(cls: Any, converter: Any) -> Any:
        return _only(list, "an array", homogenous_tuple_structure_factory(cls, converter))

    converter = Converter(detailed_validation=True)
    for kind, hook in ((str, values.string), (int, values.integer), (float, values.real), (bool, values.boolean)):
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_func(lambda kind: kind is model.Duration, values.duration)
    converter.register_structure_hook_func(lambda kind: kind is model.Mode, values.mode)
    converter.register_structure_hook_func(lambda kind: _origin(kind) is _LITERAL, values.choice)
    converter.register_structure_hook_factory(lambda kind: _origin(kind) is tuple, array)
    converter.register_structure_hook_factory(lambda kind: _origin(kind) is dict, named)
    converter.register_structure_hook_factory(attrs.has, table)
    return converter


def _origin(kind: Any) -> Any:
    return get_origin(kind)


_LITERAL = _origin(model.SslMode)


def _only(kind: type, name: str, inner: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`inner`, for values of `kind` only: a string can be iterated too, and a table's keys."""

    def hook(value: Any, cls: Any) -> Any:
        if not isinstance(value, kind):
            raise values.Wrong(f"must be {name}, not {values.kind_of(value)}")
        return inner(value, cls)

    return hook
