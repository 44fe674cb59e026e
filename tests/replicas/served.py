"""A `ReplicatedDatabase` on real servers, and a client of an app that uses it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import peewee

import peewee_web
from peewee_web import Databases, ReplicatedDatabase


class Served:
    """A `ReplicatedDatabase` on real servers, with a model that lives there."""

    def __init__(self, primary: Any, replicas: list[Any], options: dict[str, Any]) -> None:
        self.name = f"replicas_{uuid.uuid4().hex[:12]}"
        self.server = primary
        primary.create_database(self.name)
        self.url_options = options.pop("url_options", {})
        self.databases_made = [self.connect(server) for server in (primary, *replicas)]
        self.database = ReplicatedDatabase(self.databases_made[0], self.databases_made[1:], **options)
        self.databases = Databases(self.database)

        class Note(peewee.Model):
            text = peewee.CharField(99)

            class Meta:
                database = self.database

        self.Note = Note

    def connect(self, server: Any) -> Any:
        return peewee_web.connect(server.url(self.name, **self.url_options), max_connections=4, timeout=5)

    def create(self) -> None:
        self.database.create_tables([self.Note])
        self.database.close()

    def port(self) -> int:
        """Of the server that a read goes to."""
        function = "inet_server_port()" if self.server.scheme == "postgresql" else "@@port"
        port: int = self.Note.select(peewee.SQL(function)).tuples().get()[0]
        return port

    def ports(self, count: int) -> Counter[int]:
        return Counter(self.databases.scope()(self.port)() for _ in range(count))

    def close(self) -> None:
        self.database.close()
        left = [database.pool_stats().in_use for database in self.databases_made]
        for database in self.databases_made:
            database.close_all()
        self.server.drop_database(self.name)
        assert left == [0] * len(left)


class Client:
    """Keeps the cookies that it gets."""

    def __init__(self, served: Served) -> None:
        self._served = served
        self._cookies: dict[str, str] = {}

    def _header(self, name: str) -> str | None:
        return "; ".join(f"{key}={value}" for key, value in self._cookies.items()) if name == "Cookie" else None

    def request(self, method: str, work: Callable[[], Any]) -> Any:
        databases = self._served.databases
        with databases.scope_for(method, self._header, lambda: None) as scope:
            answer = work()
            for bookmark in databases.bookmarks_after(scope):
                self._cookies[bookmark.name] = bookmark.value
        return answer

    def write(self, text: str) -> None:
        self.request("POST", lambda: self._served.Note.create(text=text))

    def read(self, text: str) -> int:
        """The port of the server that had it. With an empty text: of any."""
        Note = self._served.Note

        def read() -> int:
            assert not text or Note.select().where(Note.text == text).exists()
            return self._served.port()

        port: int = self.request("GET", read)
        return port
