"""The fault benchmark's own parts: its load, its link, its counter of logins, and the apps that it compares with."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import psycopg
import pymysql
import pytest

from benchmarks.faults_accounts import PAGE, READ, WRITE
from benchmarks.faults_apps import App
from benchmarks.faults_link import LoginCounter, StallingProxy
from benchmarks.faults_load import TITLE, Load, Sender, shots
from benchmarks.faults_run import Settings
from tests.servers.mariadb import MariaDBServer
from tests.servers.postgres import PostgresServer
from tests.servers.waiting import until

# The load.


def test_a_load_is_the_same_each_time_and_has_the_shares_that_were_asked_for() -> None:
    load = Load(port=1, rate=200, writes=0.3, pages=50)
    first, second = (list(itertools.takewhile(lambda shot: shot.after < 20, shots(load))) for _ in range(2))
    assert first == second
    kinds = Counter(shot.kind for shot in first)
    assert (kinds[READ] + kinds[WRITE], kinds[PAGE]) == (4000, 1000)
    assert kinds[WRITE] == pytest.approx(1200, rel=0.1)
    assert [shot.after for shot in first] == sorted(shot.after for shot in first)


def test_each_write_has_an_id_of_its_own_in_its_title() -> None:
    writes = [shot for shot in itertools.islice(shots(Load(port=1)), 2000) if shot.kind == WRITE]
    assert len({shot.key for shot in writes}) == len(writes)
    assert all((TITLE + shot.key).encode() in shot.request for shot in writes)


def test_a_load_goes_on_while_its_server_is_silent_and_waits_count_from_when_a_request_was_due() -> None:
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        sender = stack.enter_context(Sender(Load(silent.getsockname()[1], rate=100, pages=1, patience=0.5)))
        sender.begin()
        for _ in range(10):
            stack.enter_context(silent.accept()[0])
        answers = sender.end()
    assert len(answers) >= 10
    assert all(answer.outcome == "no answer" and 0.4 < answer.waited < 5 for answer in answers)


# The link.


@pytest.fixture
def echo() -> Iterator[int]:
    """The port of a server that sends back what it gets."""

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def accept() -> None:
        for connection in iter(lambda: listener.accept()[0], None):
            if closing.is_set():
                connection.close()
                return
            threads.append(threading.Thread(target=serve, args=(connection,)))
            threads[-1].start()

    closing, threads = threading.Event(), []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield port
        closing.set()
        socket.create_connection(("127.0.0.1", port)).close()
        accepting.join()
        for thread in threads:
            thread.join()


def test_a_stalled_link_holds_what_was_open_and_what_is_opened_and_then_goes_on(echo: int) -> None:
    with StallingProxy("127.0.0.1", echo) as proxy, _dial(proxy.port) as old:
        old.sendall(b"before")
        assert old.recv(10) == b"before"
        proxy.stall()
        with _dial(proxy.port) as new:
            for each in (old, new):
                each.sendall(b"during")
                each.settimeout(0.1)
                with pytest.raises(TimeoutError):
                    each.recv(10)
            proxy.resume()
            for each in (old, new):
                each.settimeout(5)
                assert each.recv(10) == b"during"


def _dial(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_logins_are_counted_until_they_are_finished(postgres: PostgresServer) -> None:
    with LoginCounter(postgres.host, postgres.port, postgres.scheme) as counter:
        url = postgres.url(port=counter.port)
        with psycopg.connect(url), psycopg.connect(url):
            assert counter.most == 1
        with _dial(counter.port), _dial(counter.port):
            until(lambda: counter.logins == 4)
            assert counter.most == 2
            with psycopg.connect(url) as connection:
                assert counter.most == 3
                assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_mysql_login_is_finished_when_the_server_accepts_it(mariadb: MariaDBServer) -> None:
    with LoginCounter(mariadb.host, mariadb.port, mariadb.scheme) as counter:
        for number in range(1, 3):
            with pymysql.connect(
                host="127.0.0.1", port=counter.port, user=mariadb.user, ssl_disabled=True
            ) as connection:
                connection.ping()
                assert (counter.logins, counter.most) == (number, 1)


def test_a_refusing_counter_refuses_counts_anew_and_forwards_again(postgres: PostgresServer) -> None:
    with LoginCounter(postgres.host, postgres.port, postgres.scheme) as counter:
        psycopg.connect(postgres.url(port=counter.port)).close()
        counter.refuse()
        assert (counter.logins, counter.most) == (0, 0)
        with pytest.raises(ConnectionRefusedError):
            _dial(counter.port)
        counter.forward()
        psycopg.connect(postgres.url(port=counter.port)).close()
        assert (counter.logins, counter.most) == (1, 1)


# The apps.


@pytest.mark.parametrize("name", ["flask", "django", "tornado"])
@pytest.mark.parametrize("variant", ["ours", "hooks"])
def test_both_variants_of_an_app_serve_what_the_load_asks_for(
    name: str, variant: str, postgres: PostgresServer, tmp_path: Path
) -> None:
    database = "faults_apps"
    postgres.drop_database(database)
    postgres.create_database(database)
    url = postgres.url(database, **Settings().query(variant, postgres.scheme))
    with App(name, variant, url, 4, tmp_path / "log") as app:
        body = json.dumps({"title": "one", "body": "two"}).encode()
        site = f"http://127.0.0.1:{app.port}"
        with urlopen(Request(f"{site}/api/notes", body, {"Content-Type": "application/json"})) as answer:
            assert answer.status == 201
            number = json.load(answer)["id"]
        with urlopen(f"{site}/api/notes/{number}") as answer:
            assert json.load(answer)["title"] == "one"
        with urlopen(f"{site}/api/notes?page=2") as answer:
            assert json.load(answer)["page"] == 2
        with urlopen(f"{site}/health") as answer:
            assert json.load(answer) == {"status": "ok"}
        app.kill_worker()
        app.wait_until_it_answers()
    postgres.drop_database(database)
