"""The same product on five frameworks: whoever knows one knows all. Over real HTTP, on SQLite."""

from __future__ import annotations

import csv
import io
import json
import re

import httpx
import pytest

from .running import RunningApp

HOSTILE = [
    '"',
    '""',
    "'",
    "*",
    "-",
    "--",
    "-*",
    "+",
    "~",
    "@",
    "(",
    ")",
    "^pool",
    "pool*",
    'a"b',
    '"unclosed phrase',
    "title:pool",
    "NEAR(pool request)",
    "pool AND",
    "AND",
    "OR NOT",
    "'; DROP TABLE note; --",
    "%",
    "_",
    "\\",
    "{{ 7 * 7 }}",
    "<script>alert(1)</script>",
    "\x00",
    "数据库",
    "🐦",
    "x" * 3000,
    "-a " * 300,
    '"' * 301,
]


def titles(page: httpx.Response) -> list[str]:
    """The titles on a list page, in order."""
    found = re.findall(r'<h2><a href="/notes/\d+">(.*?)</a></h2>', page.text)
    return [re.sub(r"</?mark>", "", title) for title in found]


def create(http: httpx.Client, **fields: object) -> dict[str, object]:
    answer = http.post("/api/notes", json={"title": "A note", "body": "Its text", **fields})
    assert answer.status_code == 201, answer.text
    return answer.json()


# The list


def test_the_front_page_shows_the_latest_notes_and_who_serves_them(app: RunningApp) -> None:
    page = app.http.get("/")
    assert page.status_code == 200
    assert page.headers["Content-Type"].lower().replace(" ", "") == "text/html;charset=utf-8"
    assert re.search(rf'<span class="served">{app.name.capitalize()}&thinsp;·&thinsp;SQLite</span>', page.text)
    assert len(titles(page)) == 9


def test_pages_follow_each_other(http: httpx.Client) -> None:
    first, second = http.get("/"), http.get("/?page=2")
    assert 'href="/?page=2" rel="next"' in first.text
    assert 'href="/" rel="prev"' in second.text
    assert not set(titles(first)) & set(titles(second))


@pytest.mark.parametrize("page", ["0", "-1", "999999999", "99999999999999999999999", "x", "", "1e3"])
def test_a_page_that_is_none_is_the_nearest_that_is(http: httpx.Client, page: str) -> None:
    answer = http.get("/", params={"page": page})
    assert answer.status_code == 200
    assert titles(answer)


def test_a_tag_filters(http: httpx.Client) -> None:
    assert titles(http.get("/", params={"tag": "kitchen"})) == ["Lentil soup", "Sourdough, second attempt"]


def test_a_search_finds_words_phrases_and_leaves_out(http: httpx.Client) -> None:
    assert titles(http.get("/", params={"q": "lentils lemon"})) == ["Lentil soup"]
    assert titles(http.get("/", params={"q": '"idle in transaction"'})) == ["Locks seen on Tuesday"]
    both = titles(http.get("/", params={"q": "PostgreSQL"}))
    assert sorted(both) == ["Full-text search in three databases", "Why requests share a pool"]
    assert titles(http.get("/", params={"q": "PostgreSQL -MariaDB"})) == ["Why requests share a pool"]


def test_a_search_marks_what_it_found(http: httpx.Client) -> None:
    assert "<mark>chiffchaff</mark>" in http.get("/", params={"q": "chiffchaff"}).text


@pytest.mark.parametrize("text", HOSTILE)
def test_no_search_breaks_it(http: httpx.Client, text: str) -> None:
    page = http.get("/", params={"q": text, "tag": text})
    assert page.status_code == 200
    assert "<script>" not in page.text
    assert http.get("/api/notes", params={"q": text}).status_code == 200


def test_a_query_string_that_is_not_utf8_is_no_error_of_ours(http: httpx.Client) -> None:
    assert http.get("/?q=%ff%fe&tag=%c3").status_code < 500


# The forms


def test_a_note_is_written_changed_and_deleted_by_forms(http: httpx.Client) -> None:
    written = http.post("/notes", data={"title": " Zwölf  Vögel 🐦 ", "body": "one\r\ntwo", "tags": "Birds, x y,birds"})
    assert written.status_code == 303
    note_id = int(written.headers["Location"].rpartition("#note-")[2])
    note = http.get(f"/api/notes/{note_id}").json()
    assert (note["title"], note["body"], note["tags"]) == ("Zwölf Vögel 🐦", "one\ntwo", ["birds", "x y"])
    assert titles(http.get("/"))[0] == "Zwölf Vögel 🐦"

    form = http.get(f"/notes/{note_id}")
    assert 'value="Zwölf Vögel 🐦"' in form.text
    assert 'value="birds, x y"' in form.text
    assert f'action="/notes/{note_id}"' in form.text

    changed = http.post(f"/notes/{note_id}", data={"title": "Quetzals", "body": "", "tags": ""})
    assert changed.status_code == 303
    assert titles(http.get("/", params={"q": "quetzal"})) == ["Quetzals"]
    assert titles(http.get("/", params={"q": "Vögel"})) == []
    assert http.get(f"/api/notes/{note_id}").json()["tags"] == []

    deleted = http.post(f"/notes/{note_id}/delete")
    assert deleted.status_code == 303
    assert http.get(f"/notes/{note_id}").status_code == 404
    assert titles(http.get("/", params={"q": "quetzal"})) == []


def test_the_redirect_leads_back_to_the_list(http: httpx.Client) -> None:
    answer = http.post("/notes", data={"title": "Back", "body": "", "tags": ""}, follow_redirects=True)
    assert answer.status_code == 200
    assert answer.url.path == "/"
    assert titles(answer)[0] == "Back"
    http.post(f"/notes/{answer.url.fragment.removeprefix('note-')}/delete")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"title": "  ", "body": "kept", "tags": ""}, "Give the note a title."),
        ({"title": "x" * 201, "body": "kept", "tags": ""}, "Keep the title within 200 characters; this has 201."),
        ({"title": "x", "body": "kept", "tags": "y" * 31}, "Keep each tag within 30 characters."),
        ({"title": "x", "body": "kept", "tags": "a,b,c,d,e,f,g,h,i"}, "Use at most 8 tags."),
        ({}, "Give the note a title."),
    ],
)
def test_a_form_with_a_mistake_comes_back_with_it_marked(
    http: httpx.Client, fields: dict[str, str], complaint: str
) -> None:
    before = http.get("/api/notes").json()["total"]
    for target in ("/notes", "/notes/1"):
        # Sent by hand: httpx gives an empty form no content type, which a browser always does.
        body = str(httpx.QueryParams(fields)) or "title="
        answer = http.post(target, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        assert answer.status_code == 422
        assert complaint in answer.text
        assert 'aria-invalid="true"' in answer.text
        assert f'action="{target}"' in answer.text
        if fields:
            assert "kept</textarea>" in answer.text
    assert http.get("/api/notes").json()["total"] == before


def test_what_people_write_is_never_markup(http: httpx.Client) -> None:
    nasty = "<script>alert('x')</script><b>&amp;\"{{ 7*7 }}"
    note = create(http, title=nasty, body=nasty, tags=["<i>"])
    for path in ("/", f"/notes/{note['id']}", "/?q=script", "/?tag=<i>"):
        page = http.get(path).text
        assert "<script" not in page
        assert "<b>" not in page
        assert "<i>" not in page
        assert "&lt;script" in page or "<mark>script</mark>" in page
    http.delete(f"/api/notes/{note['id']}")


# The JSON API


def test_the_api_lists_searches_and_pages(http: httpx.Client) -> None:
    everything = http.get("/api/notes").json()
    assert everything["total"] >= 12
    assert everything["page"] == 1
    assert len(everything["notes"]) == 9
    found = http.get("/api/notes", params={"q": "sourdough", "tag": "kitchen"}).json()
    assert [note["title"] for note in found["notes"]] == ["Sourdough, second attempt"]
    assert found["notes"][0]["tags"] == ["kitchen"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", found["notes"][0]["updated_at"])


def test_the_api_creates_replaces_and_deletes(http: httpx.Client) -> None:
    answer = http.post("/api/notes", json={"title": "Über 🐦", "body": "a\nb", "tags": ["Z", "a"]})
    assert answer.status_code == 201
    note = answer.json()
    path = f"/api/notes/{note['id']}"
    assert answer.headers["Location"].endswith(path)
    assert http.get(path).json() == note
    assert note["tags"] == ["a", "z"]

    replaced = http.put(path, json={"title": "Other"})
    assert replaced.status_code == 200
    assert (replaced.json()["body"], replaced.json()["tags"]) == ("", [])
    assert replaced.json()["created_at"] == note["created_at"]

    gone = http.delete(path)
    assert (gone.status_code, gone.content) == (204, b"")
    for again in (http.get(path), http.put(path, json={"title": "x"}), http.delete(path)):
        assert again.status_code == 404
        assert again.json() == {"error": "Nothing here", "status": 404}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"title"}),
        ({"title": None}, {"title"}),
        ({"title": 7}, {"title"}),
        ({"title": "x", "body": ["y"]}, {"body"}),
        ({"title": "x", "body": "y" * 50_001}, {"body"}),
        ({"title": "x", "tags": 3}, {"tags"}),
        ({"title": "x", "tags": ["a", 1]}, {"tags"}),
        ({"title": "x" * 201, "tags": ["t" * 31]}, {"title", "tags"}),
        ([], {"note"}),
        ("title", {"note"}),
        (None, {"note"}),
    ],
)
def test_the_api_says_which_field_is_wrong(http: httpx.Client, body: object, fields: set[str]) -> None:
    for method, path in (("POST", "/api/notes"), ("PUT", "/api/notes/1")):
        answer = http.request(method, path, content=json.dumps(body), headers={"Content-Type": "application/json"})
        assert answer.status_code == 422
        assert set(answer.json()["errors"]) == fields


def test_text_that_no_database_could_store_is_cleaned(http: httpx.Client) -> None:
    answer = http.post(
        "/api/notes",
        content=rb'{"title": "a\u0000b\ud800c", "body": "\ud83d", "tags": ["\u0000"]}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 201
    assert answer.json()["title"] == "a b c"
    http.delete(f"/api/notes/{answer.json()['id']}")


def test_a_body_that_is_not_json_is_a_bad_request(http: httpx.Client) -> None:
    for call in (lambda **kw: http.post("/api/notes", **kw), lambda **kw: http.put("/api/notes/1", **kw)):
        answer = call(content=b'{"title": ', headers={"Content-Type": "application/json"})
        assert answer.status_code == 400
        assert answer.json()["status"] == 400


# The rest


def test_the_export_is_streamed_and_holds_every_note(http: httpx.Client) -> None:
    extra = create(http, title='with "quotes", commas', body="and\nlines; ü 🐦", tags=["b", "a"])
    answer = http.get("/export.csv")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/csv")
    assert "attachment" in answer.headers["Content-Disposition"]
    assert "Content-Length" not in answer.headers  # sent as it is read

    exported = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    notes: list[dict[str, object]] = []
    for page in range(1, http.get("/api/notes").json()["pages"] + 1):
        notes += http.get("/api/notes", params={"page": page}).json()["notes"]
    assert [int(row["id"]) for row in exported] == sorted(note["id"] for note in notes)
    by_id = {note["id"]: note for note in notes}
    for row in exported:
        note = by_id[int(row["id"])]
        assert (row["title"], row["body"]) == (note["title"], note["body"])
        assert row["tags"] == ", ".join(note["tags"])
        assert (row["created_at"] + "Z", row["updated_at"] + "Z") == (note["created_at"], note["updated_at"])
    http.delete(f"/api/notes/{extra['id']}")


def test_readiness_tells_the_database_and_the_pool(http: httpx.Client) -> None:
    answer = http.get("/ready").json()
    assert (answer["status"], answer["read_only"]) == ("ready", False)
    assert answer["server_version"]
    assert 0 < answer["round_trip"] < 5
    assert answer["pool"]["in_use"] >= 1


def test_health_and_the_stylesheet_are_served(http: httpx.Client) -> None:
    assert http.get("/health").json() == {"status": "ok"}
    sheet = http.get("/static/notes.css")
    assert sheet.headers["Content-Type"].startswith("text/css")
    assert "prefers-color-scheme" in sheet.text
    for path in ("/static/../app.py", "/static/%2e%2e/pages.py", "/static/nothing.css"):
        assert http.get(path).status_code in (400, 403, 404)


@pytest.mark.parametrize("path", ["/nothing", "/notes/999999", "/notes/0", "/notes/99999999999999999", "/notes/x"])
def test_what_is_not_there_is_a_styled_404(http: httpx.Client, path: str) -> None:
    page = http.get(path)
    assert page.status_code == 404
    assert "Nothing here" in page.text
    assert "/static/notes.css" in page.text


@pytest.mark.parametrize("path", ["/api/nothing", "/api/notes/999999", "/api/notes/99999999999999999", "/api/notes/x"])
def test_what_is_not_there_is_json_under_api(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    assert answer.json() == {"error": "Nothing here", "status": 404}


@pytest.mark.parametrize("path", ["/notes/999999", "/notes/999999/delete"])
def test_a_form_for_a_note_that_is_gone_is_a_404(http: httpx.Client, path: str) -> None:
    assert http.post(path, data={"title": "x"}).status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("DELETE", "/"), ("PUT", "/notes/1"), ("GET", "/notes/1/delete"), ("PATCH", "/api/notes/1"), ("POST", "/health")],
)
def test_a_method_that_makes_no_sense_is_a_405(http: httpx.Client, method: str, path: str) -> None:
    assert http.request(method, path).status_code == 405


@pytest.mark.parametrize(
    "path", ["/", "/notes/new", "/notes/1", "/api/notes", "/api/notes/1", "/export.csv", "/health", "/ready"]
)
def test_head_answers_like_get_without_the_body(http: httpx.Client, path: str) -> None:
    head, get = http.head(path), http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
