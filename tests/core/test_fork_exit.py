"""A child that comes to the interpreter's end, with all its finalizers, says nothing in its parent's name."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from tests.core.raw import module_of

SCRIPT = """
    import gc, os, sys
    from importlib import import_module
    import peewee, peewee_web

    url, driver = sys.argv[1:]
    postgres = driver.startswith("psycopg")
    if not postgres:
        peewee.mysql = import_module(driver)
    options = {"prefer_psycopg3": True} if driver == "psycopg" else {}
    database = peewee_web.connect(url, max_connections=4, **options)

    def session():
        return database.execute_sql("SELECT " + ("pg_backend_pid()" if postgres else "connection_id()")).fetchone()[0]

    def held():
        with peewee_web.scope():
            first = session()
            with peewee_web.scope():
                return {first, session()}

    def child():
        if end == "queries":
            with peewee_web.scope():
                session()
            database.close_idle()
        elif end == "exits":
            sys.exit(0)
        elif end == "raises":
            sys.excepthook = lambda *error: None
            raise ZeroDivisionError
        elif end == "collects":
            database.pool.ledger = None
            gc.collect()

    before = held()
    database.connect()
    before.add(session())
    kept = database.connection()
    for end in "falls off", "queries", "exits", "raises", "collects":
        with peewee_web.scope(), database.atomic():
            inside = session()
            pid = os.fork()
            if not pid:
                child()
                break
            os.waitpid(pid, 0)
            assert session() == inside, end
    if pid:
        assert session() in before
        database.close()
        assert held() == before
        database.close_all()
        print("the parent's are as before")
"""


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pymysql", "MySQLdb"])
def test_a_child_that_ends_by_itself_ends_no_session_of_its_parent(request: pytest.FixtureRequest, driver: str) -> None:
    module_of(driver)
    server = request.getfixturevalue("postgres" if driver.startswith("psycopg") else "mariadb")
    quiet = ["-X", "dev", "-W", "ignore:.*multi-threaded.*:DeprecationWarning"]  # Python 3.12+
    done = subprocess.run(
        [sys.executable, *quiet, "-c", textwrap.dedent(SCRIPT), server.url(), driver],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("the parent's are as before\n", "")
