"""Falcon, WSGI and ASGI: ``falcon.App(middleware=[PeeweeMiddleware(db)])``, or ``install(app, db)``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .installation import install
from .middleware import PeeweeMiddleware

__all__ = ["PeeweeMiddleware", "atomic_requests", "install", "non_atomic_requests"]
