"""Today's documented hooks: three routes of the notebook in each framework, on ``playhouse.pool``.

Peewee's "Framework Integration" says when to connect and close (Tornado's hooks stand in its older editions); what a
route does is `example_apps.notes.store`, as in the example apps. So the integration is all that differs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from playhouse import db_url

from example_apps.notes import forms, models, store

# As in the example of Peewee's documentation of its pool.
STALE_TIMEOUT = 300


def database(url: str) -> Any:
    """A pool of playhouse's for *url*, whose query string is that of ours, and the models' database from now on."""
    scheme, _, rest = url.partition("://")
    pooled = db_url.connect(f"{scheme}+pool://{rest}", stale_timeout=STALE_TIMEOUT)
    models.database.initialize(pooled)
    return pooled


def flask(db: Any) -> Any:
    from flask import Flask, request

    app = Flask("hooks")

    @app.before_request
    def _db_connect() -> None:
        db.connect()

    @app.teardown_request
    def _db_close(exc: BaseException | None) -> None:
        if not db.is_closed():
            db.close()

    @app.get("/api/notes")
    def api_list() -> Any:
        return store.find(**forms.query(request.args)).as_json()

    @app.post("/api/notes")
    def api_create() -> Any:
        return store.create(forms.read(request.get_json())).as_json(), 201

    @app.get("/api/notes/<int:note_id>")
    def api_read(note_id: int) -> Any:
        return store.get(note_id).as_json()

    @app.get("/health")
    def health() -> Any:
        return {"status": "ok"}

    return app


_django: dict[str, Any] = {}


def peewee_connection_middleware(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def middleware(request: Any) -> Any:
        db = _django["database"]
        db.connect()
        try:
            response = get_response(request)
        finally:
            if not db.is_closed():
                db.close()
        return response

    return middleware


def django(db: Any) -> Any:
    import django
    from django.conf import settings
    from django.core.handlers.wsgi import WSGIHandler

    _django["database"] = db
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        MIDDLEWARE=[f"{__name__}.peewee_connection_middleware"],
        SECRET_KEY="nothing is signed with it",
        USE_TZ=True,
    )
    django.setup()
    from django.http import JsonResponse
    from django.urls import path

    def api_notes(request: Any) -> Any:
        if request.method == "POST":
            return JsonResponse(store.create(forms.read(json.loads(request.body))).as_json(), status=201)
        return JsonResponse(store.find(**forms.query(request.GET)).as_json())

    def api_note(request: Any, note_id: int) -> Any:
        return JsonResponse(store.get(note_id).as_json())

    def health(request: Any) -> Any:
        return JsonResponse({"status": "ok"})

    routes = {"api/notes": api_notes, "api/notes/<int:note_id>": api_note, "health": health}
    urlpatterns.extend(path(route, view) for route, view in routes.items())
    return WSGIHandler()


urlpatterns: list[Any] = []


def tornado(db: Any) -> Any:
    from tornado.escape import json_decode
    from tornado.web import Application, RequestHandler

    class PeeweeRequestHandler(RequestHandler):
        def prepare(self) -> Any:
            db.connect()
            return super().prepare()

        def on_finish(self) -> None:
            if not db.is_closed():
                db.close()
            super().on_finish()

    # The connection is the loop thread's, as the documentation has it, so the queries run there as well.
    class ApiNotes(PeeweeRequestHandler):
        def get(self) -> None:
            self.write(store.find(**forms.query({"page": self.get_argument("page", "")})).as_json())

        def post(self) -> None:
            self.set_status(201)
            self.write(store.create(forms.read(json_decode(self.request.body))).as_json())

    class ApiNote(PeeweeRequestHandler):
        def get(self, note_id: str) -> None:
            self.write(store.get(int(note_id)).as_json())

    class Health(PeeweeRequestHandler):
        def get(self) -> None:
            self.write({"status": "ok"})

    return Application([(r"/api/notes", ApiNotes), (r"/api/notes/([0-9]{1,18})", ApiNote), (r"/health", Health)])


BUILD: dict[str, Callable[[Any], Any]] = {"flask": flask, "django": django, "tornado": tornado}
