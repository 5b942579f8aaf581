"""Leasehold: the per-pod credential sidecar. Start reading at `agent/app.py`, which builds every part."""

__version__ = "0.1.0"
