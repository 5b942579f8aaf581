"""What one rendering may use: loop turns and calls, processor time, and memory. Pure counting, no Jinja.

Processor time is counted in units of work, never measured: a template that passes once passes on a busy machine too.
One unit is about what Python needs for one node of the template, less than a microsecond.
"""

from collections.abc import Iterable
from typing import Any

from agent.errors import RenderError

MAX_STEPS = 10_000
MAX_WORK = 250_000
LARGEST = 2**63
"""Numbers stay below this on either side of zero: arithmetic on longer ones can take minutes in one go."""

_ITEM = 16  # an item of a list weighs as much memory as this many characters
_STRETCH = 64  # characters that are looked at in a unit of work


class Budget:
    """What is left for one rendering.

    Args:
        max_size: bytes that the rendering may produce; four times as much may be made on the way.
    """

    def __init__(self, max_size: int) -> None:
        self._steps = MAX_STEPS
        self._work = MAX_WORK
        self._made = 4 * max_size

    def step(self, count: int = 1, *, work: int = 1) -> None:
        """`count` loop turns or calls are about to happen, each of so many nodes of the template."""
        self._steps -= count
        if self._steps < 0:
            raise RenderError(f"the template takes more than {MAX_STEPS} loop turns and calls")
        self.work(count * work)

    def work(self, amount: int) -> None:
        """So much is about to be done."""
        self._work -= amount
        if self._work < 0:
            raise RenderError("the template takes too much work: let it do less in its loops")

    def make(self, size: int) -> None:
        """`size` characters are about to be made, or have been."""
        self._made -= size
        if self._made < 0:
            raise RenderError("the template makes too much text on the way: raise template_config.max_size if it must")

    def make_value(self, value: Any) -> None:
        """A value has come out of a call or a filter: a text, a list or a number."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, list | tuple):
            self.make(_ITEM * len(value))
        elif isinstance(value, int) and not -LARGEST < value < LARGEST:
            raise RenderError("a number is too large")

    def weigh(self, value: Any) -> None:
        """`value` is about to be looked at as a whole: compared, sorted, hashed, written as JSON.

        A list that stands in two places is counted twice, since whoever looks at it goes there twice: lists of lists of
        lists can hold one text a billion times.
        """
        if isinstance(value, str):
            self.work(1 + len(value) // _STRETCH)
            return
        left: list[Any] = [value]
        while left:
            one = left.pop()
            self.work(1 + (len(one) // _STRETCH if isinstance(one, str) else 0))
            left += _inside(one)


_HOLDERS: tuple[type[Iterable[Any]], ...] = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))


def _inside(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return (*value, *value.values())
    return value if isinstance(value, _HOLDERS) else ()
