"""Where the middleware stands in ``settings.MIDDLEWARE``."""

from __future__ import annotations

from django.conf import settings
from django.utils.module_loading import import_string


def positions() -> list[int]:
    """The places of `PeeweeMiddleware` and its subclasses. What can't be imported is Django's to complain about."""
    from .middleware import PeeweeMiddleware

    def is_ours(path: str) -> bool:
        try:
            middleware = import_string(path)
        except ImportError:
            return False
        return isinstance(middleware, type) and issubclass(middleware, PeeweeMiddleware)

    return [number for number, path in enumerate(settings.MIDDLEWARE) if is_ours(path)]
