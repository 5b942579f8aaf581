"""Values out of bytes, the same with and without the fuzzer: small changes of the bytes are small changes of these."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Input:
    """Takes values off the front of `data`; an exhausted one gives zeros and empty texts."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        """0 to 255."""
        taken = self._data[self._at : self._at + 1]
        self._at += 1
        return taken[0] if taken else 0

    def choice(self, options: Sequence[T]) -> T:
        """One of `options`, of which there are at most 256."""
        return options[self.number() % len(options)]

    def piece(self) -> bytes:
        """Bytes up to the next NUL."""
        end = self._data.find(b"\0", self._at)
        end = len(self._data) if end < 0 else end
        taken = self._data[self._at : end]
        self._at = end + 1
        return taken

    def text(self) -> str:
        """The next piece as text; what is no UTF-8 becomes lone surrogates, as in the names of files."""
        return self.piece().decode("utf-8", "surrogateescape")

    def rest(self) -> bytes:
        """All that is left."""
        taken = self._data[self._at :]
        self._at = len(self._data)
        return taken

    @property
    def empty(self) -> bool:
        """Whether nothing is left."""
        return self._at >= len(self._data)
