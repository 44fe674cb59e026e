"""Named databases, requests that only read, and replicas whose clients see their own writes, under every adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from tests.contract.site import Site, new_token
from tests.contract.test_tenants import assert_nothing_is_left_over, found_in, says_that_it_lacks, with_sockets

COOKIE, HEADER = "peewee_position_shop", "Peewee-Position-log"
# One whose requests are atomic and whose clients have a cookie, and one of neither.
REPLICATED = pytest.mark.parametrize("name", ["shop", "log"])
# The generic middlewares leave it to the server to answer what the app raises.
answers_failures = pytest.mark.only_for(lambda target: target.app not in ("wsgi", "asgi"))

GARBAGE = (b"x", b"", b".", b"99999999999999.0", b"1.0/0", b"%d", b"\xff\xfe", b"=;=", b'"0.', b"0" * 5000)


@pytest.fixture(autouse=True)
def nothing_is_left_over(several_site: Site) -> Iterator[None]:
    yield
    assert_nothing_is_left_over(several_site)


# Named databases.


def test_an_atomic_name_is_rolled_back_and_another_is_not(several_site: Site) -> None:
    token = new_token()
    assert several_site.get("write-two", "POST", token=token).status_code == 400
    assert found_in(several_site, token) == "reports"


@pytest.fixture
def exhausted_site(several_site: Site) -> Iterator[Site]:
    """In which nobody gets a connection of "reports"."""
    several_site.get("exhaust", name="reports")
    yield several_site
    several_site.get("give-back")


def test_the_503_of_an_exhausted_database_says_which_and_when_to_try_again(exhausted_site: Site) -> None:
    answer = exhausted_site.get("one", database="reports", token="x")
    assert answer.status_code == 503
    assert int(answer.headers["Retry-After"]) >= 1
    assert says_that_it_lacks(answer, "reports")


def test_the_others_are_served_while_one_is_exhausted(exhausted_site: Site) -> None:
    assert exhausted_site.get("one", database="default", token="x").text == "x"


def test_an_exhausted_database_is_served_again_when_a_connection_is_free(exhausted_site: Site) -> None:
    exhausted_site.get("give-back")
    assert exhausted_site.get("one", database="reports", token="x").text == "x"


# Requests that only read.


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("name", ["default", "reports", "shop"])
def test_a_write_in_a_safe_method_is_a_500_and_nothing_is_written(several_site: Site, method: str, name: str) -> None:
    token = new_token()
    assert several_site.get("write", method, database=name, token=token).status_code == 500
    assert found_in(several_site, token) == ""


def test_a_post_after_a_refused_get_writes(several_site: Site) -> None:
    token = new_token()
    several_site.get("write", database="reports", token=token)
    assert several_site.get("write", "POST", database="reports", token=token).text == token
    assert found_in(several_site, token) == "reports"


def test_a_get_may_read(several_site: Site) -> None:
    assert several_site.get("saved", database="default", token="nobody").text == "0"


def test_the_body_of_a_get_can_not_write_either(several_site: Site) -> None:
    token = new_token()
    with suppress(httpx.RemoteProtocolError):  # it ends where it fails
        several_site.get("stream-writes", database="reports", token=token)
    assert found_in(several_site, token) == ""


@with_sockets
def test_a_socket_may_write_although_it_began_with_a_get(several_site: Site) -> None:
    token = new_token()
    with several_site.open_socket("x") as socket:
        socket.send(f"write?database=reports&token={token}")
        assert socket.recv(10) == token
    assert found_in(several_site, token) == "reports"


# Replicas.


def positions(answer: httpx.Response) -> list[str]:
    """What the client is told to bring along, of either kind."""
    cookies = answer.headers.get_list("Set-Cookie")
    told = [cookie for cookie in cookies if cookie.startswith("peewee_position")]
    return [*told, *(value for name, value in answer.headers.multi_items() if name == HEADER.lower())]


def brought(name: str, position: str | bytes) -> dict[str, bytes]:
    """The header of a request that brings *position* along for the database called *name*."""
    value = position if isinstance(position, bytes) else position.encode()
    return {"Cookie": COOKIE.encode() + b"=" + value} if name == "shop" else {HEADER: value}


def position_after_write(site: Site, name: str) -> str:
    (told,) = positions(site.get("write", "POST", database=name, token=new_token()))
    return told.partition(";")[0].removeprefix(f"{COOKIE}=")


@pytest.fixture(autouse=True)
def the_client_keeps_no_cookies(several_site: Site) -> Iterator[None]:
    yield
    several_site.client.cookies.clear()


@REPLICATED
def test_the_response_of_a_request_that_wrote_tells_its_position_once(several_site: Site, name: str) -> None:
    assert len(positions(several_site.get("write", "POST", database=name, token=new_token()))) == 1


@REPLICATED
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_response_of_a_request_that_only_read_tells_none(several_site: Site, name: str, method: str) -> None:
    assert positions(several_site.get("read-from", method, database=name)) == []


@REPLICATED
@pytest.mark.parametrize("case", ["bad-request", "opted-out"])
def test_a_write_in_a_request_that_failed_is_told_as_well(several_site: Site, name: str, case: str) -> None:
    answer = several_site.get(case, "POST", database=name, token=new_token())
    assert (answer.status_code, len(positions(answer))) == (400, 1)


@answers_failures
def test_a_write_before_an_exception_is_told_as_well(several_site: Site) -> None:
    answer = several_site.get("write-then-fail", "POST", database="log", token=new_token())
    assert (answer.status_code, len(positions(answer))) == (500, 1)


@REPLICATED
def test_a_streamed_response_tells_what_was_written_before_it(several_site: Site, name: str) -> None:
    token = new_token()
    answer = several_site.get("stream-atomic", "POST", database=name, token=token)
    assert (answer.text, len(positions(answer))) == (token, 1)


def test_the_apps_own_cookie_stays_beside_ours(several_site: Site) -> None:
    answer = several_site.get("write-beside-cookie", "POST", database="shop", token=new_token())
    assert len(positions(answer)) == 1
    assert "mine=1" in [cookie.partition(";")[0] for cookie in answer.headers.get_list("Set-Cookie")]


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites_and_goes_by_itself(several_site: Site) -> None:
    (cookie,) = positions(several_site.get("write", "POST", database="shop", token=new_token()))
    attributes = {attribute.strip().lower() for attribute in cookie.split(";")[1:]}
    assert attributes >= {"httponly", "samesite=lax", "path=/", "max-age=10"}


@REPLICATED
def test_a_client_that_brings_nothing_reads_from_the_replica(several_site: Site, name: str) -> None:
    assert several_site.get("read-from", database=name).text == "replica"


@REPLICATED
def test_a_client_that_brings_its_position_reads_from_the_primary(several_site: Site, name: str) -> None:
    position = position_after_write(several_site, name)
    several_site.client.cookies.clear()
    assert several_site.get("read-from", headers=brought(name, position), database=name).text == "primary"


def test_a_browser_sees_its_own_write_and_another_does_not(several_site: Site) -> None:
    with several_site.another_client() as writer, several_site.another_client() as reader:
        writer.post("/case/write", params={"database": "shop", "token": new_token()})
        seen = [browser.get("/case/read-from?database=shop").text for browser in (writer, reader)]
    assert seen == ["primary", "replica"]


@REPLICATED
def test_the_position_of_another_database_says_nothing_of_this(several_site: Site, name: str) -> None:
    other = "log" if name == "shop" else "shop"
    position = position_after_write(several_site, other)
    several_site.client.cookies.clear()
    assert several_site.get("read-from", headers=brought(other, position), database=name).text == "replica"


@REPLICATED
def test_a_client_that_brings_garbage_is_served_as_if_it_brought_nothing(several_site: Site, name: str) -> None:
    answers = [several_site.get("read-from", headers=brought(name, garbage), database=name) for garbage in GARBAGE]
    assert [answer.text for answer in answers] == ["replica"] * len(GARBAGE)


# Whatever came before.


def test_no_scope_was_left_to_the_garbage_collector(several_site: Site) -> None:
    assert "never ended" not in several_site.tail(1_000_000)
