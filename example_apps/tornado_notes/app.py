"""The notebook on Tornado. The adapter is two words: PeeweeRequestHandler, and Application(peewee=db).

Peewee's calls block, so they run in worker threads, which share the request's connection; the loop serves others.
"""

import asyncio
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from typing import Any

from tornado.escape import json_decode
from tornado.web import Application, HTTPError

from example_apps.notes import connect, forms, health, models, store
from example_apps.notes.models import Note
from example_apps.notes.pages import ATTACHMENT, CSV, STATIC, Pages
from peewee_web.tornado import PeeweeRequestHandler

db = connect()
models.database.initialize(db)
pages = Pages("Tornado")


class Handler(PeeweeRequestHandler):
    async def run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except Note.DoesNotExist:
            raise HTTPError(404) from None

    async def find(self) -> store.Page:
        return await self.run(store.find, **forms.query({name: self.get_argument(name, "") for name in QUERY}))

    def form(self) -> forms.NoteForm:
        return forms.read({name: self.get_body_argument(name, "", strip=False) for name in FIELDS})

    def json(self) -> forms.NoteForm:
        try:
            return forms.read(json_decode(self.request.body))
        except ValueError:
            raise HTTPError(400) from None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Also the 503 of a request that needed the database while it was away."""
        body, content_type = pages.error(status_code, self.request.path, self._headers.get("Retry-After"))
        self.set_header("Content-Type", content_type)
        self.finish(body)


QUERY = ("q", "tag", "page")
FIELDS = ("title", "body", "tags")


class Index(Handler):
    async def get(self) -> None:
        self.write(pages.index(await self.find(), await self.run(store.tags)))

    head = get


class NewNote(Handler):
    def get(self) -> None:
        self.write(pages.editor())

    head = get


class Notes(Handler):
    async def post(self) -> None:
        form = self.form()
        if form.errors:
            self.set_status(422)
            self.write(pages.editor(form))
            return
        note = await self.run(store.create, form)
        self.redirect(f"/#note-{note.id}", status=303)


class OneNote(Handler):
    async def get(self, note_id: str) -> None:
        self.write(pages.editor(note=await self.run(store.get, int(note_id))))

    head = get

    async def post(self, note_id: str) -> None:
        form = self.form()
        if form.errors:
            self.set_status(422)
            self.write(pages.editor(form, note_id=int(note_id)))
            return
        note = await self.run(store.update, int(note_id), form)
        self.redirect(f"/#note-{note.id}", status=303)


class Deletion(Handler):
    async def post(self, note_id: str) -> None:
        await self.run(store.delete, int(note_id))
        self.redirect("/", status=303)


class ApiNotes(Handler):
    async def get(self) -> None:
        self.write((await self.find()).as_json())

    head = get

    async def post(self) -> None:
        form = self.json()
        if form.errors:
            self.set_status(422)
            self.write({"errors": form.errors})
            return
        note = await self.run(store.create, form)
        self.set_status(201)
        self.set_header("Location", f"/api/notes/{note.id}")
        self.write(note.as_json())


class ApiNote(Handler):
    async def get(self, note_id: str) -> None:
        self.write((await self.run(store.get, int(note_id))).as_json())

    head = get

    async def put(self, note_id: str) -> None:
        form = self.json()
        if form.errors:
            self.set_status(422)
            self.write({"errors": form.errors})
            return
        self.write((await self.run(store.update, int(note_id), form)).as_json())

    async def delete(self, note_id: str) -> None:
        await self.run(store.delete, int(note_id))
        self.set_status(204)


class Export(Handler):
    async def get(self) -> None:
        # The rows are read while they are sent: the request keeps its connection until the last one.
        with closing(await self.run(store.export_rows)) as rows:
            await self.head()
            while lines := await self.run(lambda: b"".join(islice(rows, 100))):
                self.write(lines)
                await self.flush()

    async def head(self) -> None:
        self.set_header("Content-Type", CSV)
        self.set_header("Content-Disposition", ATTACHMENT)
        await self.flush()


class Health(Handler):
    def get(self) -> None:
        self.write({"status": "ok"})  # no query, so no connection: right also while the database is away

    head = get


class Ready(Handler):
    async def get(self) -> None:
        self.write(await self.run(health.ready))

    head = get


class NotFound(Handler):
    def prepare(self) -> None:
        raise HTTPError(404)


app = Application(
    [
        (r"/", Index),
        (r"/notes", Notes),
        (r"/notes/new", NewNote),
        (r"/notes/([0-9]{1,18})", OneNote),
        (r"/notes/([0-9]{1,18})/delete", Deletion),
        (r"/api/notes", ApiNotes),
        (r"/api/notes/([0-9]{1,18})", ApiNote),
        (r"/export\.csv", Export),
        (r"/health", Health),
        (r"/ready", Ready),
    ],
    peewee=db,
    default_handler_class=NotFound,
    static_path=STATIC,
)
