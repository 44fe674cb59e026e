"""Bottle: ``app.install(PeeweePlugin(db))``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .plugin import PeeweePlugin

__all__ = ["PeeweePlugin", "atomic_requests", "non_atomic_requests"]
