"""Django: ``"peewee_web.django"`` in INSTALLED_APPS, ``"peewee_web.django.PeeweeMiddleware"`` first in MIDDLEWARE."""

from ..core.atomic import atomic_requests, non_atomic_requests
from .commands import PeeweeCommand
from .databases import Model, databases
from .middleware import PeeweeMiddleware

__all__ = ["Model", "PeeweeCommand", "PeeweeMiddleware", "atomic_requests", "databases", "non_atomic_requests"]
