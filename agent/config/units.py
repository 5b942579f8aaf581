"""The types of values that the file writes with a unit."""

from typing import NewType

Duration = NewType("Duration", float)
"""Seconds; in the file a Go-style string such as "1h30m" (also "d" for days)."""

Mode = NewType("Mode", int)
"""Permission bits; in the file an octal string such as "0440"."""
