"""What every test gets. Servers come from fix_*.py, one file per concern."""

import pytest

from tests.fakes import FakeClock

pytest_plugins = ["tests.fix_loop", "tests.fix_postgres", "tests.fix_vault"]


@pytest.fixture
def clock() -> FakeClock:
    """Time that stands still until the test moves it."""
    return FakeClock()
