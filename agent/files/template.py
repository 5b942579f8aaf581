"""From the configuration's [[template]] to a function that renders it.

A rendering takes all its credentials at one moment, ends within a bound, and fails with one line that names the
template, its line and the reason, and no value.
"""

import os
import stat
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agent.config import model
from agent.errors import ConfigError, RenderError
from agent.files import formats
from agent.files.credential import Credential

if TYPE_CHECKING:
    from jinja2 import Template, nodes

    from agent.files.sandbox import Sandbox

_FILENAME = "<template>"
_LONGEST_LINE = 500
_MAX_SOURCE = 65_536
"""Bytes of a template: Jinja compiles that much in about a second."""


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """What a file should hold.

    Attributes:
        shows_life: it shows something that a renewal changes, such as the remaining TTL.
    """

    data: bytes = field(repr=False)
    shows_life: bool


Render = Callable[[Mapping[str, Credential]], Rendering]
"""From credentials by role to bytes; raises RenderError."""


def check_template(template: model.Template, roles: Mapping[str, model.Role]) -> list[str]:
    """Every mistake in `template`, one line each; none means that it can be rendered.

    Reads the template's source file, so it blocks.
    """
    try:
        compiled(template, roles, model.TemplateConfig())
    except ConfigError as error:
        return list(error.mistakes)
    return []


def compiled(template: model.Template, roles: Mapping[str, model.Role], config: model.TemplateConfig) -> Render:
    """The template as a function, for one rendering at a time. Blocks.

    Raises:
        ConfigError: with every mistake.
    """
    mistakes: list[str] = []
    given = [name for name in ("source", "contents", "format") if getattr(template, name) is not None]
    render: Render | None = None
    if len(given) != 1:
        mistakes.append(f"exactly one of source, contents and format is needed, not {' and '.join(given) or 'none'}")
    elif template.format is not None:
        mistakes += _format_mistakes(template, template.format, roles)
        render = _from_format(template, template.format, config.max_size)
    else:
        render = _from_source(template, config.max_size, mistakes)
    if mistakes or render is None:
        raise ConfigError([_printable(line) for line in mistakes])
    return render


# -- ready-made formats ---------------------------------------------------------------------------------------------


def _format_mistakes(template: model.Template, name: str, roles: Mapping[str, model.Role]) -> list[str]:
    mistakes = []
    if len(template.roles) != 1:
        mistakes.append(f'format = "{name}" needs exactly one role, not {len(template.roles)}')
    if name == "pgpass" and template.perms & 0o077:
        mistakes.append(
            f'perms = "{template.perms:04o}": libpq ignores a password file that others may read; '
            'set perms = "0400" and user to the app\'s'
        )
    if name in formats.NEEDS_CONNECTION:
        # The embedded engine mints users and nothing more; other upstreams may name the place themselves.
        unplaced = [role for role in template.roles if role in roles and _without_place(roles[role])]
        mistakes += [
            f'format = "{name}" needs to know where to connect: add connection = {{ host, dbname }} to role "{role}"'
            for role in unplaced
        ]
    return mistakes


def _without_place(role: model.Role) -> bool:
    return role.connection is None and role.upstream.partition(".")[0] == "postgresql"


def _from_format(template: model.Template, name: str, max_size: int) -> Render:
    write = formats.FORMATS[name]

    def render(credentials: Mapping[str, Credential]) -> Rendering:
        (credential,) = credentials.values()
        data = write(credential, template.prefix).encode()
        if len(data) > max_size:
            raise _too_long(max_size)
        return Rendering(data=data, shows_life=credential.shows_life)

    return render


# -- Jinja templates ------------------------------------------------------------------------------------------------


def _from_source(template: model.Template, max_size: int, mistakes: list[str]) -> Render | None:
    # Imported here: it costs some 40 ms, and who uses ready-made formats never needs it.
    from jinja2 import TemplateSyntaxError

    from agent.files.sandbox import Sandbox

    sandbox = Sandbox(max_size)
    try:
        tree = sandbox.parse(_text(template))
        mistakes += _template_mistakes(sandbox, tree, template.roles)
        return _from_jinja(sandbox, sandbox.counting(tree), max_size)
    except RenderError as error:
        mistakes.append(str(error))
    except TemplateSyntaxError as error:
        mistakes.append(f"line {error.lineno}: {error.message}")
    except (RecursionError, SyntaxError, ValueError) as error:
        mistakes.append(f"not a template: {type(error).__name__}")
    return None


def _text(template: model.Template) -> str:
    if template.contents is not None:
        if len(template.contents.encode()) > _MAX_SOURCE:
            raise RenderError(f"contents are longer than {_MAX_SOURCE} bytes")
        return template.contents
    source = Path(template.source or "")
    try:
        # Without waiting: a pipe in its place would hold up the start for ever.
        descriptor = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise RenderError(f"source {source} is not a regular file")
            content = file.read(_MAX_SOURCE + 1)
        if len(content) > _MAX_SOURCE:
            raise RenderError(f"source {source} is longer than {_MAX_SOURCE} bytes")
        return content.decode()
    except OSError as error:
        raise RenderError(f"source {source}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise RenderError(f"source {source} is not UTF-8") from None


def _template_mistakes(sandbox: "Sandbox", tree: "nodes.Template", roles: tuple[str, ...]) -> list[str]:
    from jinja2 import meta, nodes

    mistakes = []
    for role, line in _roles_named(tree):
        if role not in roles:
            mistakes.append(f'line {line}: role "{role}" is not among the template\'s roles: add it there')
    others = tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends))
    mistakes += [f"line {node.lineno}: a template stands alone: no include, import or extends" for node in others]
    mistakes += [f"line {n.lineno}: recursive loops are not available" for n in tree.find_all(nodes.For) if n.recursive]
    found = meta.TrackingCodeGenerator(sandbox)
    found.optimizer = None  # see Sandbox
    found.visit(tree)
    undeclared = found.undeclared_identifiers - set(sandbox.globals)
    lines = {node.name: node.lineno for node in tree.find_all(nodes.NSRef)}
    lines |= {node.name: node.lineno for node in reversed([*tree.find_all(nodes.Name)])}
    return mistakes + [f"line {lines[name]}: '{name}' is undefined" for name in sorted(undeclared)]


def _roles_named(tree: "nodes.Template") -> list[tuple[str, int]]:
    """The role and line of each literal `secret("…")`."""
    from jinja2 import nodes

    return [
        (argument.value, call.lineno)
        for call in tree.find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "secret"
        for argument in call.args
        if isinstance(argument, nodes.Const) and isinstance(argument.value, str)
    ]


def _from_jinja(sandbox: "Sandbox", template: "Template", max_size: int) -> Render:
    def render(credentials: Mapping[str, Credential]) -> Rendering:
        sandbox.begin(credentials, max_size)
        try:
            data = _collect(template, max_size)
        except Exception as error:  # noqa: BLE001 - templates raise anything; it leaves as RenderError
            # Without its cause: Python's messages quote values, int("…") for one.
            raise RenderError(_explained(error)) from None
        finally:
            sandbox.begin({}, max_size)
        return Rendering(data=data, shows_life=any(one.shows_life for one in credentials.values()))

    return render


def _collect(template: "Template", max_size: int) -> bytes:
    pieces = []
    left = max_size
    for piece in template.generate():
        encoded = piece.encode()
        left -= len(encoded)
        if left < 0:
            raise _too_long(max_size)
        pieces.append(encoded)
    return b"".join(pieces)


def _explained(error: Exception) -> str:
    from jinja2 import UndefinedError

    ours = isinstance(error, RenderError | UndefinedError)
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == _FILENAME]
    where = f"line {lines[-1]}: " if lines else ""
    return _printable(where + (str(error) if ours else f"{type(error).__name__} in an expression"))


def _printable(line: str) -> str:
    """The line, whatever of a template's text it quotes: one line, nothing that a terminal obeys, not a page of it."""
    shown = "".join(char if char.isprintable() else "?" for char in line[:_LONGEST_LINE])
    return shown if len(line) <= _LONGEST_LINE else f"{shown}…"


def _too_long(max_size: int) -> RenderError:
    return RenderError(f"more than {max_size} bytes: shorten it, or raise template_config.max_size")
