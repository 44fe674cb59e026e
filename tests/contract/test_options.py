"""``atomic=True`` and ``lazy=False`` under every adapter, and the per-view choice of a transaction."""

from __future__ import annotations

from tests.contract.cases import MAX_CONNECTIONS
from tests.contract.site import Site, new_token, new_tokens
from tests.contract.test_contract import at_once, for_async, saved

# Atomic.


def test_an_atomic_request_commits_what_it_answers_with_success(atomic_site: Site) -> None:
    token = new_token()
    assert atomic_site.get("write", token=token).text == token
    assert saved(atomic_site, token) == 1
    atomic_site.assert_settled()


def test_an_atomic_request_rolls_back_what_it_answers_with_an_error(atomic_site: Site) -> None:
    token = new_token()
    assert atomic_site.get("bad-request", token=token).status_code == 400
    assert saved(atomic_site, token) == 0
    atomic_site.assert_settled()


def test_an_atomic_request_that_raises_is_rolled_back(atomic_site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert atomic_site.get("raise-in-atomic", token=token).status_code == 500
        assert saved(atomic_site, token) == 0
    atomic_site.assert_settled()


def test_blocks_inside_an_atomic_request_are_savepoints(atomic_site: Site) -> None:
    token = new_token()
    assert atomic_site.get("commit", token=token).text == token
    assert saved(atomic_site, token) == 1


def test_a_failed_commit_is_a_failed_response(atomic_site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert atomic_site.get("failed-commit", token=token).status_code == 500
        assert saved(atomic_site, token) == 0
    atomic_site.assert_settled()


def test_a_streamed_body_goes_on_after_the_commit(atomic_site: Site) -> None:
    token = new_token()
    assert atomic_site.get("stream-atomic", token=token).text == token
    assert saved(atomic_site, token) == 2
    atomic_site.assert_settled()


def test_a_transaction_left_open_inside_an_atomic_request_fails_it(atomic_site: Site) -> None:
    for token in new_tokens(MAX_CONNECTIONS + 2):
        assert atomic_site.get("session-start", token=token).status_code == 500
        assert saved(atomic_site, token) == 0
    atomic_site.assert_settled()


def test_an_atomic_request_without_a_query_takes_no_connection(atomic_site: Site) -> None:
    atomic_site.get("opted-out", token="x")
    atomic_site.get("close-idle")
    assert atomic_site.get("ping", token="x").text == "pong x"
    assert atomic_site.stats() == {"in_use": 0, "idle": 0, "waiting": 0}


def test_a_view_may_opt_out_of_the_transaction(atomic_site: Site) -> None:
    token = new_token()
    assert atomic_site.get("opted-out", token=token).status_code == 400
    assert saved(atomic_site, token) == 1
    atomic_site.assert_settled()


def test_a_view_may_opt_in_to_a_transaction(eager_site: Site) -> None:
    token = new_token()
    assert eager_site.get("opted-in", token=token).status_code == 400
    assert saved(eager_site, token) == 0
    assert eager_site.get("bad-request", token=token).status_code == 400
    assert saved(eager_site, token) == 1
    eager_site.assert_settled()


# Eager.


def test_an_eager_request_takes_its_connection_before_the_handler(eager_site: Site) -> None:
    assert eager_site.get("in-use").text == "1"
    eager_site.assert_settled()


def test_a_lazy_request_does_not(atomic_site: Site) -> None:
    assert atomic_site.get("in-use").text == "0"


def test_an_eager_request_to_an_unreachable_server_is_503_before_the_handler(eager_site: Site) -> None:
    assert eager_site.proxy is not None
    eager_site.get("close-idle")
    eager_site.proxy.refuse()
    try:
        eager_site.proxy.cut()
        answer = eager_site.get("ping", token="x")
        assert answer.status_code == 503
        assert int(answer.headers["Retry-After"]) >= 1
    finally:
        eager_site.proxy.forward()
    assert eager_site.get("ping", token="x").text == "pong x"


@for_async
def test_eager_coroutines_wait_for_a_connection_without_blocking_their_loop(eager_site: Site) -> None:
    tokens = new_tokens(5 * MAX_CONNECTIONS)
    answers = eager_site.get_many("async-interleave", tokens, 3 * MAX_CONNECTIONS)
    assert [answer.text for answer in answers] == [f"{token} True {token}" for token in tokens]
    eager_site.assert_settled()


def test_eager_streams_side_by_side_do_not_mix(eager_site: Site) -> None:
    tokens = new_tokens(30)
    answers = eager_site.get_many("stream", tokens, at_once(eager_site), n=10)
    assert [answer.text for answer in answers] == [f"{token}\n" * 10 for token in tokens]
    eager_site.assert_settled()
