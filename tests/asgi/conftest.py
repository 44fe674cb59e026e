"""The same small pool as the core's tests have."""

from tests.core.conftest import database

__all__ = ["database"]
