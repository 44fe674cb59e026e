"""The notebook on Bottle. The adapter is one line: app.install(PeeweePlugin(db)).

Under any WSGI server, for instance:  waitress-serve example_apps.bottle_notes.app:app
"""

from collections.abc import Callable
from functools import wraps
from typing import Any

from bottle import Bottle, FormsDict, HTTPError, HTTPResponse, redirect, request, response, static_file

from example_apps.notes import connect, forms, health, models, store
from example_apps.notes.models import Note
from example_apps.notes.pages import ATTACHMENT, CSV, STATIC, Pages
from peewee_web.bottle import PeeweePlugin

db = connect()
models.database.initialize(db)
pages = Pages("Bottle")


def missing(callback: Callable[..., Any]) -> Callable[..., Any]:
    """A plugin: what is not in the database is not found."""

    @wraps(callback)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            return callback(*args, **kwargs)
        except Note.DoesNotExist:
            raise HTTPError(404) from None

    return wrapper


app = Bottle()
app.install(PeeweePlugin(db, keyword="db"))  # a handler that asks for `db` is given it; these use the models instead
app.install(missing)


@app.get("/")
def index() -> str:
    return pages.index(store.find(**forms.query(text(request.query))), store.tags())


@app.get("/notes/new")
def new() -> str:
    return pages.editor()


@app.post("/notes")
def create() -> Any:
    form = forms.read(text(request.forms))
    if form.errors:
        return HTTPResponse(pages.editor(form), 422)
    return redirect(f"/#note-{store.create(form).id}", 303)


@app.get("/notes/<note_id:int>")
def edit(note_id: int) -> str:
    return pages.editor(note=store.get(note_id))


@app.post("/notes/<note_id:int>")
def update(note_id: int) -> Any:
    form = forms.read(text(request.forms))
    if form.errors:
        return HTTPResponse(pages.editor(form, note_id=note_id), 422)
    return redirect(f"/#note-{store.update(note_id, form).id}", 303)


@app.post("/notes/<note_id:int>/delete")
def delete(note_id: int) -> None:
    store.delete(note_id)
    redirect("/", 303)


@app.get("/api/notes")
def api_list() -> dict[str, Any]:
    return store.find(**forms.query(text(request.query))).as_json()


@app.post("/api/notes")
def api_create() -> dict[str, Any]:
    form = forms.read(request.json)
    if form.errors:
        response.status = 422
        return {"errors": form.errors}
    note = store.create(form)
    response.status = 201
    response.set_header("Location", f"/api/notes/{note.id}")
    return note.as_json()


@app.get("/api/notes/<note_id:int>")
def api_read(note_id: int) -> dict[str, Any]:
    return store.get(note_id).as_json()


@app.put("/api/notes/<note_id:int>")
def api_update(note_id: int) -> dict[str, Any]:
    form = forms.read(request.json)
    if form.errors:
        response.status = 422
        return {"errors": form.errors}
    return store.update(note_id, form).as_json()


@app.delete("/api/notes/<note_id:int>")
def api_delete(note_id: int) -> HTTPResponse:
    store.delete(note_id)
    return HTTPResponse(status=204)


@app.get("/export.csv")
def export() -> Any:
    # The rows are read while they are sent: the request keeps its connection until the last one.
    response.content_type = CSV
    response.set_header("Content-Disposition", ATTACHMENT)
    return store.export_rows()


@app.get("/health")
def alive() -> dict[str, str]:
    return {"status": "ok"}  # no query, so no connection: right also while the database is away


@app.get("/ready")
def ready() -> dict[str, Any]:
    return health.ready()


@app.get("/static/<path:path>", skip=True)
def static(path: str) -> HTTPResponse:
    return static_file(path, STATIC)


@app.error(400)
@app.error(404)
@app.error(405)
@app.error(500)
@app.error(503)
def error(failure: HTTPError) -> str:
    """Also the 503 of a request that needed the database while it was away."""
    body, response.content_type = pages.error(failure.status_code, request.path, response.get_header("Retry-After"))
    return body


def text(values: FormsDict) -> dict[str, str]:
    """Bottle hands out the bytes of a form as Latin-1, as WSGI does; this is the UTF-8 they are."""
    return {name: values.getunicode(name, "") for name in values}
