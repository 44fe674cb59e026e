"""The notebook on Falcon. The adapter is one line: install(app, db).

Under any WSGI server, for instance:  waitress-serve example_apps.falcon_notes.app:app
"""

from typing import Any

import falcon
from falcon import Request, Response

from example_apps.notes import connect, forms, health, models, store
from example_apps.notes.models import Note
from example_apps.notes.pages import ATTACHMENT, CSV, STATIC, Pages
from peewee_web.falcon import install

db = connect()
models.database.initialize(db)
pages = Pages("Falcon")


class Index:
    def on_get(self, req: Request, resp: Response) -> None:
        html(resp, pages.index(store.find(**forms.query(req.params)), store.tags()))

    on_head = on_get


class NewNote:
    def on_get(self, req: Request, resp: Response) -> None:
        html(resp, pages.editor())

    on_head = on_get


class Notes:
    def on_post(self, req: Request, resp: Response) -> None:
        form = forms.read(req.get_media())
        if form.errors:
            html(resp, pages.editor(form), falcon.HTTP_422)
            return
        raise falcon.HTTPSeeOther(f"/#note-{store.create(form).id}")


class OneNote:
    def on_get(self, req: Request, resp: Response, note_id: int) -> None:
        html(resp, pages.editor(note=store.get(note_id)))

    on_head = on_get

    def on_post(self, req: Request, resp: Response, note_id: int) -> None:
        form = forms.read(req.get_media())
        if form.errors:
            html(resp, pages.editor(form, note_id=note_id), falcon.HTTP_422)
            return
        raise falcon.HTTPSeeOther(f"/#note-{store.update(note_id, form).id}")

    def on_post_delete(self, req: Request, resp: Response, note_id: int) -> None:
        store.delete(note_id)
        raise falcon.HTTPSeeOther("/")


class ApiNotes:
    def on_get(self, req: Request, resp: Response) -> None:
        resp.media = store.find(**forms.query(req.params)).as_json()

    on_head = on_get

    def on_post(self, req: Request, resp: Response) -> None:
        form = forms.read(req.get_media())
        if form.errors:
            resp.media, resp.status = {"errors": form.errors}, falcon.HTTP_422
            return
        note = store.create(form)
        resp.media, resp.status = note.as_json(), falcon.HTTP_201
        resp.location = f"/api/notes/{note.id}"


class ApiNote:
    def on_get(self, req: Request, resp: Response, note_id: int) -> None:
        resp.media = store.get(note_id).as_json()

    on_head = on_get

    def on_put(self, req: Request, resp: Response, note_id: int) -> None:
        form = forms.read(req.get_media())
        if form.errors:
            resp.media, resp.status = {"errors": form.errors}, falcon.HTTP_422
            return
        resp.media = store.update(note_id, form).as_json()

    def on_delete(self, req: Request, resp: Response, note_id: int) -> None:
        store.delete(note_id)
        resp.status = falcon.HTTP_204


class Export:
    def on_get(self, req: Request, resp: Response) -> None:
        # The rows are read while they are sent: the request keeps its connection until the last one.
        resp.stream = store.export_rows()
        resp.content_type = CSV
        resp.set_header("Content-Disposition", ATTACHMENT)

    on_head = on_get


class Health:
    def on_get(self, req: Request, resp: Response) -> None:
        resp.media = {"status": "ok"}  # no query, so no connection: right also while the database is away

    on_head = on_get


class Ready:
    def on_get(self, req: Request, resp: Response) -> None:
        resp.media = health.ready()

    on_head = on_get


def html(resp: Response, page: str, status: str = falcon.HTTP_200) -> None:
    resp.text, resp.status, resp.content_type = page, status, falcon.MEDIA_HTML


def missing(req: Request, resp: Response, error: Note.DoesNotExist, params: dict[str, Any]) -> None:
    raise falcon.HTTPNotFound


def serialize(req: Request, resp: Response, error: falcon.HTTPError) -> None:
    """The body of every error, also of the 503 of a request that needed the database while it was away."""
    resp.text, resp.content_type = pages.error(error.status_code, req.path, resp.get_header("Retry-After"))


app = falcon.App()
install(app, db)
app.add_error_handler(Note.DoesNotExist, missing)
app.set_error_serializer(serialize)
app.add_route("/", Index())
app.add_route("/notes", Notes())
app.add_route("/notes/new", NewNote())
app.add_route("/notes/{note_id:int}", one_note := OneNote())
app.add_route("/notes/{note_id:int}/delete", one_note, suffix="delete")
app.add_route("/api/notes", ApiNotes())
app.add_route("/api/notes/{note_id:int}", ApiNote())
app.add_route("/export.csv", Export())
app.add_route("/health", Health())
app.add_route("/ready", Ready())
app.add_static_route("/static", STATIC)
