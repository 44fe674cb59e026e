"""The contract app, once per adapter. Each only translates: what it does is in ``cases.py``."""

from __future__ import annotations

# name of the app → (module in this package with `build(databases) -> app`, kind of server that it needs)
APPS = {
    "wsgi": ("wsgi_app", "wsgi"),
    "asgi": ("asgi_app", "asgi"),
    "flask": ("flask_app", "wsgi"),
    "bottle": ("bottle_app", "wsgi"),
    "django": ("django_app", "wsgi"),
    "django-asgi": ("django_asgi_app", "asgi"),
    "falcon": ("falcon_app", "wsgi"),
    "falcon-asgi": ("falcon_asgi_app", "asgi"),
    "tornado": ("tornado_app", "tornado"),
}

SERVERS = {
    "wsgi": ("waitress", "gthread", "gevent"),
    "asgi": ("uvicorn",),
    "tornado": ("tornado",),
}
