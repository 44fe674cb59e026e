"""What Django answers when there was no connection: ``handler503``, ``503.html``, or a line of text."""

from __future__ import annotations

import logging
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.template import TemplateDoesNotExist, loader
from django.urls import get_resolver, get_urlconf

from ..core.errors import NoConnection
from ..core.unavailable import STATUS, body_of, retry_after

logger = logging.getLogger("peewee_web")

TEMPLATE = "503.html"


def unavailable(request: HttpRequest, error: NoConnection) -> HttpResponse:
    """503 as Django makes its 404 and 500: the URLconf's ``handler503(request, exception)``, else the template.

    The template gets ``retry_after`` (seconds) and no request, as ``500.html`` does: context processors may query.
    """
    logger.warning("%d %s: %s", STATUS, request.path, error)
    try:
        response = _handler()(request, exception=error)
        if not getattr(response, "is_rendered", True):
            response.render()
    except NoConnection:
        response = _plain(error)
    response.headers.setdefault("Retry-After", str(retry_after(error)))
    return response


def _handler() -> Any:
    try:
        # Not documented, but what finds handler404 and its like in 4.2 to 5.2.
        return get_resolver(get_urlconf()).resolve_error_handler(STATUS)
    except AttributeError:  # Django itself has no handler503
        return _default


def _default(request: HttpRequest, exception: NoConnection) -> HttpResponse:
    try:
        template = loader.get_template(TEMPLATE)
    except TemplateDoesNotExist:
        return _plain(exception)
    return HttpResponse(template.render({"retry_after": retry_after(exception)}), status=STATUS)


def _plain(error: NoConnection) -> HttpResponse:
    return HttpResponse(body_of(error), status=STATUS, content_type="text/plain; charset=utf-8")
