"""``choose=`` under every adapter: which database a request has is found out from the framework's own request."""

from __future__ import annotations

import html
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from tests.contract.cases import MAX_CONNECTIONS
from tests.contract.site import Site, new_token, new_tokens, wait_for
from tests.contract.test_contract import for_sync, is_async

TENANTS = ("default", "a", "b")  # "b" is chosen as an object, the others by name

# The generic middlewares have no errors of a framework's to raise, and no hooks beside the app.
of_a_framework = pytest.mark.only_for(lambda target: target.app not in ("wsgi", "asgi"))
# Where the framework, not the app's own variable, hands the default database to a view.
hands_it_over = pytest.mark.only_for(lambda target: target.app in ("flask", "bottle", "django", "django-asgi"))
with_sockets = pytest.mark.only_for(lambda target: target.app in ("asgi", "falcon-asgi", "tornado"))


@pytest.fixture(autouse=True)
def nothing_is_left_over(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    used = next(name for name in ("tenant_site", "strict_tenant_site") if name in request.fixturenames)
    assert_nothing_is_left_over(request.getfixturevalue(used))


def assert_nothing_is_left_over(site: Site) -> None:
    wait_for(lambda: site.get("left-over", database="default").text == "", 5, lambda: site.get("held").text)


def ask(site: Site, case: str, tenant: str, method: str = "GET", /, **query: object) -> httpx.Response:
    """Have *case* ask the default database of *tenant*'s request."""
    return site.get(case, method, headers={"Host": f"{tenant}.example"}, **{"database": "default", **query})


def found_in(site: Site, token: str) -> str:
    return ask(site, "found-in", "default", token=token).text


def says_that_it_lacks(answer: httpx.Response, name: str) -> bool:
    """In plain text, JSON, or HTML, which has several ways to write a quotation mark."""
    return f"The database '{name}' is not available" in html.unescape(answer.text)


def choices(site: Site) -> int:
    return int(ask(site, "choices", "default").text)


# Whose data a request sees.


@pytest.mark.parametrize("case", ["tenants-met", "async-tenants-met"])
def test_requests_at_the_same_time_never_meet_each_others_rows(tenant_site: Site, case: str) -> None:
    tenants = TENANTS * 20
    with ThreadPoolExecutor(MAX_CONNECTIONS) as threads:
        answers = threads.map(lambda tenant: ask(tenant_site, case, tenant, tenant=tenant, token=new_token()), tenants)
        assert tuple(answer.text for answer in answers) == tenants


@pytest.mark.parametrize("tenant", TENANTS)
def test_the_rows_of_a_request_are_in_the_chosen_database(tenant_site: Site, tenant: str) -> None:
    token = new_token()
    assert ask(tenant_site, "write", tenant, token=token).text == token
    assert found_in(tenant_site, token) == tenant


@hands_it_over
def test_the_default_database_that_a_view_is_given_is_the_chosen_one(tenant_site: Site) -> None:
    token = new_token()
    tenant_site.get("write", headers={"Host": "a.example"}, token=token)
    assert found_in(tenant_site, token) == "a"


@pytest.mark.parametrize("case", ["stream-atomic", "async-stream-writes"])
def test_a_streamed_body_keeps_the_choice(tenant_site: Site, case: str) -> None:
    token = new_token()
    assert token in ask(tenant_site, case, "a", token=token).text
    assert found_in(tenant_site, token) == "a"


@for_sync
def test_a_body_that_is_the_first_to_query_chooses(tenant_site: Site) -> None:
    token = new_token()
    assert ask(tenant_site, "stream-writes", "a", token=token, n=3, plain=1).text == f"{token}\n" * 3
    assert found_in(tenant_site, token) == "a"


def test_a_thread_that_is_the_first_to_query_chooses(tenant_site: Site) -> None:
    token = new_token()
    assert ask(tenant_site, "write-from-thread", "a", token=token).text == token
    assert found_in(tenant_site, token) == "a"


@pytest.mark.parametrize(("inner", "outer"), [("inner-", ""), ("", "inner-")], ids=["inner", "outer"])
def test_a_request_inside_a_request_and_that_one_choose_for_themselves(
    tenant_site: Site, inner: str, outer: str
) -> None:
    token = new_token()
    case = "write-after-nested" if not is_async(tenant_site.target) else "async-write-after-nested"
    assert ask(tenant_site, case, "a", token=token, host="b.example").text == token
    assert found_in(tenant_site, f"{inner}{token}") == ("b" if inner else "a")


# How often it is chosen.


def test_the_choice_is_made_once_for_all_queries_of_a_request(tenant_site: Site) -> None:
    before = choices(tenant_site)
    for token in new_tokens(3):
        ask(tenant_site, "commit", "a", token=token)
    assert choices(tenant_site) - before == 3


def test_no_choice_is_made_for_a_request_without_a_query(tenant_site: Site) -> None:
    before = choices(tenant_site)
    assert ask(tenant_site, "ping", "fails", token="x").text == "pong x"
    assert ask(tenant_site, "no-such-case", "fails").status_code == 404
    assert choices(tenant_site) == before


def test_a_choice_that_a_hook_has_caused_holds_for_the_view(tenant_site: Site) -> None:
    before, token = choices(tenant_site), new_token()
    ask(tenant_site, "write", "a", token=token, early=1)
    assert (choices(tenant_site) - before, found_in(tenant_site, token)) == (1, "a")


# Where there is nothing to choose.


@pytest.mark.parametrize(("tenant", "what"), [("none", "None"), ("unknown", "a name that is not known")])
def test_what_is_no_database_is_a_500_whose_log_line_says_what_to_do(tenant_site: Site, tenant: str, what: str) -> None:
    assert ask(tenant_site, "write", tenant, token="x").status_code == 500
    assert f"choose= gave {what}: give one of 'default', 'a', or a Peewee database" in tenant_site.tail()


def test_an_exception_of_the_choice_is_a_500(tenant_site: Site) -> None:
    assert ask(tenant_site, "write", "fails", token="x").status_code == 500
    assert "no tenant" in tenant_site.tail()


def test_a_choice_that_fails_is_not_made_again_for_the_answer(tenant_site: Site) -> None:
    before = choices(tenant_site)
    ask(tenant_site, "write", "fails", token="x")
    assert choices(tenant_site) - before == 1


@of_a_framework
def test_the_frameworks_own_not_found_is_a_404(tenant_site: Site) -> None:
    assert ask(tenant_site, "write", "refused", token="x").status_code == 404


def test_a_choice_that_failed_does_no_harm_to_the_next_request(tenant_site: Site) -> None:
    for tenant in ("none", "unknown", "fails", "refused") * 3:
        ask(tenant_site, "write", tenant, token="x")
    token = new_token()
    ask(tenant_site, "write", "a", token=token)
    assert found_in(tenant_site, token) == "a"


# With lazy=False and atomic=True.


@pytest.mark.parametrize(("tenant", "taken"), [("default", "default=1 a=1 b=0"), ("a", "default=0 a=1 b=0")])
def test_an_eager_request_has_a_connection_of_the_chosen_database_before_its_view(
    strict_tenant_site: Site, tenant: str, taken: str
) -> None:
    assert ask(strict_tenant_site, "held", tenant).text == taken


def test_an_eager_choice_is_made_once(strict_tenant_site: Site) -> None:
    before = choices(strict_tenant_site)
    ask(strict_tenant_site, "commit", "a", token=new_token(), early=1)
    assert choices(strict_tenant_site) - before == 2  # with that of the request which tells


@pytest.mark.parametrize("tenant", ["none", "unknown", "fails"])
def test_an_eager_choice_that_fails_is_a_500_before_the_view(strict_tenant_site: Site, tenant: str) -> None:
    assert ask(strict_tenant_site, "ping", tenant, token="x").status_code == 500


@of_a_framework
def test_the_frameworks_own_not_found_before_the_view_is_a_404(strict_tenant_site: Site) -> None:
    assert ask(strict_tenant_site, "ping", "refused", token="x").status_code == 404


@pytest.mark.parametrize("tenant", TENANTS)
def test_an_atomic_request_commits_in_the_chosen_database(strict_tenant_site: Site, tenant: str) -> None:
    token = new_token()
    assert ask(strict_tenant_site, "write", tenant, token=token).text == token
    assert found_in(strict_tenant_site, token) == tenant


@pytest.mark.parametrize("tenant", TENANTS)
def test_an_atomic_request_is_rolled_back_in_the_chosen_database(strict_tenant_site: Site, tenant: str) -> None:
    token = new_token()
    assert ask(strict_tenant_site, "bad-request", tenant, token=token).status_code == 400
    assert found_in(strict_tenant_site, token) == ""


@for_sync
def test_an_eager_body_keeps_the_choice_after_the_commit(strict_tenant_site: Site) -> None:
    token = new_token()
    assert ask(strict_tenant_site, "stream-atomic", "b", token=token).text == token
    assert ask(strict_tenant_site, "saved", "b", token=token).text == "2"


def test_an_exhausted_tenant_is_a_503_and_the_others_are_served(tenant_site: Site) -> None:
    tenant_site.get("exhaust", name="b")
    try:
        assert ask(tenant_site, "one", "b", token="x").status_code == 503
        assert ask(tenant_site, "one", "a", token="x").text == "x"
    finally:
        tenant_site.get("give-back")
    assert ask(tenant_site, "one", "b", token="x").text == "x"


def test_an_eager_503_says_which_database_is_exhausted(strict_tenant_site: Site) -> None:
    strict_tenant_site.get("exhaust", name="a")
    try:
        answer = ask(strict_tenant_site, "ping", "default", token="x")
        assert answer.status_code == 503
        assert says_that_it_lacks(answer, "a")
    finally:
        strict_tenant_site.get("give-back")


# Websockets.


@with_sockets
def test_sockets_at_the_same_time_have_each_their_own_database(tenant_site: Site) -> None:
    tokens = dict(zip(TENANTS, new_tokens(3), strict=True))
    with ExitStack() as stack:
        sockets = {tenant: stack.enter_context(tenant_site.open_socket(f"{tenant}.example")) for tenant in TENANTS}
        for _ in range(2):
            for tenant, socket in sockets.items():
                socket.send(f"write?database=default&token={tokens[tenant]}")
            assert [socket.recv(10) for socket in sockets.values()] == list(tokens.values())
    assert tuple(found_in(tenant_site, token) for token in tokens.values()) == TENANTS


@with_sockets
def test_no_choice_is_made_for_a_socket_that_does_not_query(tenant_site: Site) -> None:
    before = choices(tenant_site)
    with tenant_site.open_socket("fails.example") as socket:
        socket.send("ping?token=x")
        assert socket.recv(10) == "pong x"
    assert choices(tenant_site) == before


@with_sockets
def test_a_socket_whose_choice_fails_is_closed(tenant_site: Site) -> None:
    with tenant_site.open_socket("none.example") as socket:
        socket.send("write?database=default&token=x")
        with pytest.raises(ConnectionClosed):
            socket.recv(10)
    assert "choose= gave None" in tenant_site.tail()


@with_sockets
def test_an_eager_socket_has_the_chosen_database(strict_tenant_site: Site) -> None:
    token = new_token()
    with strict_tenant_site.open_socket("a.example") as socket:
        socket.send(f"write?database=default&token={token}")
        assert socket.recv(10) == token
    assert found_in(strict_tenant_site, token) == "a"


# Whatever came before.


def test_no_scope_was_left_to_the_garbage_collector(tenant_site: Site) -> None:
    assert "never ended" not in tenant_site.tail(1_000_000)
