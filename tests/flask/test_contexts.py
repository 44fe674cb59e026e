"""Outside requests: CLI commands, app contexts, test request contexts."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import current_app, request

import peewee_web
from peewee_web.core.scope import current_scope
from tests.flask.conftest import Site, exhausted


@pytest.fixture(autouse=True)
def nothing_is_left_behind(new_site: Callable[..., Site]) -> Iterator[None]:
    yield
    assert current_scope() is None


# App contexts.


def test_an_app_context_gives_its_connection_back(site: Site) -> None:
    with site.app.app_context():
        site.add("x")
        assert site.count() == "1"
        assert site.in_use == 1
    assert site.in_use == 0
    assert current_scope() is None


def test_an_app_context_that_fails_gives_its_connection_back(site: Site) -> None:
    def fail() -> None:
        with site.app.app_context(), site.db.database.atomic():
            site.add("lost")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert site.in_use == 0
    assert site.saved() == []


def test_app_contexts_nest(site: Site) -> None:
    with site.app.app_context():
        site.add("x")
        with site.app.app_context():
            assert site.count() == "1"
            assert site.in_use == 1
        assert site.count() == "1"
    assert site.in_use == 0


@pytest.mark.parametrize("fails", [False, True])
def test_an_atomic_app_context_commits_if_nothing_was_raised(new_site: Callable[..., Site], fails: bool) -> None:
    site = new_site(PEEWEE_ATOMIC=True)

    def work() -> None:
        with site.app.app_context():
            site.add("x")
            assert site.database.in_transaction()
            if fails:
                raise ZeroDivisionError

    if fails:
        with pytest.raises(ZeroDivisionError):
            work()
    else:
        work()
    assert site.saved() == ([] if fails else ["x"])


def test_an_atomic_app_context_may_be_pushed_while_an_error_is_handled(new_site: Callable[..., Site]) -> None:
    site = new_site(PEEWEE_ATOMIC=True)
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        with site.app.app_context():
            site.add("x")
    assert site.saved() == ["x"]


def test_a_transaction_left_open_in_an_app_context_is_warned_about(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "peewee_web"), site.app.app_context():
        site.db.database.session_start()
        site.add("lost")
    assert "was left open" in caplog.text
    assert site.saved() == []


@pytest.mark.parametrize("first", [True, False], ids=["before ours", "after ours"])
def test_a_teardown_function_that_raises_loses_no_connection(new_site: Callable[..., Site], first: bool) -> None:
    site = new_site()

    def fail(error: BaseException | None) -> None:
        site.count()
        raise ZeroDivisionError

    site.app.teardown_appcontext_funcs.insert(0 if first else 1, fail)

    def work() -> None:
        with site.app.app_context():
            site.count()

    for _ in range(6):
        with pytest.raises(ZeroDivisionError):
            work()
        gc.collect()
        assert current_scope() is None
        with peewee_web.scope():  # what was lost is taken back by the next checkout
            site.database.execute_sql("SELECT 1")
        if not first:
            assert site.in_use == 0
    assert site.in_use <= 1
    site.database.close()


def test_a_context_that_is_collected_late_leaves_the_scope_of_others_alone(site: Site) -> None:
    def fail(error: BaseException | None) -> None:
        raise ZeroDivisionError

    site.app.teardown_appcontext(fail)
    kept: list[BaseException] = []
    try:
        with site.app.app_context():
            site.count()
    except ZeroDivisionError as error:
        kept.append(error)

    with peewee_web.scope() as scope:
        kept.clear()
        gc.collect()
        assert current_scope() is scope
        scope.end()


# Request contexts without a request.


def test_a_test_request_context_has_a_scope(site: Site) -> None:
    with site.app.test_request_context("/x"):
        assert request.path == "/x"
        assert site.count() == "0"
        assert site.in_use == 1
    assert site.in_use == 0


def test_hooks_may_be_run_in_a_test_request_context(new_site: Callable[..., Site]) -> None:
    site = new_site(PEEWEE_LAZY=False, PEEWEE_ATOMIC=True)
    site.app.add_url_rule("/", view_func=site.count)
    with site.app.test_request_context("/"):
        assert site.app.preprocess_request() is None
        assert site.in_use == 1
        site.add("x")
        site.app.process_response(site.app.make_response("ok"))
        assert not site.database.in_transaction()
    assert site.in_use == 0
    assert site.saved() == ["x"]


# Commands.


def test_a_command_gives_its_connection_back(site: Site) -> None:
    @site.app.cli.command("add")
    def add() -> None:
        site.add("x")
        print(site.count(), site.in_use, current_app.import_name)

    answer = site.app.test_cli_runner().invoke(args=["add"])
    assert answer.output.split()[:2] == ["1", "1"]
    assert site.in_use == 0
    assert site.saved() == ["x"]


@pytest.mark.parametrize("fails", [False, True])
def test_an_atomic_command_commits_if_it_succeeds(new_site: Callable[..., Site], fails: bool) -> None:
    site = new_site(PEEWEE_ATOMIC=True)

    @site.app.cli.command("add")
    def add() -> None:
        site.add("x")
        if fails:
            raise ZeroDivisionError

    answer = site.app.test_cli_runner().invoke(args=["add"])
    assert (answer.exception is not None) == fails
    assert site.in_use == 0
    assert site.saved() == ([] if fails else ["x"])


def test_a_command_is_told_that_there_is_no_connection(site: Site) -> None:
    site.app.cli.command("count")(site.count)
    with exhausted(site.database):
        answer = site.app.test_cli_runner().invoke(args=["count"])
    assert isinstance(answer.exception, peewee_web.PoolTimeout)


def test_a_shell_has_a_scope(site: Site) -> None:
    context: dict[str, Any]
    with site.app.app_context():
        context = site.app.make_shell_context()
        assert context["app"] is site.app
        assert site.count() == "0"
    assert site.in_use == 0
