"""Flask: ``db = Peewee(app)``, or ``db = Peewee()`` and ``db.init_app(app)``."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .extension import Peewee

__all__ = ["Peewee", "atomic_requests", "non_atomic_requests"]
