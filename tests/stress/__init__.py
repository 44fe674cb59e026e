"""A pool under many threads and coroutines, on a real server to which everything happens: `python -m tests.stress`.

`workload.py` and `coroutines.py` use the database as apps do, good and bad ones; `chaos.py` breaks the server and the
way to it; `lending.py` watches the pool, `census.py` counts connections, `books.py` keeps what was promised, and
`run.py` compares.
"""
