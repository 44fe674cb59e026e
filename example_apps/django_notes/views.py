"""The notebook's views. They use the models; when there is a connection, and whose, is the middleware's business."""

import json
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from math import ceil

from asgiref.sync import sync_to_async
from django.core.exceptions import BadRequest
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse, StreamingHttpResponse
from django.utils.deprecation import MiddlewareMixin
from django.views import View
from django.views.decorators.http import require_POST, require_safe

from example_apps.notes import forms, health, store
from example_apps.notes.models import Note
from example_apps.notes.pages import ATTACHMENT, CSV, Pages
from peewee_web import NoConnection

pages = Pages("Django")


class SeeOther(HttpResponseRedirect):
    status_code = 303


@require_safe
def index(request: HttpRequest) -> HttpResponse:
    return HttpResponse(pages.index(store.find(**forms.query(request.GET)), store.tags()))


@require_safe
def new(request: HttpRequest) -> HttpResponse:
    return HttpResponse(pages.editor())


@require_POST
def create(request: HttpRequest) -> HttpResponse:
    form = forms.read(request.POST.dict())
    if form.errors:
        return HttpResponse(pages.editor(form), status=422)
    return SeeOther(f"/#note-{store.create(form).id}")


class OneNote(View):
    def get(self, request: HttpRequest, note_id: int) -> HttpResponse:
        return HttpResponse(pages.editor(note=store.get(note_id)))

    def post(self, request: HttpRequest, note_id: int) -> HttpResponse:
        form = forms.read(request.POST.dict())
        if form.errors:
            return HttpResponse(pages.editor(form, note_id=note_id), status=422)
        return SeeOther(f"/#note-{store.update(note_id, form).id}")


@require_POST
def delete(request: HttpRequest, note_id: int) -> HttpResponse:
    store.delete(note_id)
    return SeeOther("/")


def read_json(request: HttpRequest) -> forms.NoteForm:
    try:
        return forms.read(json.loads(request.body))
    except ValueError:
        raise BadRequest("the body is not JSON") from None


class ApiNotes(View):
    def get(self, request: HttpRequest) -> JsonResponse:
        return JsonResponse(store.find(**forms.query(request.GET)).as_json())

    def post(self, request: HttpRequest) -> JsonResponse:
        form = read_json(request)
        if form.errors:
            return JsonResponse({"errors": form.errors}, status=422)
        note = store.create(form)
        return JsonResponse(note.as_json(), status=201, headers={"Location": f"/api/notes/{note.id}"})


class ApiNote(View):
    def get(self, request: HttpRequest, note_id: int) -> JsonResponse:
        return JsonResponse(store.get(note_id).as_json())

    def put(self, request: HttpRequest, note_id: int) -> JsonResponse:
        form = read_json(request)
        if form.errors:
            return JsonResponse({"errors": form.errors}, status=422)
        return JsonResponse(store.update(note_id, form).as_json())

    def delete(self, request: HttpRequest, note_id: int) -> HttpResponse:
        store.delete(note_id)
        return HttpResponse(status=204)


@require_safe
def export(request: HttpRequest) -> StreamingHttpResponse:
    # The rows are read while they are sent: the request keeps its connection until the last one.
    rows = store.export_rows()
    body = in_threads(rows) if isinstance(request, ASGIRequest) else rows
    return StreamingHttpResponse(body, content_type=CSV, headers={"Content-Disposition": ATTACHMENT})


async def in_threads(rows: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Under ASGI Django would read a plain iterator to its end first; so it is read by the hundred, off the loop."""
    while lines := await sync_to_async(lambda: b"".join(islice(rows, 100)))():
        yield lines


@require_safe
def alive(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"status": "ok"})  # no query, so no connection: right also while the database is away


@require_safe
def ready(request: HttpRequest) -> JsonResponse:
    return JsonResponse(health.ready())


class MissingNotes(MiddlewareMixin):
    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        return not_found(request, exception) if isinstance(exception, Note.DoesNotExist) else None


def problem(request: HttpRequest, status: int, retry_after: int | None = None) -> HttpResponse:
    body, content_type = pages.error(status, request.path, retry_after)
    return HttpResponse(body, content_type=content_type, status=status)


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem(request, 400)


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    return problem(request, 404)


def server_error(request: HttpRequest) -> HttpResponse:
    return problem(request, 500)


def resting(request: HttpRequest, exception: NoConnection) -> HttpResponse:
    """Of a request that needed the database while it was away; the adapter adds Retry-After."""
    return problem(request, 503, ceil(exception.retry_after) or 1)
