"""Tornado: ``class Notes(PeeweeRequestHandler): ...`` and ``Application(routes, peewee=db)``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .handlers import PeeweeMixin, PeeweeRequestHandler, PeeweeWebSocketHandler

__all__ = [
    "PeeweeMixin",
    "PeeweeRequestHandler",
    "PeeweeWebSocketHandler",
    "atomic_requests",
    "non_atomic_requests",
]
