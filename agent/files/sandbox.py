"""Jinja with everything taken away that a template for credentials does not need, and a limit on the rest.

Whoever can edit a template, or choose a value that it shows, cannot reach Python's internals, nor eat the agent's
memory or processor: every loop turn and call is counted with the size of what it repeats, every character that an
expression makes before more can be made of it, and every value by its whole weight before it is compared, sorted,
hashed or written as JSON. What could make much out of little in one go (`*` on texts, `**`, `%`, `format`, `center`,
ranges, numbers of many digits) is not there. The only file that imports jinja2, which is slow to import: nobody imports
this one at the top.

No message holds a value: names are shown only if they stand in the template itself.
"""

import itertools
import types
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import Any, cast

from jinja2 import StrictUndefined, Template, nodes
from jinja2.filters import FILTERS
from jinja2.runtime import BlockReference, Context, LoopContext, Macro, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from agent.errors import RenderError
from agent.files import quoting
from agent.files.budget import LARGEST, MAX_STEPS, Budget
from agent.files.credential import Credential

_BORROWED = (
    *("default", "d", "length", "count", "first", "last", "int", "list"),
    *("sort", "dictsort", "items"),
)
_METHODS: dict[type, set[str]] = {
    str: {"upper", "lower", "strip", "lstrip", "rstrip", "startswith", "endswith", "split", "partition", "isdigit"},
    dict: {"get", "items", "keys", "values"},
}
_NOT_TEXT = "is not a text: choose one of its fields, or add |json"


class Sandbox(ImmutableSandboxedEnvironment):
    """One template's environment; one rendering at a time.

    Attributes:
        budget: of the rendering under way.
        credentials: by role, for `secret(…)`.
        names: every name and text that stands in the template.
    """

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, max_size: int) -> None:
        self.budget = Budget(max_size)
        self.credentials: dict[str, Credential] = {}
        self.names: frozenset[str] = frozenset()
        self._per_call = 1  # nodes of the longest macro or block: what a call may cost
        super().__init__(
            undefined=_undefined_in(self),
            finalize=self._printed,
            autoescape=False,
            optimized=False,  # folding constants takes cubic time: 300 minus signs before a name took seconds
            keep_trailing_newline=True,
        )
        # Jinja joins what a macro or a {% set %} block has printed by this.
        self.concat = self._concat  # type: ignore[method-assign]
        self._offered: tuple[Callable[..., Any], ...] = (self._secret, self._range, dict, Namespace)
        self.globals = {"secret": self._secret, "range": self._range, "dict": dict, "namespace": Namespace}
        self.filters = {name: FILTERS[name] for name in _BORROWED} | self._filters()

    def _filters(self) -> dict[str, Callable[..., Any]]:
        quoted = {name: _of_text(name, getattr(quoting, name)) for name in ("dotenv", "shell", "pgpass", "pg_service")}
        quoted |= {name: _of_text(name, quoting.url) for name in ("url", "urlencode")}
        quoted |= {"conninfo": _of_text("conninfo", quoting.conninfo)}
        quoted |= dict.fromkeys(("json", "tojson", "yaml"), _json)
        texts = {name: _of_text(name, FILTERS[name]) for name in ("upper", "lower", "trim", "string")}
        return (
            quoted
            | texts
            | {
                "join": self._join,
                "replace": self._replace,
                "indent": self._indent,
                "_turns": self._turns,
                "_made": self._made,
                "_weighed": self._weighed,
                "_concat": self._concat,
            }
        )

    def counting(self, tree: nodes.Template) -> Template:
        """The parsed template, compiled so that it counts what it does."""
        self.names = _names_in(tree)
        self._per_call = max(
            (_size(one) for one in tree.find_all((nodes.Macro, nodes.CallBlock, nodes.Block))), default=1
        )
        _Counting().visit(tree)
        tree.set_environment(self)
        return self.from_string(tree)

    def begin(self, credentials: Mapping[str, Credential], max_size: int) -> None:
        """A new rendering, of these credentials, with a fresh budget."""
        self.credentials = dict(credentials)
        self.budget = Budget(max_size)

    # -- what a template calls --------------------------------------------------------------------------------------

    def _secret(self, role: str) -> Credential:
        try:
            return self.credentials[role]
        except (KeyError, TypeError):
            raise RenderError(f"role {self.shown(role)} is not among the template's roles: add it there") from None

    def _range(self, *bounds: int) -> range:
        numbers = range(*bounds)
        if numbers[MAX_STEPS:]:
            raise RenderError(f"a range of more than {MAX_STEPS} numbers")
        return numbers

    def _join(self, items: Iterable[Any], separator: str = "") -> str:
        texts = [self._printed(item) for item in self._turns(items)]
        self.budget.make(len(separator) * len(texts))
        return separator.join(texts)

    def _replace(self, text: str, old: str, new: str) -> str:
        self.budget.make(text.count(old) * len(new))
        return text.replace(old, new)

    def _indent(self, text: str, width: int = 4, first: bool = False) -> str:
        lines = text.splitlines(keepends=True)
        self.budget.make(max(0, width) * len(lines))
        return "".join((" " * width if first or n else "") + line for n, line in enumerate(lines))

    # -- what Jinja asks --------------------------------------------------------------------------------------------

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call what is on offer, and nothing else."""
        if not self._callable(obj):
            self.budget.step()
            raise RenderError(f"{self.shown(getattr(obj, '__name__', None))} cannot be called in a template")
        self.budget.step(work=self._per_call if isinstance(obj, Macro | BlockReference) else 1)
        for value in (*args, *kwargs.values()):
            self.budget.weigh(value)
        if isinstance(obj, types.BuiltinMethodType) and isinstance(obj.__self__, str):
            self.budget.weigh(obj.__self__)
        return self._made(context.call(obj, *args, **kwargs))

    def _callable(self, obj: Any) -> bool:
        if isinstance(obj, types.BuiltinMethodType):
            return obj.__name__ in _METHODS.get(type(obj.__self__), ())
        if isinstance(obj, types.MethodType) and isinstance(obj.__self__, LoopContext):
            return obj.__name__ in ("cycle", "changed")
        return isinstance(obj, Macro | BlockReference | Undefined) or any(obj == one for one in self._offered)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Arithmetic on numbers, `+` on two texts or two lists."""
        for side in (left, right):
            if isinstance(side, Undefined):
                str(side)  # raises: what it is that is undefined
        if operator == "**":
            raise RenderError("the operator ** is not available in templates")
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        alike = operator == "+" and type(left) is type(right) and isinstance(left, str | list | tuple)
        if not numbers and not alike:
            raise RenderError(f"the operator {operator} does not work on these values; join texts with ~")
        if alike:
            self.budget.make_value(left)
            self.budget.make_value(right)
        result = self.binop_table[operator](left, right)
        if numbers and not -LARGEST < result < LARGEST:
            raise RenderError(f"the operator {operator} makes too large a number")
        return result

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        """Raised as soon as it is used."""
        return self.undefined(f"{self.shown(attribute)} is out of bounds for templates")

    def shown(self, name: object) -> str:
        """A name for a message, if it stands in the template; what was computed might be a secret."""
        return repr(name) if isinstance(name, str) and name in self.names else "(a computed name)"

    # -- what is counted --------------------------------------------------------------------------------------------

    def _turns(self, items: Iterable[Any], work: int = 1) -> list[Any]:
        """The items, each of which is about to be handled by `work` nodes of the template."""
        if isinstance(items, Sized):
            self.budget.step(len(items), work=work)
            return list(items)
        taken = list(itertools.islice(items, MAX_STEPS + 1))
        self.budget.step(len(taken), work=work)
        return taken

    def _made(self, value: Any) -> Any:
        self.budget.make_value(value)
        return value

    def _weighed(self, value: Any) -> Any:
        self.budget.weigh(value)
        return value

    def _concat(self, texts: Iterable[Any]) -> str:
        parts = [text if isinstance(text, str) else self._printed(text) for text in texts]
        self.budget.make(sum(map(len, parts)))
        return "".join(parts)

    def _printed(self, value: Any) -> str:
        if isinstance(value, Undefined):
            return str(value)  # raises
        if not isinstance(value, str | int | float):
            raise RenderError(f"a value of type {type(value).__name__} {_NOT_TEXT}")
        text = str(value)
        self.budget.make(len(text))
        return text


def _undefined_in(sandbox: Sandbox) -> type[StrictUndefined]:
    class Strict(StrictUndefined):
        """Strict, and silent about computed names."""

        __slots__ = ()

        @property
        def _undefined_message(self) -> str:
            hint = self._undefined_hint
            return hint if hint else f"{sandbox.shown(self._undefined_name)} is undefined"

    return Strict


def _of_text(name: str, quote: Callable[[str], str]) -> Callable[[Any], str]:
    def apply(value: Any) -> str:
        if isinstance(value, Undefined):
            str(value)  # raises
        if not isinstance(value, str | int | float):
            raise RenderError(f"|{name}: a value of type {type(value).__name__} {_NOT_TEXT}")
        return quote(str(value))

    return apply


def _json(value: Any) -> str:
    if isinstance(value, Undefined):
        str(value)  # raises
    try:
        return quoting.json_text(value.as_mapping() if isinstance(value, Credential) else value)
    except (TypeError, ValueError):
        raise RenderError(f"|json: a value of type {type(value).__name__} cannot be written as JSON") from None


class _Counting(NodeTransformer):
    """Makes a parsed template count: loop turns, joined texts, what filters and slices make, and what is compared."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        size = sum(_size(one) for one in (*node.body, *([] if node.test is None else [node.test])))
        self.generic_visit(node)
        node.iter = _filtered(node.iter, "_turns", nodes.Const(size))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Filter(self, node: nodes.Filter) -> nodes.Expr:
        self.generic_visit(node)
        if node.node is not None:  # None: the filter of a block
            node.node = _filtered(node.node, "_weighed")
        return _filtered(node, "_made")

    def visit_Test(self, node: nodes.Test) -> nodes.Expr:
        self.generic_visit(node)
        node.node = _filtered(node.node, "_weighed")
        node.args = [_filtered(argument, "_weighed") for argument in node.args]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Expr:
        self.generic_visit(node)
        for operand in node.ops:  # the first one is looked at no further than the others go
            operand.expr = _filtered(operand.expr, "_weighed")
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        self.generic_visit(node)
        node.key = _filtered(node.key, "_weighed")
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _filtered(node, "_made")
        if not isinstance(node.arg, nodes.Const):
            node.arg = _filtered(node.arg, "_weighed")
        return node


def _size(node: nodes.Node) -> int:
    """Nodes in it."""
    return 1 + sum(1 for _ in node.find_all(nodes.Node))


def _filtered(node: nodes.Node, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, list(arguments), [], None, None, lineno=node.lineno)


def _names_in(tree: nodes.Template) -> frozenset[str]:
    """Every name and text that stands in a template."""
    found = {node.name for node in tree.find_all(nodes.Name)}
    found |= {node.attr for node in tree.find_all(nodes.Getattr)}
    found |= {node.key for node in tree.find_all(nodes.Keyword)}
    return frozenset(found | {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)})
