"""Full-text search with what each database has built in: FTS5, tsvector or FULLTEXT.

People type `words`, `"exact phrases"` and `-words to leave out`. `parse` takes that apart, whatever it is, into terms
that can no longer be mistaken for an operator; an engine turns terms into the ids and ranks of the notes with them all.
Each index is kept up to date by the database itself, so no code path can forget it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import and_
from typing import Any, Protocol

from peewee import Column, Database, Expression, MySQLDatabase, PostgresqlDatabase, Proxy, SqliteDatabase, fn
from playhouse.mysql_ext import Match
from playhouse.sqlite_ext import FTS5Model, RowIDField, SearchField

from .models import Note

# A sentence is enough for a search box, and bounds what a stranger can make the database parse.
MAX_LENGTH = 200
MAX_TERMS = 12


@dataclass(frozen=True)
class Search:
    """What somebody looks for: notes with all of `terms` and none of `without`, each one a word or a phrase."""

    terms: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.terms or self.without)

    @property
    def stems(self) -> list[str]:
        """How the words begin that were asked for, for highlighting."""
        return [stem(word) for term in self.terms for word in _words(term)]


def printable(text: str) -> str:
    """Without what no database stores or parses alike: NUL and other controls, halves of surrogate pairs."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", " ", text)


def parse(text: str) -> Search:
    """Take apart anything that a search box can hold. Never raises; what has no letter or digit is dropped."""
    terms: dict[bool, list[str]] = {False: [], True: []}
    # A dash excludes only at the start of a word: "full-text" is one term. An unclosed quote runs to the end.
    for dash, phrase, word in re.findall(r'(-?)"([^"]*)"?|([^\s"]+)', printable(text[:MAX_LENGTH])):
        term = re.sub(r"^\W+|\W+$", "", " ".join((phrase or word).split()))
        if _words(term):
            terms[bool(dash) or word.startswith("-")].append(term)
    return Search(tuple(terms[False][:MAX_TERMS]), tuple(terms[True][:MAX_TERMS]))


def _words(term: str) -> list[str]:
    return [word for word in re.findall(r"\w+", term) if word.strip("_")]


def stem(word: str) -> str:
    """Roughly what all forms of an English word begin with, where no database is at hand to know better."""
    return re.sub(r"(?<=\w{3})(ing|ed|es|s|e)$", "", word)


class Engine(Protocol):
    name: str

    def create(self, database: Database) -> None:
        """Create the index and what keeps it up to date, unless it is there."""

    def hits(self, terms: Sequence[str]) -> Any:
        """A query for `id` and `rank` (higher is better) of the notes that match all terms."""


class NoteIndex(FTS5Model):
    """FTS5's index over `note`: it stores words and positions, and reads the text from the table itself."""

    rowid = RowIDField()
    title = SearchField()
    body = SearchField()

    class Meta:
        table_name = "note_index"


class Fts5:
    name = "SQLite"

    def create(self, database: Database) -> None:
        new = not database.table_exists("note_index")
        for statement in (
            "CREATE VIRTUAL TABLE IF NOT EXISTS note_index USING fts5"
            " (title, body, content='note', content_rowid='id', tokenize='porter unicode61 remove_diacritics 2')",
            "CREATE TRIGGER IF NOT EXISTS note_index_insert AFTER INSERT ON note BEGIN"
            " INSERT INTO note_index (rowid, title, body) VALUES (new.id, new.title, new.body); END",
            "CREATE TRIGGER IF NOT EXISTS note_index_delete AFTER DELETE ON note BEGIN"
            " INSERT INTO note_index (note_index, rowid, title, body)"
            " VALUES ('delete', old.id, old.title, old.body); END",
            "CREATE TRIGGER IF NOT EXISTS note_index_update AFTER UPDATE OF title, body ON note BEGIN"
            " INSERT INTO note_index (note_index, rowid, title, body)"
            " VALUES ('delete', old.id, old.title, old.body);"
            " INSERT INTO note_index (rowid, title, body) VALUES (new.id, new.title, new.body); END",
        ):
            database.execute_sql(statement)
        if new:  # notes that are older than their index
            database.execute_sql("INSERT INTO note_index (note_index) VALUES ('rebuild')")

    def hits(self, terms: Sequence[str]) -> Any:
        # In double quotes FTS5 has no operators; terms hold no quote of their own.
        match = " AND ".join(f'"{term}"' for term in terms)
        rank = NoteIndex.bm25(4.0, 1.0) * -1  # bm25: the smaller, the better
        return NoteIndex.select(NoteIndex.rowid.alias("id"), rank.alias("rank")).where(NoteIndex.match(match))


class Tsvector:
    name = "PostgreSQL"

    def create(self, database: Database) -> None:
        database.execute_sql(
            "ALTER TABLE note ADD COLUMN IF NOT EXISTS search tsvector GENERATED ALWAYS AS"
            " (setweight(to_tsvector('english', title), 'A') || setweight(to_tsvector('english', body), 'B')) STORED"
        )
        database.execute_sql("CREATE INDEX IF NOT EXISTS note_search ON note USING gin (search)")

    def hits(self, terms: Sequence[str]) -> Any:
        # websearch_to_tsquery accepts any text; the quotes keep a word such as "or" from being its operator.
        query = fn.websearch_to_tsquery("english", " ".join(f'"{term}"' for term in terms))
        column = Column(Note._meta.table, "search")
        rank = fn.ts_rank(column, query)
        return Note.select(Note.id.alias("id"), rank.alias("rank")).where(Expression(column, "@@", query))


class Fulltext:
    name = "MariaDB"

    # InnoDB indexes neither short words nor these: innodb_ft_min_token_size, INNODB_FT_DEFAULT_STOPWORD.
    SHORTEST = 3
    STOPWORDS = "about are com for from how that the this und was what when where who will with www"

    def create(self, database: Database) -> None:
        if not any(index.name == "note_search" for index in database.get_indexes("note")):
            database.execute_sql("ALTER TABLE note ADD FULLTEXT INDEX note_search (title, body)")

    def hits(self, terms: Sequence[str]) -> Any:
        required, conditions, stopwords = [], [], self.STOPWORDS.split()
        for term in terms:
            words = _words(term)
            if not any(len(word) >= self.SHORTEST and word.lower() not in stopwords for word in words):
                # Nothing of it is in the index ("CI", "the"), so the text itself is read.
                pattern = r"\b" + r"\W+".join(words) + r"\b"
                conditions.append(Note.title.iregexp(pattern) | Note.body.iregexp(pattern))
            elif len(words) == 1:
                required.append(f"+{stem(words[0])}*")  # FULLTEXT knows no stems; a prefix is the nearest thing
            else:
                required.append(f'+"{" ".join(words)}"')
        match = Match((Note.title, Note.body), " ".join(required), "IN BOOLEAN MODE")
        if required:
            conditions.append(match)
        return Note.select(Note.id.alias("id"), match.alias("rank")).where(reduce(and_, conditions))


ENGINES: dict[type[Database], Engine] = {
    SqliteDatabase: Fts5(),
    PostgresqlDatabase: Tsvector(),
    MySQLDatabase: Fulltext(),
}


def engine(database: Database | Proxy) -> Engine:
    """The search of the database at hand."""
    while isinstance(database, Proxy):
        database = database.obj
    for kind, found in ENGINES.items():
        if isinstance(database, kind):
            return found
    raise TypeError(f"no full-text search for {type(database).__name__}")
