"""The event loop of every test runs in asyncio's debug mode, and nothing of `agent` may block it."""

from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx

# Where blocking is meant, by the end of the file's name and the function.
_ALLOWED = (
    # These stand in for a thread, which a moved clock would not wait for.
    ("tests/unit/files/builders.py", "inline"),
    ("tests/unit/files/test_files.py", "late"),
)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Debug mode: a call from the wrong thread raises, a coroutine nobody awaited tells where it was made."""
    config.option.asyncio_debug = True


@pytest.fixture(autouse=True)
def nothing_blocks() -> Iterator[None]:
    """A blocking call (a file, a sleep, a look-up) made by `agent` in a running loop raises BlockingError.

    `agent.dev` is left out: it is synchronous on purpose, and tests pause servers from where they stand.
    """
    with blockbuster_ctx("agent", excluded_modules=["agent.dev"]) as watch:
        for function in watch.functions.values():
            for file, name in _ALLOWED:
                function.can_block_in(file, name)
        yield


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What libraries logged, less debug mode's remarks that a step took long: this machine may be busy."""
    return [record.getMessage() for record in caplog.records if not record.getMessage().startswith("Executing <")]
