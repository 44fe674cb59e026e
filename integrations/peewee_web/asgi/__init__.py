"""Generic ASGI middleware: ``app = PeeweeMiddleware(app, db)``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .middleware import PeeweeMiddleware

__all__ = ["PeeweeMiddleware", "atomic_requests", "non_atomic_requests"]
