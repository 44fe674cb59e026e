"""The notebook on Flask. The adapter is two lines: PEEWEE_DATABASE, and Peewee(app).

Also:  flask --app example_apps.flask_notes.app run
"""

from flask import Flask, Response, redirect, request
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException

from example_apps.notes import connect, forms, health, models, store
from example_apps.notes.models import Note
from example_apps.notes.pages import ATTACHMENT, CSV, STATIC, Pages
from peewee_web.flask import Peewee

app = Flask(__name__, static_folder=STATIC, static_url_path="/static")
app.config["PEEWEE_DATABASE"] = connect()  # or a URL
db = Peewee(app)
models.database.initialize(db.database)  # models of your own: class Note(db.Model)
pages = Pages("Flask")


@app.get("/")
def index() -> str:
    return pages.index(store.find(**forms.query(request.args)), store.tags())


@app.get("/notes/new")
def new() -> str:
    return pages.editor()


@app.post("/notes")
def create() -> ResponseReturnValue:
    form = forms.read(request.form)
    if form.errors:
        return pages.editor(form), 422
    return redirect(f"/#note-{store.create(form).id}", 303)


@app.get("/notes/<int:note_id>")
def edit(note_id: int) -> str:
    return pages.editor(note=store.get(note_id))


@app.post("/notes/<int:note_id>")
def update(note_id: int) -> ResponseReturnValue:
    form = forms.read(request.form)
    if form.errors:
        return pages.editor(form, note_id=note_id), 422
    return redirect(f"/#note-{store.update(note_id, form).id}", 303)


@app.post("/notes/<int:note_id>/delete")
def delete(note_id: int) -> ResponseReturnValue:
    store.delete(note_id)
    return redirect("/", 303)


@app.get("/api/notes")
def api_list() -> ResponseReturnValue:
    return store.find(**forms.query(request.args)).as_json()


@app.post("/api/notes")
def api_create() -> ResponseReturnValue:
    form = forms.read(request.get_json())
    if form.errors:
        return {"errors": form.errors}, 422
    note = store.create(form)
    return note.as_json(), 201, {"Location": f"/api/notes/{note.id}"}


@app.get("/api/notes/<int:note_id>")
def api_read(note_id: int) -> ResponseReturnValue:
    return store.get(note_id).as_json()


@app.put("/api/notes/<int:note_id>")
def api_update(note_id: int) -> ResponseReturnValue:
    form = forms.read(request.get_json())
    if form.errors:
        return {"errors": form.errors}, 422
    return store.update(note_id, form).as_json()


@app.delete("/api/notes/<int:note_id>")
def api_delete(note_id: int) -> ResponseReturnValue:
    store.delete(note_id)
    return "", 204


@app.get("/export.csv")
def export() -> Response:
    # The rows are read while they are sent: the request keeps its connection until the last one.
    return Response(store.export_rows(), content_type=CSV, headers={"Content-Disposition": ATTACHMENT})


@app.get("/health")
def alive() -> ResponseReturnValue:
    return {"status": "ok"}  # no query, so no connection: right also while the database is away


@app.get("/ready")
def ready() -> ResponseReturnValue:
    return health.ready()


@app.errorhandler(Note.DoesNotExist)
def missing(error: Note.DoesNotExist) -> ResponseReturnValue:
    body, content_type = pages.error(404, request.path)
    return body, 404, {"Content-Type": content_type}


@app.errorhandler(HTTPException)
def error(error: HTTPException) -> ResponseReturnValue:
    """Also the 503 of a request that needed the database while it was away."""
    response = error.get_response()
    body, content_type = pages.error(response.status_code, request.path, response.headers.get("Retry-After"))
    response.set_data(body)
    response.content_type = content_type
    return response
