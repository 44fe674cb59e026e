"""What a client is told to bring along, and what is believed of what it brings."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import peewee
import pytest

from peewee_web import Databases, ReplicatedDatabase, ScopedDatabase
from peewee_web.core.bookmarks import Bookmarks
from peewee_web.core.replication import replication_of
from peewee_web.core.scope import History

LSN, GTIDS = "16/B374D848", "0-1-100,5-12-7"


def headers(**given: str) -> Callable[[str], str | None]:
    return lambda name: given.get(name.replace("-", "_"))


@pytest.mark.parametrize("position", [LSN, GTIDS, ""])
@pytest.mark.parametrize("name", ["default", "reports 2024"])
def test_a_cookie_that_comes_back_says_what_it_was_made_of(position: str, name: str) -> None:
    bookmarks = Bookmarks(10, "cookie")
    key, value = bookmarks.make(name, position).header()
    assert key == "Set-Cookie"
    cookie = value.partition(";")[0]
    assert bookmarks.read(headers(Cookie=f"a=b; {cookie}; c=d"), name) == position


@pytest.mark.parametrize("position", [LSN, GTIDS])
def test_pythons_own_cookies_need_no_quotes_for_it(position: str) -> None:
    cookies: Any = SimpleCookie()
    bookmark = Bookmarks(10, "cookie").make("default", position)
    cookies[bookmark.name] = bookmark.value
    assert '"' not in cookies.output()


def test_a_cookie_is_for_the_whole_site_and_for_no_script() -> None:
    _, value = Bookmarks(10.5, "cookie").make("default", LSN).header()
    assert value.split("; ")[1:] == ["Max-Age=11", "Path=/", "HttpOnly", "SameSite=Lax"]


def test_a_header_does_as_well() -> None:
    bookmarks = Bookmarks(10, "header")
    name, value = bookmarks.make("default", LSN).header()
    assert name == "Peewee-Position-default"
    assert bookmarks.read(headers(Peewee_Position_default=value), "default") == LSN


@pytest.mark.parametrize("text", ["", "x", "1.", "9999999999999999.0:1", "NOW", "NOW.0:1;", "NOW.<b>", "now.0:1"])
def test_what_is_no_bookmark_counts_for_nothing(text: str) -> None:
    text = text.replace("NOW", str(int(time.time() * 1000)))
    assert Bookmarks(10, "header").read(headers(Peewee_Position_default=text), "default") is None


@pytest.mark.parametrize("age", [11, -11])
def test_it_counts_for_as_long_as_said(age: int, monkeypatch: pytest.MonkeyPatch) -> None:
    bookmarks = Bookmarks(10, "header")
    _, value = bookmarks.make("default", LSN).header()
    now = time.time()
    monkeypatch.setattr("time.time", lambda: now + age)
    assert bookmarks.read(headers(Peewee_Position_default=value), "default") is None


def test_one_of_another_database_does_not_count() -> None:
    bookmarks = Bookmarks(10, "cookie")
    cookie = bookmarks.make("reports", LSN).header()[1].partition(";")[0]
    assert bookmarks.read(headers(Cookie=cookie), "default") is None


def test_names_that_look_alike_have_bookmarks_of_their_own() -> None:
    names = ["a.b", "a-b", "a_b", "A-b", "müller", "möller", "日本", "中国", "default"]
    for by in ("cookie", "header"):
        assert len({Bookmarks(10, by).make(name, LSN).name.lower() for name in names}) == len(names)


def test_less_than_a_second_is_a_time_as_well() -> None:
    bookmarks = Bookmarks(0.9, "header")
    _, value = bookmarks.make("default", LSN).header()
    assert bookmarks.read(headers(Peewee_Position_default=value), "default") == LSN


def test_a_tenant_is_asked_for_its_own_position(tmp_path: Path) -> None:
    tenants = {name: ReplicatedDatabase(f"sqlite:///{tmp_path}/{name}.db") for name in ("acme", "globex")}
    databases = Databases({"default": "sqlite:///:memory:", **tenants}, choose=lambda request: "acme")
    cookies = []
    for name, tenant in tenants.items():
        with databases.scope(default=name) as scope:
            tenant.execute_sql("CREATE TABLE written (id INTEGER)")
            (bookmark,) = databases.bookmarks_after(scope)
            cookies.append(bookmark.header()[1].partition(";")[0])
    brought = {"Cookie": "; ".join(cookies)}
    with databases.scope_for("GET", brought.get, lambda: None) as scope:
        ScopedDatabase().find()
        assert len(set(cookies)) == 2
        assert scope.history.positions.keys() == set(tenants.values())


def test_without_time_there_is_none() -> None:
    database = ReplicatedDatabase("sqlite:///:memory:", sticky_for=0)
    history = History()
    history.written.update(database.members)
    assert database.bookmark_after("default", history) is None


def test_a_request_that_wrote_nothing_leaves_none() -> None:
    databases = Databases(ReplicatedDatabase("sqlite:///:memory:"))
    with databases.scope() as scope:
        assert databases.bookmarks_after(scope) == []


# Positions.


@pytest.mark.parametrize(
    ("kind", "position", "wanted", "reached"),
    [
        (peewee.PostgresqlDatabase, "0/3000060", "0/3000060", True),
        (peewee.PostgresqlDatabase, "1/0", "0/FFFFFFFF", True),
        (peewee.PostgresqlDatabase, "0/FFFFFFFF", "1/0", False),
        (peewee.PostgresqlDatabase, "0/9", "0/10", False),
        (peewee.MySQLDatabase, "0-1-100", "0-1-100", True),
        (peewee.MySQLDatabase, "0-2-100", "0-1-99", True),
        (peewee.MySQLDatabase, "0-1-99", "0-1-100", False),
        (peewee.MySQLDatabase, "0-1-100,1-1-5", "0-1-7,1-1-6", False),
        (peewee.MySQLDatabase, "0-1-100", "0-1-100,1-1-1", False),
        (peewee.MySQLDatabase, "0-1-100,1-1-5", "1-1-5", True),
        (peewee.MySQLDatabase, "", "0-1-1", False),
        (peewee.SqliteDatabase, "", "", False),
    ],
)
def test_positions_are_compared(kind: Any, position: str, wanted: str, reached: bool) -> None:
    assert replication_of(kind(None)).has_reached(position, wanted) is reached


@pytest.mark.parametrize("text", ["", "0", "0/", "G/0", "0/0 ", "0/0;", "123456789/0", "0-1", "a-b-c", "0-1-2,"])
def test_only_positions_are_taken_for_such(text: str) -> None:
    assert not replication_of(peewee.PostgresqlDatabase(None)).is_position(text)
    assert not replication_of(peewee.MySQLDatabase(None)).is_position(text)


def test_how_far_a_standby_is_behind_is_counted_in_bytes() -> None:
    assert replication_of(peewee.PostgresqlDatabase(None)).bytes_between("0/FFFFFFF0", "1/10") == 32
