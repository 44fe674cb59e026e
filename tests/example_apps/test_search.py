"""The search on every database: what it finds, and that nothing people type is its syntax."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import peewee_web
from example_apps.notes import models, search, seed, store
from example_apps.notes.forms import NoteForm
from example_apps.notes.search import Search, parse

from .test_apps import HOSTILE

TEXT = st.text() | st.text(alphabet="ab \"-+*~@()<>'\\%_:|&!\x00\ud800 é", max_size=30)


@pytest.mark.parametrize(
    ("text", "terms", "without"),
    [
        ("", (), ()),
        ("two words", ("two", "words"), ()),
        ('"one phrase" word', ("one phrase", "word"), ()),
        ("in -out", ("in",), ("out",)),
        ('-"not this" but this', ("but", "this"), ("not this",)),
        ("full-text", ("full-text",), ()),
        ('"never closed', ("never closed",), ()),
        ('glued"to a"phrase', ("glued", "to a", "phrase"), ()),
        ("+must ~maybe (group) <tag>", ("must", "maybe", "group", "tag"), ()),
        ("* - \" '' () %", (), ()),
        ("a\x00b \ud800", ("a", "b"), ()),
        ("_ __init__", ("__init__",), ()),
    ],
)
def test_a_search_is_taken_apart(text: str, terms: tuple[str, ...], without: tuple[str, ...]) -> None:
    assert parse(text) == Search(terms, without)


@given(TEXT)
def test_whatever_is_typed_no_term_holds_a_quote_or_nothing(text: str) -> None:
    found = parse(text)
    for term in found.terms + found.without:
        assert any(character.isalnum() for character in term)
        assert not set(term) & set('"\x00')
        term.encode()


@pytest.fixture(scope="module", params=["sqlite", "postgres", "mariadb"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A seeded notebook in an empty database of each kind; the engine that searches it."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('search')}/notes.db"
    else:
        server = request.getfixturevalue(request.param)
        server.create_database("example_search")
        url = server.url(database="example_search")
    database = peewee_web.connect(url)
    try:
        with peewee_web.scope():
            seed.setup(database)
        yield search.engine(database)
    finally:
        models.database.initialize(None)
        database.close_all()
        if request.param != "sqlite":
            server.drop_database("example_search")


def found(q: str, **options: Any) -> list[str]:
    with peewee_web.scope():
        return [note.title for note in store.find(q, **options).notes]


@pytest.fixture
def note(engine: Any) -> Iterator[Any]:
    """A note that this test may change."""
    with peewee_web.scope():
        note = store.create(NoteForm("Ocelots", "seen at dusk, twice", ["cats"]))
    yield note
    with peewee_web.scope():
        models.Note.delete().where(models.Note.id == note.id).execute()


def test_it_finds_all_of_the_words_in_title_or_text(engine: Any) -> None:
    assert found("lentil lemon") == ["Lentil soup"]
    assert found("lentil chiffchaff") == []


def test_it_finds_other_forms_of_a_word(engine: Any) -> None:
    assert found("chiffchaffs") == ["Heard this morning"]
    assert "Why requests share a pool" in found("pools")


def test_it_finds_a_phrase_only_as_it_was_written(engine: Any) -> None:
    assert found('"wood pewee"') == ["Heard this morning"]
    assert found('"pewee wood"') == []


def test_it_leaves_out(engine: Any) -> None:
    assert found("PostgreSQL -MariaDB") == ["Why requests share a pool"]
    assert "Lentil soup" not in found("-lentils -databases")
    assert len(found("-lentils")) == store.PER_PAGE


def test_the_better_match_comes_first(engine: Any) -> None:
    with peewee_web.scope():
        passing = store.create(NoteForm("Zoo", "there was one axolotl, and much else to see, and a café", []))
        about = store.create(NoteForm("Axolotl", "all about the axolotl: an axolotl never grows up", []))
    try:
        assert found("axolotl") == ["Axolotl", "Zoo"]
    finally:
        with peewee_web.scope():
            models.Note.delete().where(models.Note.id.in_([passing.id, about.id])).execute()


def test_it_works_together_with_a_tag(engine: Any) -> None:
    assert found("PostgreSQL", tag="search") == ["Full-text search in three databases"]
    assert found("PostgreSQL", tag="kitchen") == []


def test_short_words_are_found(engine: Any) -> None:
    with peewee_web.scope():
        ci = store.create(NoteForm("Red CI", "it was DNS", []))
    try:
        assert found("CI") == ["Red CI"]
        assert found('"red ci"') == ["Red CI"]
    finally:
        with peewee_web.scope():
            ci.delete_instance()


def test_the_index_follows_every_change(note: Any) -> None:
    assert found("ocelot") == ["Ocelots"]
    with peewee_web.scope():
        store.update(note.id, NoteForm("Margays", "seen at dawn", []))
    assert found("ocelot") == []
    assert found("margay dawn") == ["Margays"]
    with peewee_web.scope():
        models.Note.update(body="not seen").where(models.Note.id == note.id).execute()  # past the store
    assert found("margay dawn") == []
    with peewee_web.scope():
        store.delete(note.id)
    assert found("margay") == []


def test_setting_up_again_keeps_what_is_there(note: Any) -> None:
    with peewee_web.scope():
        seed.setup()
    assert found("ocelot") == ["Ocelots"]


@pytest.mark.parametrize("text", HOSTILE)
def test_what_looks_like_syntax_is_only_text(engine: Any, text: str) -> None:
    found(text)
    found(f"pool {text}")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(q=TEXT)
def test_nothing_that_can_be_typed_breaks_it(engine: Any, q: str) -> None:
    found(q)


def test_a_list_costs_the_same_few_queries_however_many_notes_it_holds(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, queries = models.database.obj, []
    execute_sql = database.execute_sql
    monkeypatch.setattr(database, "execute_sql", lambda *a, **kw: queries.append(a) or execute_sql(*a, **kw))
    with peewee_web.scope():
        page = store.find()
        assert sum(len(note.tags) for note in page.notes) > 9
    assert len(queries) == 3  # how many there are, this page of them, their tags
