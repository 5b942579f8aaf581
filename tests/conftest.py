"""What every test gets. Servers come from fix_*.py, one file per concern."""

import pytest
import structlog

from tests.fakes import FakeClock

pytest_plugins = ["tests.fix_loop", "tests.fix_postgres", "tests.fix_vault"]


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still until the test moves it."""
    return FakeClock()


@pytest.fixture(autouse=True)
def _log_as_ever() -> None:
    """Each test begins with logging as it is before anybody has set it up: no level of another test's hides a line."""
    structlog.reset_defaults()
