"""Generic WSGI middleware (PEP 3333): ``app = PeeweeMiddleware(app, db)``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .middleware import COMPLETE, PeeweeMiddleware, ScopeMiddleware

__all__ = ["COMPLETE", "PeeweeMiddleware", "ScopeMiddleware", "atomic_requests", "non_atomic_requests"]
