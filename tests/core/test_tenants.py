"""Tenants: whose database a unit of work has for its default one, as its scope says or as ``choose`` does."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import peewee
import pytest

import peewee_web
from peewee_web import (
    Databases,
    DatabaseUnavailable,
    PooledSqliteDatabase,
    PoolTimeout,
    ReplicatedDatabase,
    Scope,
    ScopedDatabase,
)
from peewee_web.core.errors import ScopeError
from peewee_web.core.scope import current_scope
from tests.core.working import PATIENCE, Working, in_thread, in_use
from tests.servers.waiting import until

proxy = ScopedDatabase()
control = ScopedDatabase("control")

NAMES = ("default", "control", "ann", "bob", "cid", "dan")
TENANTS = NAMES[2:]
SECRET = "postgresql://app:s3cret@db.invalid/app"


class Note(proxy.Model):  # type: ignore[name-defined, misc]
    text = peewee.TextField()


class Tenant(control.Model):  # type: ignore[name-defined, misc]
    host = peewee.TextField()
    name = peewee.TextField()


@pytest.fixture
def files(tmp_path: Path) -> Iterator[dict[str, PooledSqliteDatabase]]:
    """A database for each of the names, with a note of that name; those of the tenants are listed in ``control``."""
    files = {name: made(tmp_path, name) for name in NAMES}
    with files["control"].connection_context(), files["control"].bind_ctx([Tenant]):
        files["control"].create_tables([Tenant])
        Tenant.insert_many([{"host": f"{name}.example", "name": name} for name in TENANTS]).execute()
    yield files
    left = {name: in_use(file) for name, file in files.items()}
    for file in files.values():
        file.close_all()
    assert left == dict.fromkeys(NAMES, 0)


def made(directory: Path, name: str) -> PooledSqliteDatabase:
    """With as many connections as the tests at random have units of work under way."""
    file: PooledSqliteDatabase = peewee_web.connect(
        f"sqlite:///{directory}/{name}.db", max_connections=256, timeout=1, pragmas={"synchronous": "off"}
    )
    with file.connection_context(), file.bind_ctx([Note]):
        file.create_tables([Note])
        Note.create(text=name)
    return file


@pytest.fixture
def databases(files: dict[str, PooledSqliteDatabase]) -> Databases:
    return Databases(files)


def notes() -> list[str]:
    return [note.text for note in Note.select().order_by(Note.id)]  # type: ignore[attr-defined]


def note() -> str:
    """The only one: the name of the database that is asked."""
    (text,) = notes()
    return text


# What a scope is given.


def test_a_scope_may_have_another_default_by_its_name(databases: Databases) -> None:
    with databases.scope(default="ann"):
        assert note() == "ann"


def test_a_scope_may_have_another_default_that_is_none_of_the_apps(databases: Databases, tmp_path: Path) -> None:
    with contextlib.closing(made(tmp_path, "eve")) as eve, databases.scope(default=eve):
        assert note() == "eve"


@pytest.mark.parametrize("kind", [peewee.Proxy, peewee.DatabaseProxy])
def test_a_scope_may_have_another_default_by_a_proxy(databases: Databases, kind: Any) -> None:
    tenant = kind()
    tenant.initialize(databases["ann"])
    with databases.scope(default=tenant):
        assert note() == "ann"


def test_a_scope_may_have_another_default_with_replicas(databases: Databases) -> None:
    replicated = ReplicatedDatabase(databases["ann"], [databases["bob"]])
    with databases.scope(default=replicated):
        assert note() == "bob"
        assert proxy.obj is databases["ann"]


def test_a_foreign_database_is_adopted(databases: Databases, tmp_path: Path) -> None:
    made(tmp_path, "eve").close_all()
    foreign = peewee.SqliteDatabase(str(tmp_path / "eve.db"))
    with databases.scope(default=foreign):
        assert note() == "eve"
        assert in_use(foreign) == 1
    assert in_use(foreign) == 0


def test_another_database_than_the_default_may_be_replaced(databases: Databases) -> None:
    reports = ScopedDatabase("control")
    with databases.scope(control="ann"):
        assert reports.obj is databases["ann"]
        assert note() == "default"


def test_a_replaced_database_is_still_known_by_its_own_name(databases: Databases) -> None:
    with databases.scope(default="ann", ann="bob"):
        assert current().default is databases["ann"]
        assert current()["ann"] is databases["bob"]


def test_a_scope_is_the_only_one_that_has_it(databases: Databases) -> None:
    with databases.scope(default="ann"):
        assert note() == "ann"
    with databases.scope():
        assert note() == "default"


def test_a_scope_within_one_of_another_tenant_has_its_own(databases: Databases) -> None:
    with databases.scope(default="ann"):
        with databases.scope(default="bob"):
            assert note() == "bob"
        assert note() == "ann"


def test_a_scope_that_is_begun_in_another_has_its_tenant(databases: Databases) -> None:
    with databases.scope(default="ann"), peewee_web.scope():
        assert note() == "ann"


def test_a_scope_that_is_begun_in_another_has_a_connection_of_its_own(databases: Databases) -> None:
    with databases.scope(default="ann"):
        note()
        with peewee_web.scope():
            note()
            assert in_use(databases["ann"]) == 2


def test_a_function_that_is_decorated_with_a_scope_has_the_tenant_of_the_caller(databases: Databases) -> None:
    decorated = peewee_web.scope()(note)
    with databases.scope(default="ann"):
        assert decorated() == "ann"


def test_what_a_tenants_scope_replaces_goes_on_in_a_scope_of_its_databases(databases: Databases) -> None:
    with databases.scope(default="ann"), current().scope(control="bob"):
        assert note() == "ann"
        assert control.obj is databases["bob"]


def test_worker_threads_have_the_tenant(databases: Databases) -> None:
    with databases.scope(default="ann"):
        assert Working(None, note).result() == "ann"


def test_tasks_have_the_tenant_of_their_scope(databases: Databases) -> None:
    async def ask() -> str:
        await asyncio.sleep(0)
        return note()

    async def serve(tenant: str) -> list[str]:
        async with databases.scope(default=tenant):
            return [*await asyncio.gather(ask(), ask()), await asyncio.to_thread(note)]

    async def all_of_them() -> list[list[str]]:
        return await asyncio.gather(*map(serve, TENANTS))

    assert asyncio.run(all_of_them()) == [[tenant] * 3 for tenant in TENANTS]


def decorated_functions(scope: Callable[[], Scope]) -> dict[str, Callable[[], list[str]]]:
    """For each kind of function that a scope decorates: how one is run, and the notes that it has seen."""

    @scope()
    def function() -> list[str]:
        return [note()]

    @scope()
    async def coroutine() -> list[str]:
        await asyncio.sleep(0)
        return [note()]

    @scope()
    def generator() -> Iterator[str]:
        yield note()
        yield note()

    @scope()
    async def generator_async() -> Any:
        yield note()
        await asyncio.sleep(0)
        yield note()

    async def collect() -> list[str]:
        return [text async for text in generator_async()]

    return {
        "function": function,
        "coroutine": lambda: asyncio.run(coroutine()),
        "generator": lambda: list(generator()),
        "asynchronous generator": lambda: asyncio.run(collect()),
    }


@pytest.mark.parametrize("kind", ["function", "coroutine", "generator", "asynchronous generator"])
def test_a_decorated_function_has_the_tenant_each_time(databases: Databases, kind: str) -> None:
    run = decorated_functions(lambda: databases.scope(default="ann"))[kind]
    with databases.scope(default="bob"):
        assert {*run(), *run()} == {"ann"}
    assert in_use(databases["ann"]) == 0


def test_an_atomic_scope_covers_the_tenants_database(databases: Databases) -> None:
    with contextlib.suppress(ZeroDivisionError), databases.scope(default="ann", atomic=True):
        Note.create(text="lost")
        assert databases["ann"].in_transaction()
        raise ZeroDivisionError
    with databases.scope(default="ann"):
        assert note() == "ann"


def test_an_atomic_scope_commits_in_the_tenants_database(databases: Databases) -> None:
    with databases.scope(default="ann", atomic=True):
        Note.create(text="kept")
    with databases.scope(default="ann"):
        assert notes() == ["ann", "kept"]


def test_a_default_that_is_atomic_by_name_is_so_for_each_tenant(files: dict[str, Any]) -> None:
    databases = Databases(files, atomic=["default"])
    with databases.scope(default="ann"):
        notes()
        assert files["ann"].in_transaction()


def test_a_database_that_is_not_atomic_by_name_is_not_when_it_stands_elsewhere(files: dict[str, Any]) -> None:
    databases = Databases(files, atomic=["default"])
    with databases.scope(default="ann"), control.connection_context():
        assert not files["control"].in_transaction()


def test_the_default_that_was_replaced_is_not_asked_for_a_connection(databases: Databases) -> None:
    with databases.scope(default="ann", lazy=False):
        assert (in_use(databases["ann"]), in_use(databases["default"])) == (1, 0)


def test_a_scope_that_is_not_lazy_connects_the_tenants_database(databases: Databases, tmp_path: Path) -> None:
    with contextlib.closing(made(tmp_path, "eve")) as eve, databases.scope(default=eve, lazy=False):
        assert in_use(eve) == 1


def test_an_asynchronous_scope_that_is_not_lazy_connects_the_tenants_database(databases: Databases) -> None:
    async def serve() -> int:
        async with databases.scope(default="ann", lazy=False):
            return in_use(databases["ann"])

    assert asyncio.run(serve()) == 1


def test_the_tenants_connection_is_given_back(databases: Databases) -> None:
    with databases.scope(default="ann"):
        note()
        assert in_use(databases["ann"]) == 1
    assert in_use(databases["ann"]) == 0


def test_the_tenants_connection_is_given_back_after_an_error(databases: Databases) -> None:
    with pytest.raises(peewee.OperationalError), databases.scope(default="ann"):
        proxy.execute_sql("SELECT * FROM nowhere")
    assert in_use(databases["ann"]) == 0


def test_a_name_that_the_app_does_not_have_can_not_be_replaced(databases: Databases) -> None:
    with pytest.raises(TypeError, match=r"no database is named 'eve': scope\(\) takes default, control, ann"):
        databases.scope(eve="ann")


def test_a_database_can_not_be_replaced_by_an_unknown_name(databases: Databases) -> None:
    with pytest.raises(ScopeError, match=r"scope\(default=\.\.\.\) gave a name that is not known: .*'ann'"):
        databases.scope(default="eve")


def test_an_unknown_name_is_not_repeated(databases: Databases) -> None:
    """A client may have sent it."""
    with pytest.raises(ScopeError) as raised:
        databases.scope(default="<script>")
    assert "script" not in str(raised.value)


def test_a_url_is_refused_without_its_password(databases: Databases) -> None:
    with pytest.raises(ScopeError, match=r"peewee_web\.connect\(\)") as raised:
        databases.scope(default=SECRET)
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("nothing", [7, object(), ["ann"], {"password": "s3cret"}])
def test_what_is_no_database_is_refused(databases: Databases, nothing: Any) -> None:
    with pytest.raises(TypeError, match=f"{type(nothing).__name__} is not a Peewee database") as raised:
        databases.scope(default=nothing)
    assert "s3cret" not in str(raised.value)


def test_none_is_refused(databases: Databases) -> None:
    with pytest.raises(ScopeError, match=r"scope\(default=\.\.\.\) gave None"):
        databases.scope(default=None)


def test_a_proxy_without_a_database_is_refused(databases: Databases) -> None:
    with pytest.raises(ValueError, match="has no database yet"):
        databases.scope(default=peewee.DatabaseProxy())


# What `choose` says.


def current() -> Databases:
    scope = current_scope()
    assert scope is not None
    assert scope.databases is not None
    return scope.databases


def begin(databases: Databases, request: Any = None, **options: Any) -> Scope:
    """What an adapter begins for *request*."""
    return databases.scope_for("GET", {}.get, lambda: request, **options)


class Chooser:
    """A function for ``choose`` that counts its calls. The request is the answer, or says it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, request: Any) -> Any:
        self.calls += 1
        return request() if inspect.isfunction(request) else request


@pytest.fixture
def chooser() -> Chooser:
    return Chooser()


@pytest.fixture
def chosen(files: dict[str, PooledSqliteDatabase], chooser: Chooser) -> Databases:
    return Databases(files, choose=chooser)


def test_a_request_has_the_database_that_is_chosen_by_name(chosen: Databases) -> None:
    with begin(chosen, "ann"):
        assert note() == "ann"


def test_a_request_has_the_database_that_is_chosen(chosen: Databases, tmp_path: Path) -> None:
    with contextlib.closing(made(tmp_path, "eve")) as eve, begin(chosen, eve):
        assert note() == "eve"


def test_a_request_may_have_the_default_chosen(chosen: Databases) -> None:
    with begin(chosen, "default"):
        assert note() == "default"


def test_a_request_may_have_what_another_name_stands_for_chosen(chosen: Databases) -> None:
    with begin(chosen, ScopedDatabase("ann")):
        assert note() == "ann"


def test_the_only_database_is_chosen_for_whatever_its_name(files: dict[str, Any]) -> None:
    databases = Databases({"notes": files["default"]}, choose=lambda request: files["ann"])
    with begin(databases):
        assert note() == "ann"


def test_a_request_has_its_database_chosen_once(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann"):
        note()
        note()
        with proxy.atomic():
            note()
    assert chooser.calls == 1


def test_each_request_has_its_database_chosen(chosen: Databases, chooser: Chooser) -> None:
    for tenant in ("ann", "bob"):
        with begin(chosen, tenant):
            assert note() == tenant
    assert chooser.calls == 2


def test_nothing_is_chosen_before_it_is_needed(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann"):
        assert chooser.calls == 0
        note()
        assert chooser.calls == 1


UNCHOSEN: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "another database": lambda: Tenant.select().count(),
    "a block of another": lambda: control.connection_context()(Tenant.select().count)(),
    "the names": lambda: (list(current()), len(current()), repr(current())),
    "whether there is a name": lambda: "default" in current(),
    "another by name": lambda: current()["control"],
    "a scope in it": lambda: peewee_web.scope().end(),
    "what is in use": lambda: repr(current_scope()),
}


@pytest.mark.parametrize("use", UNCHOSEN.values(), ids=UNCHOSEN)
@pytest.mark.parametrize("atomic", [False, True])
def test_a_request_that_does_not_ask_its_default_has_none_chosen(
    chosen: Databases, chooser: Chooser, use: Any, atomic: bool
) -> None:
    with begin(chosen, "ann", atomic=atomic):
        use()
    assert chooser.calls == 0


def test_a_scope_that_is_no_requests_has_the_default(chosen: Databases, chooser: Chooser) -> None:
    with chosen.scope():
        assert note() == "default"
    assert chooser.calls == 0


def test_a_scope_that_names_its_default_has_none_chosen(chosen: Databases, chooser: Chooser) -> None:
    with chosen.scope(default="ann"):
        assert note() == "ann"
    assert chooser.calls == 0


def test_a_scope_within_the_request_has_what_is_chosen_for_it(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann"):
        with peewee_web.scope():
            assert note() == "ann"
        assert note() == "ann"
    assert chooser.calls == 1


def test_a_scope_of_what_the_request_sees_has_what_is_chosen_for_it(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann"):
        with current().scope(control="bob"):
            assert control.obj is chosen["bob"]
            assert note() == "ann"
        assert note() == "ann"
    assert chooser.calls == 1


def test_a_scope_in_the_request_that_names_its_default_has_none_chosen(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann"), current().scope(default="bob"):
        assert note() == "bob"
    assert chooser.calls == 0


def test_two_threads_of_a_request_have_it_chosen_once(chosen: Databases, chooser: Chooser) -> None:
    entered, second_waits = threading.Event(), threading.Event()

    def answer() -> str:
        entered.set()
        second_waits.wait(PATIENCE)
        return "ann"

    with begin(chosen, answer):
        first = Working(None, note)
        assert entered.wait(PATIENCE)
        second = Working(None, note)
        until(lambda: second.is_in("settled"))
        second_waits.set()
        assert [first.result(), second.result()] == ["ann", "ann"]
    assert chooser.calls == 1


def test_many_threads_of_a_request_have_it_chosen_once(chosen: Databases, chooser: Chooser) -> None:
    together = threading.Barrier(8, timeout=PATIENCE)

    def ask() -> Any:
        together.wait()
        return proxy.obj

    for _ in range(20):
        chooser.calls = 0
        with begin(chosen, "ann"):
            assert {thread.result() for thread in [Working(None, ask) for _ in range(8)]} == {chosen["ann"]}
        assert chooser.calls == 1


def test_it_may_be_looked_up_in_a_database_of_another_name(files: dict[str, Any]) -> None:
    def look_up(request: str) -> str:
        name: str = Tenant.get(Tenant.host == request).name
        return name

    with begin(Databases(files, choose=look_up), "bob.example"):
        assert note() == "bob"


def test_it_may_be_looked_up_in_an_atomic_request(files: dict[str, Any]) -> None:
    def look_up(request: str) -> str:
        name: str = Tenant.get(Tenant.host == request).name
        return name

    with begin(Databases(files, choose=look_up, atomic=True), "bob.example"):
        assert note() == "bob"
        assert files["control"].in_transaction()


def test_it_may_be_looked_up_in_a_scope_of_its_own(files: dict[str, Any]) -> None:
    def look_up(request: str) -> str:
        with peewee_web.scope():
            name: str = Tenant.get(Tenant.host == request).name
        assert in_use(files["control"]) == 0
        return name

    with begin(Databases(files, choose=look_up), "bob.example"):
        assert note() == "bob"


DEFAULTS: dict[str, Callable[[], Any]] = {
    "a query": note,
    "SQL": lambda: proxy.execute_sql("SELECT 1"),
    "a transaction": lambda: proxy.atomic().__enter__(),
    "by name": lambda: current()["default"],
    "in a scope of its own": lambda: peewee_web.scope()(note)(),
    "in what stands for it": lambda: proxy,
}


@pytest.mark.parametrize("use", DEFAULTS.values(), ids=DEFAULTS)
def test_it_can_not_be_looked_up_in_the_default_itself(chosen: Databases, use: Any) -> None:
    explained = r"choose= uses the default database, which it is to choose: .*ScopedDatabase\('control'\)"
    with begin(chosen, use), pytest.raises(ScopeError, match=explained):
        note()


def test_it_is_called_again_after_it_has_failed(chosen: Databases) -> None:
    answers = iter([None, "ann"])
    with begin(chosen, lambda: next(answers)):
        with pytest.raises(ScopeError):
            note()
        assert note() == "ann"


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


@pytest.mark.parametrize("kind", [LookupError, KeyError, ValueError, PermissionError, RuntimeError])
@pytest.mark.parametrize("use", [note, lambda: proxy.obj, lambda: current().default], ids=["query", "obj", "default"])
def test_what_it_raises_is_raised_where_the_default_is_asked_for(chosen: Databases, kind: Any, use: Any) -> None:
    error = kind("no such tenant")
    with begin(chosen, failing(error)), pytest.raises(kind, match="no such tenant") as raised:
        use()
    assert raised.value is error


@pytest.mark.parametrize("use", [note, lambda: proxy.obj, lambda: current().default], ids=["query", "obj", "default"])
def test_an_attribute_that_it_misses_is_told(chosen: Databases, use: Any) -> None:
    """Python would ask the proxy for the attribute again, and again."""
    with begin(chosen, lambda: object().host), pytest.raises(ScopeError, match=r"choose= failed: .*'host'"):  # type: ignore[attr-defined]
        use()


def test_an_attribute_that_the_request_misses_is_told(chosen: Databases) -> None:
    scope = chosen.scope_for("GET", {}.get, failing(AttributeError("no request")))
    with scope, pytest.raises(ScopeError, match="choose= failed: no request"):
        note()


def test_nothing_at_all_is_refused(chosen: Databases) -> None:
    with begin(chosen, None), pytest.raises(ScopeError, match="choose= gave None: give one of 'default', 'control'"):
        note()


def test_an_unknown_name_is_refused_and_not_repeated(chosen: Databases) -> None:
    with begin(chosen, "<script>"), pytest.raises(ScopeError, match=r"a name that is not known: .*'ann'") as raised:
        note()
    assert "script" not in str(raised.value)


def test_a_url_is_refused_and_its_password_not_told(chosen: Databases) -> None:
    with begin(chosen, SECRET), pytest.raises(ScopeError, match=r"peewee_web\.connect\(\) has made once") as raised:
        note()
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("answer", [7, ["ann"], {"password": "s3cret"}, peewee.SqliteDatabase])
def test_an_answer_that_is_no_database_is_refused(chosen: Databases, answer: Any) -> None:
    with (
        begin(chosen, lambda: answer),
        pytest.raises(TypeError, match=f"{type(answer).__name__} is not a Peewee database") as raised,
    ):
        note()
    assert "s3cret" not in str(raised.value)


def test_the_connections_are_given_back_when_it_fails(chosen: Databases, files: dict[str, Any]) -> None:
    with contextlib.suppress(ScopeError), begin(chosen, None):
        Tenant.select().count()
        note()
    assert in_use(files["control"]) == 0


async def choose_async(request: Any) -> str:
    return "ann"


class ChoosesAsync:
    async def __call__(self, request: Any) -> str:
        return "ann"


@pytest.mark.parametrize(
    "choose",
    ["ann", 7, {"a": "b"}, choose_async, functools.partial(choose_async), ChoosesAsync()],
    ids=["name", "number", "mapping", "coroutine function", "partial", "callable object"],
)
def test_what_can_not_choose_is_refused_at_once(files: dict[str, Any], choose: Any) -> None:
    with pytest.raises(TypeError, match="choose takes a plain function of the request"):
        Databases(files, choose=choose)


@pytest.mark.parametrize(
    "choose", [Chooser(), functools.partial(lambda name, request: name, "ann"), Chooser().__call__]
)
def test_whatever_can_be_called_may_choose(files: dict[str, Any], choose: Any) -> None:
    with begin(Databases(files, choose=choose), "ann"):
        assert note() == "ann"


def test_a_request_that_is_not_lazy_has_it_chosen_at_its_begin(chosen: Databases, chooser: Chooser) -> None:
    with begin(chosen, "ann", lazy=False):
        assert chooser.calls == 1
        assert (in_use(chosen["ann"]), in_use(chosen["default"])) == (1, 0)


def test_a_request_that_is_not_lazy_is_not_begun_when_nothing_is_chosen(chosen: Databases) -> None:
    with pytest.raises(ScopeError, match="gave None"), begin(chosen, None, lazy=False):
        pytest.fail("it was begun")
    assert current_scope() is None


def test_an_atomic_request_covers_what_is_chosen(chosen: Databases) -> None:
    with contextlib.suppress(ZeroDivisionError), begin(chosen, "ann", atomic=True):
        Note.create(text="lost")
        raise ZeroDivisionError
    with chosen.scope(default="ann"):
        assert note() == "ann"


def test_a_default_that_is_atomic_by_name_is_so_when_it_is_chosen(files: dict[str, Any]) -> None:
    databases = Databases(files, choose=lambda request: request, atomic=["default"])
    with begin(databases, "ann"):
        note()
        Tenant.select().count()
        assert (files["ann"].in_transaction(), files["control"].in_transaction()) == (True, False)


def test_a_request_that_becomes_atomic_covers_what_was_chosen(chosen: Databases) -> None:
    with begin(chosen, "ann") as scope:
        note()
        scope.set_atomic(True)
        assert chosen["ann"].in_transaction()


def test_a_request_that_only_reads_does_so_in_what_is_chosen(files: dict[str, Any]) -> None:
    databases = Databases(files, choose=lambda request: request, read_only=True)
    with begin(databases, "ann"), pytest.raises(ScopeError, match="only reads"):
        Note.create(text="x")


# Names.


def test_atomic_takes_the_names_of_some(files: dict[str, Any]) -> None:
    with Databases(files, atomic=["default", "ann"]).scope():
        note()
        Tenant.select().count()
        assert [name for name in NAMES if files[name].in_transaction()] == ["default"]


@pytest.mark.parametrize("names", ["default", ("default",), {"default"}, iter(["default"])])
def test_atomic_takes_a_name_or_any_number_of_them(files: dict[str, Any], names: Any) -> None:
    with Databases(files, atomic=names).scope():
        note()
        assert files["default"].in_transaction()


def test_atomic_for_no_names_is_not_atomic(files: dict[str, Any]) -> None:
    assert not Databases(files, atomic=[]).scope().atomic


@pytest.mark.parametrize("names", ["eve", ["default", "eve"]])
def test_atomic_takes_no_unknown_names(files: dict[str, Any], names: Any) -> None:
    with pytest.raises(ValueError, match="atomic names 'eve', but there is 'default', 'control'"):
        Databases(files, atomic=names)


def test_a_database_has_its_name(databases: Databases) -> None:
    assert [databases.name_of(databases[name]) for name in NAMES] == list(NAMES)


def test_a_database_of_another_app_has_no_name(databases: Databases, tmp_path: Path) -> None:
    assert databases.name_of(peewee.SqliteDatabase(str(tmp_path / "eve.db"))) is None


def test_a_primary_and_its_replicas_have_the_name_of_the_whole(files: dict[str, Any]) -> None:
    replicated = ReplicatedDatabase(files["ann"], [files["bob"]])
    databases = Databases({"default": files["default"], "reports": replicated})
    assert [databases.name_of(each) for each in (replicated, files["ann"], files["bob"])] == ["reports"] * 3


def test_a_tenants_database_has_the_name_that_the_app_gave_it(chosen: Databases) -> None:
    with begin(chosen, "ann"):
        assert current().name_of(current().default) == "ann"


def test_a_tenants_database_of_its_own_has_the_name_that_it_stands_for(chosen: Databases, tmp_path: Path) -> None:
    eve = peewee.SqliteDatabase(str(tmp_path / "eve.db"))
    with chosen.scope(default=eve):
        assert current().name_of(eve) == "default"


# The name in the error that there is no connection, which the 503 tells.


def exhausted(directory: Path, name: str) -> PooledSqliteDatabase:
    """With one connection, which a thread outside any scope has."""
    database: PooledSqliteDatabase = peewee_web.connect(
        f"sqlite:///{directory}/{name}.db", max_connections=1, timeout=None
    )
    database.connect()
    return database


@pytest.fixture
def full(tmp_path: Path) -> Iterator[PooledSqliteDatabase]:
    database = exhausted(tmp_path, "full")
    yield database
    database.close_all()


def asked_for(database: Any) -> PoolTimeout:
    with pytest.raises(PoolTimeout) as raised:
        database.execute_sql("SELECT 1")
    return raised.value


def test_the_error_names_a_second_database_of_two(files: dict[str, Any], full: Any) -> None:
    with Databases({"default": files["default"], "reports": full}).scope():
        error = asked_for(full)
    assert error.database == "reports"
    assert str(error).startswith("database 'reports': no connection")


def test_the_error_names_the_default_of_two(files: dict[str, Any], full: Any) -> None:
    with Databases({"default": full, "reports": files["default"]}).scope():
        assert asked_for(proxy).database == "default"


def test_the_error_names_nothing_where_there_is_one_database(full: Any) -> None:
    with Databases(full).scope():
        error = asked_for(full)
    assert error.database is None
    assert str(error).startswith("no connection")


def test_the_error_names_nothing_outside_any_app(full: Any) -> None:
    with peewee_web.scope():
        assert asked_for(full).database is None


def test_the_error_names_nothing_that_is_not_the_apps(databases: Databases, full: Any) -> None:
    with databases.scope():
        assert asked_for(full).database is None


def test_the_error_names_the_database_once(files: dict[str, Any], full: Any) -> None:
    with Databases({"default": files["default"], "reports": full}).scope():
        for error in (asked_for(full), asked_for(full)):
            assert str(error).count("reports") == 1


def test_the_error_of_a_scope_that_is_not_lazy_names_the_database(files: dict[str, Any], full: Any) -> None:
    databases = Databases({"default": files["default"], "reports": full}, lazy=False)
    with pytest.raises(PoolTimeout, match=r"^database 'reports': ") as raised, databases.scope():
        pytest.fail("it was begun")
    assert raised.value.database == "reports"
    assert in_use(files["default"]) == 0


def test_the_error_of_an_asynchronous_scope_that_is_not_lazy_names_the_database(
    files: dict[str, Any], full: Any
) -> None:
    databases = Databases({"default": files["default"], "reports": full}, lazy=False)

    async def serve() -> None:
        async with databases.scope():
            pytest.fail("it was begun")

    with pytest.raises(PoolTimeout, match=r"^database 'reports': ") as raised:
        asyncio.run(serve())
    assert raised.value.database == "reports"


def test_the_error_names_the_tenant_that_was_chosen(files: dict[str, Any], full: Any) -> None:
    databases = Databases({"default": files["default"], "ann": full}, choose=lambda request: "ann")
    with begin(databases):
        assert asked_for(proxy).database == "ann"


def test_the_error_names_a_replicated_database(files: dict[str, Any], full: Any) -> None:
    databases = Databases({"default": files["default"], "reports": ReplicatedDatabase(full, [files["ann"]])})
    with databases.scope():
        assert asked_for(databases["reports"]).database == "reports"


def test_the_error_that_a_server_is_away_names_the_database(files: dict[str, Any]) -> None:
    away = peewee_web.connect("postgresql://app@127.0.0.1:1/app", timeout=None)
    databases = Databases({"default": files["default"], "reports": away})
    with databases.scope(), pytest.raises(DatabaseUnavailable, match=r"^database 'reports': ") as raised:
        away.connect()
    assert raised.value.database == "reports"


# At random.


def work_at_random(databases: Databases, worker: int, turns: int, atomic: bool) -> Iterator[None]:
    """Units of work, each of a tenant at random, some of them *atomic*. It can be left at each ``yield``."""
    dice = random.Random(worker)
    begun = {
        "by name": lambda tenant: databases.scope(default=tenant),
        "by database": lambda tenant: databases.scope(default=databases[tenant]),
        "chosen": lambda tenant: begin(databases, f"{tenant}.example"),
        "atomic": lambda tenant: databases.scope(default=tenant, atomic=True),
    }
    if not atomic:
        del begun["atomic"]
    for turn in range(turns):
        tenant, kind = dice.choice(TENANTS), dice.choice(list(begun))
        text = f"{tenant}, {worker}, {turn}, {kind}"
        with begun[kind](tenant):
            yield
            key = Note.create(text=text).id  # type: ignore[attr-defined]
            yield
            assert Note.get_by_id(key).text == text
            assert {found.partition(",")[0] for found in notes()} == {tenant}
            yield
            with peewee_web.scope() if kind != "atomic" else databases.scope(default=tenant):
                assert {found.partition(",")[0] for found in notes()} == {tenant}


@pytest.fixture
def looked_up(files: dict[str, PooledSqliteDatabase]) -> Databases:
    def look_up(request: str) -> str:
        name: str = Tenant.get(Tenant.host == request).name
        return name

    return Databases(files, choose=look_up)


def all_written(databases: Databases) -> int:
    count = 0
    for tenant in TENANTS:
        with databases.scope(default=tenant):
            count += len(notes()) - 1
    return count


def test_threads_that_switch_tenants_at_random_do_not_meet(looked_up: Databases) -> None:
    together = threading.Barrier(16, timeout=PATIENCE)

    def work(worker: int) -> None:
        together.wait()
        for _ in work_at_random(looked_up, worker, turns=10, atomic=True):
            pass

    threads = [Working(contextvars.Context(), functools.partial(work, worker)) for worker in range(16)]
    for thread in threads:
        thread.result()
    assert in_thread(lambda: all_written(looked_up)) == 160
    assert [in_use(file) for file in looked_up.adopted] == [0] * len(NAMES)


def test_coroutines_that_switch_tenants_at_random_do_not_meet(looked_up: Databases) -> None:
    async def work(worker: int) -> None:
        # An atomic one would have the others wait for the file, and with them the event loop.
        for _ in work_at_random(looked_up, worker, turns=3, atomic=False):
            await asyncio.sleep(0)

    async def all_of_them() -> None:
        await asyncio.gather(*map(work, range(200)))

    asyncio.run(all_of_them())
    assert all_written(looked_up) == 600
    assert [in_use(file) for file in looked_up.adopted] == [0] * len(NAMES)


def test_what_it_has_raised_it_raises_again(files: dict[str, PooledSqliteDatabase]) -> None:
    calls = []

    def choose(request: object) -> str:
        calls.append(request)
        raise LookupError("no such tenant")

    with Databases(files, choose=choose).scope_for("GET", lambda name: None, lambda: None):
        for _ in range(2):
            with pytest.raises(LookupError, match="no such tenant"):
                ScopedDatabase().execute_sql("SELECT 1")
    assert len(calls) == 1


def test_a_choice_that_found_no_connection_may_be_made_again(files: dict[str, PooledSqliteDatabase]) -> None:
    answers: list[Any] = [PoolTimeout("all are in use"), "default"]

    def choose(request: object) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return str(answer)

    with Databases(files, choose=choose).scope_for("GET", lambda name: None, lambda: None):
        with pytest.raises(PoolTimeout):
            ScopedDatabase().execute_sql("SELECT 1")
        assert ScopedDatabase().execute_sql("SELECT 1").fetchone() == (1,)


def test_get_does_not_hide_a_keyerror_of_choose(files: dict[str, PooledSqliteDatabase]) -> None:
    def choose(request: object) -> str:
        raise KeyError("no such tenant")

    with Databases(files, choose=choose).scope_for("GET", lambda name: None, lambda: None) as scope:
        databases: Any = scope.databases
        with pytest.raises(KeyError, match="no such tenant"):
            databases.get("default")


def test_a_tenant_with_replicas_of_its_own_has_bookmarks(files: dict[str, PooledSqliteDatabase]) -> None:
    primary, replica, *_ = files.values()
    tenant = ReplicatedDatabase(primary, [replica])
    databases = Databases({"default": "sqlite:///:memory:"}, choose=lambda request: tenant)
    with databases.scope_for("POST", lambda name: None, lambda: None) as scope:
        ScopedDatabase().execute_sql("CREATE TABLE written (id INTEGER)")
        (bookmark,) = databases.bookmarks_after(scope)
    cookie = bookmark.header()[1]
    with databases.scope_for("GET", lambda name: cookie if name == "Cookie" else None, lambda: None):
        assert tenant.get_read() in (primary, replica)  # nothing is chosen yet
        ScopedDatabase().find()
        assert tenant.get_read() is primary
