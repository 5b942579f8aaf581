import structlog  # noqa: F401 - it blocks while it is imported; the program has done that long before it logs in
