"""What every adapter must give, whatever the framework, the server and the database (DESIGN.md §5, CASES.md)."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import pytest

from tests.contract.apps import APPS
from tests.contract.cases import MAX_CONNECTIONS, TIMEOUT
from tests.contract.site import Site, Target, new_token, new_tokens, wait_for

LEFT_OPEN = ["session-start", "unexited-atomic", "begin", "raw-begin"]


@pytest.fixture(autouse=True)
def nothing_is_left_over(site: Site) -> Iterator[None]:
    yield
    site.assert_settled()


def is_async(target: Target) -> bool:
    return APPS[target.app][1] != "wsgi"


# Which tests apply to which targets: see `pytest_collection_modifyitems` in conftest.py.
for_async = pytest.mark.only_for(lambda target: is_async(target))
for_sync = pytest.mark.only_for(lambda target: not is_async(target))
with_server = pytest.mark.only_for(lambda target: target.database != "sqlite")
# Under ASGI, Django listens for disconnects since 5.0.
hears_of_leaving = pytest.mark.only_for(lambda target: target.app != "django-asgi" or version("django") >= "5")
with_sqlite = pytest.mark.only_for(lambda target: target.database == "sqlite")


def at_once(site: Site) -> int:
    """As many requests at once as may be: an event loop never waits for a connection, threads do."""
    return MAX_CONNECTIONS if is_async(site.target) else 2 * MAX_CONNECTIONS


def saved(site: Site, token: str) -> int:
    return int(site.get("saved", token=token).text)


# Plain requests.


def test_a_request_without_a_query_takes_no_connection(site: Site) -> None:
    site.get("close-idle")
    before = site.stats()

    assert site.get("ping", token="x").text == "pong x"
    assert site.get("no-such-case").status_code == 404

    assert site.stats() == before == {"in_use": 0, "idle": 0, "waiting": 0}


def test_a_request_with_a_query_gives_its_connection_back(site: Site) -> None:
    for token in new_tokens(3 * MAX_CONNECTIONS):
        assert site.get("one", token=token).text == token
    assert site.stats() == {"in_use": 0, "idle": 1, "waiting": 0}


def test_a_request_keeps_to_one_session(site: Site) -> None:
    tokens = new_tokens(30)
    answers = site.get_many("same-session", tokens, at_once(site))
    assert [answer.text for answer in answers] == [f"{token} True {token}" for token in tokens]


def test_no_request_gets_the_data_of_another(site: Site) -> None:
    tokens = new_tokens(100)
    for case in ("one", "write"):
        assert [answer.text for answer in site.get_many(case, tokens, at_once(site))] == tokens


# B: bodies.


@pytest.mark.parametrize("case", ["stream", "async-stream"])
def test_a_streamed_body_queries_on_the_connection_of_its_request(site: Site, case: str) -> None:
    for token in new_tokens(2 * MAX_CONNECTIONS):
        assert site.get(case, token=token, n=7).text == f"{token}\n" * 7


def test_streams_side_by_side_do_not_mix(site: Site) -> None:
    tokens = new_tokens(30)
    answers = site.get_many("stream", tokens, at_once(site), n=10)
    assert [answer.text for answer in answers] == [f"{token}\n" * 10 for token in tokens]


def test_a_body_may_read_rows_while_it_is_sent(site: Site) -> None:
    token = new_token()
    for _ in range(5):
        site.get("write", token=token)
    assert site.get("iterate", token=token).text == f"{token}\n" * 5


@hears_of_leaving
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
@pytest.mark.parametrize("case", ["endless", "async-endless"])
def test_a_client_that_goes_away_mid_body_gives_the_connection_back(site: Site, case: str, reset: bool) -> None:
    for token in new_tokens(3):
        assert token.encode() in site.abort(f"/case/{case}?token={token}", after=5000, reset=reset)
        site.assert_settled()


def test_a_client_that_goes_away_before_the_answer_gives_the_connection_back(site: Site) -> None:
    for token in new_tokens(3):
        site.abort(f"/case/hold?token={token}&seconds=0.1", after=0)


@pytest.mark.parametrize("case", ["stream-unread", "stream", "one"])
def test_head_gives_the_connection_back(site: Site, case: str) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        answer = site.get(case, "HEAD", token=token)
        assert answer.status_code == 200
        assert answer.content == b""


@pytest.mark.parametrize("case", ["stream-fails", "async-stream-fails"])
def test_a_body_that_fails_half_way_is_rolled_back(site: Site, case: str) -> None:
    for token in new_tokens(3):
        site.abort(f"/case/{case}?token={token}", after=10_000)
        site.assert_settled()
        assert saved(site, token) == 0


# T: transactions.


@pytest.mark.parametrize("case", LEFT_OPEN)
def test_a_transaction_left_open_is_rolled_back_and_the_next_request_is_clean(site: Site, case: str) -> None:
    for token in new_tokens(3):
        assert site.get(case, token=token).text == token
        site.assert_settled()
        assert saved(site, token) == 0
        assert site.get("commit", token=token).text == token
        assert saved(site, token) == 1


def test_a_transaction_left_open_is_warned_about_with_its_place(site: Site) -> None:
    site.get("session-start", token=new_token())
    wait_for(lambda: "was left open" in site.tail(), 5, site.tail)
    assert "cases.py:" in site.tail()


@pytest.mark.parametrize("case", ["raise-in-atomic", "raise-with-open-transaction", "async-raise"])
def test_an_exception_in_a_transaction_rolls_it_back(site: Site, case: str) -> None:
    for token in new_tokens(3):
        assert site.get(case, token=token).status_code == 500
        site.assert_settled()
        assert saved(site, token) == 0


# A: the app's own calls.


def test_a_handler_may_close_and_query_again(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("close-then-query", token=token).text == f"{token} {token}"


def test_a_handler_may_connect_by_itself(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("connect-then-query", token=token).text == token


def test_a_handler_may_use_the_database_as_a_context_manager(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("with-database", token=token).text == f"{token} {token} True"


def test_a_connection_context_leaves_the_connection_of_the_request_in_place(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("connection-context", token=token).text == f"{token} True"
        assert saved(site, token) == 1


def test_a_request_inside_a_request_leaves_the_outer_one_alone(site: Site) -> None:
    case = "async-nested-in-atomic" if is_async(site.target) else "nested-in-atomic"
    for token in new_tokens(3):
        assert site.get(case, token=token).text == f"{token} True True"
        if not is_async(site.target):
            assert saved(site, token) == 1
            assert saved(site, f"lost-{token}") == 0


# C: coroutines and threads.


@for_async
def test_interleaved_coroutines_have_their_own_connections(site: Site) -> None:
    tokens = new_tokens(40)
    answers = site.get_many("async-interleave", tokens, MAX_CONNECTIONS)
    assert [answer.text for answer in answers] == [f"{token} True {token}" for token in tokens]


@for_async
@with_server  # SQLite has one writer: a transaction held across an await makes its whole event loop wait
def test_the_rollback_of_one_coroutine_does_not_touch_the_rows_of_another(site: Site) -> None:
    good, bad = new_tokens(20), new_tokens(20)

    def run(pair: tuple[str, str]) -> None:
        assert site.get("async-transaction", token=pair[0]).status_code == 200
        assert site.get("async-transaction", token=pair[1], fail="1").status_code == 200

    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        list(threads.map(run, zip(good, bad, strict=True)))

    assert [saved(site, token) for token in good] == [1] * 20
    assert [saved(site, token) for token in bad] == [0] * 20


@pytest.mark.parametrize("case", ["worker-thread", "async-to-thread", "async-gather"])
def test_work_in_a_thread_of_the_request_uses_its_connection(site: Site, case: str) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get(case, token=token).text == f"{token} True"


def test_two_threads_of_a_request_take_turns_on_its_connection(site: Site) -> None:
    for token in new_tokens(3):
        assert site.get("two-threads", token=token).text == f"{token} []"


def test_a_scope_inside_a_request_has_a_connection_of_its_own(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("own-scope", token=token).text == f"{token} True True"


@pytest.mark.parametrize("case", ["outlive-thread", "async-outlive"])
def test_code_that_outlives_its_request_is_told_so(site: Site, case: str) -> None:
    token = new_token()
    assert site.get(case, token=token).text == token
    wait_for(lambda: site.get("aftermath", token=token).text != "", 5)
    assert site.get("aftermath", token=token).text == "ScopeClosed"


def test_a_thread_that_dies_with_a_connection_gives_it_back(site: Site) -> None:
    for token in new_tokens(2 * MAX_CONNECTIONS):
        assert site.get("thread-dies", token=token).text == token
    site.get("one", token="x")  # the connection of the last one is taken back by the next checkout


# D: the database.


@with_server
def test_an_unreachable_server_is_503_only_where_a_query_was_needed(site: Site) -> None:
    assert site.proxy is not None
    site.get("close-idle")
    site.proxy.refuse()
    try:
        for _ in range(2):
            answer = site.get("one", token="x")
            assert answer.status_code == 503
            assert int(answer.headers["Retry-After"]) >= 1
            assert str(site.proxy.port) not in answer.text  # a framework's own page may tell the app's address
            assert site.get("ping", token="x").status_code == 200
            assert site.get("no-such-case").status_code == 404
    finally:
        site.proxy.forward()
    wait_for(lambda: site.get("one", token="back").text == "back", 1)


@with_server
def test_a_connection_that_dies_between_two_statements_fails_no_request(site: Site) -> None:
    for token in new_tokens(3):
        assert site.get("killed-between-statements", token=token).text == token
        assert saved(site, token) == 1


@with_server
def test_a_connection_that_dies_in_a_transaction_is_one_503(site: Site) -> None:
    for token in new_tokens(3):
        answer = site.get("killed-in-atomic", token=token)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert saved(site, token) == 0
        assert site.get("one", token=token).text == token


@with_server
def test_a_request_that_has_lost_a_transaction_goes_on_with_another_connection(site: Site) -> None:
    token = new_token()
    answer = site.get("killed-in-atomic-then-on", token=token).text
    assert answer.endswith(f"; then {token}")
    assert "Error" in answer or "AdminShutdown" in answer
    assert saved(site, token) == 0


@with_server
def test_requests_wait_for_a_server_that_is_away_for_a_moment(site: Site) -> None:
    """And an outage that began with a dead connection costs no request either."""
    assert site.proxy is not None
    proxy = site.proxy
    assert site.get("one", token="before").text == "before"
    proxy.refuse()
    proxy.cut()
    if is_async(site.target):  # its statements are on the event loop, which must not stand still
        assert site.get("one", token="meanwhile").status_code == 503
        proxy.forward()
    else:
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(site.get, "one", token="after")
            wait_for(lambda: site.stats()["waiting"] == 1, 0.5 * TIMEOUT)
            proxy.forward()
            assert waiting.result().text == "after"
    wait_for(lambda: site.get("one", token="back").text == "back", 1)


@for_sync
@with_sqlite  # the same under every database, and it takes as long as the pool's timeout
def test_an_exhausted_pool_is_503_for_the_one_too_many_and_no_other(site: Site) -> None:
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        holders = [threads.submit(site.get, "hold", token=token, seconds=3) for token in new_tokens(MAX_CONNECTIONS)]
        wait_for(lambda: site.stats()["in_use"] == MAX_CONNECTIONS, 2)
        refused = site.get("one", token="x")
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert site.get("ping", token="x").status_code == 200
        assert [holder.result().status_code for holder in holders] == [200] * MAX_CONNECTIONS
    assert site.get("one", token="free").text == "free"


def test_a_first_use_that_fails_leaks_nothing(site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert site.get("first-use-fails", token=token).text == f"first use; then {token}"


# Whatever came before.


def test_no_scope_was_left_to_the_garbage_collector(site: Site) -> None:
    assert "never ended" not in site.tail(1_000_000)
    assert "ResourceWarning" not in site.tail(1_000_000)
