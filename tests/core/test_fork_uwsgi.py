"""The app of the gunicorn tests under uWSGI, which loads it, forks, and by default does not tell Python."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.core.test_fork_gunicorn import Preforked, assert_apart, preforked

__all__ = ["preforked"]

FORK_HOOKS = "--py-call-uwsgi-fork-hooks"


def _program() -> list[str]:
    """The command of a uWSGI for this Python; [] where there is none."""
    found = shutil.which("uwsgi", path=str(Path(sys.executable).parent)) or shutil.which("uwsgi")
    if found is None:
        return []
    version = f"{sys.version_info.major}.{sys.version_info.minor}."
    for plugin in ([], ["--plugin", "python3"]):  # built in by pip, a plugin on Debian
        command = [found, *plugin]
        said = subprocess.run([*command, "--python-version"], capture_output=True, text=True, check=False).stdout
        if said.startswith(version):
            return command
    return []


UWSGI = _program()
pytestmark = pytest.mark.skipif(not UWSGI, reason="no uWSGI for this Python: pip install uwsgi (needs a C compiler)")


def uwsgi(*options: str) -> Callable[[int], list[str]]:
    def command(port: int) -> list[str]:
        return [
            *(*UWSGI, "--module=tests.fork.app:app", f"--http-socket=127.0.0.1:{port}", "--master", "--processes=3"),
            *(f"--home={sys.prefix}", "--die-on-term", "--need-app", "--disable-logging", "--max-requests=50"),
            *("--worker-reload-mercy=5", *options),
        ]

    return command


@pytest.mark.parametrize(
    "options",
    [(), (FORK_HOOKS,), ("--threads=4",)],
    ids=lambda options: " ".join(options) or "plain",
)
def test_workers_are_apart_from_their_master(preforked: Callable[..., Preforked], options: tuple[str, ...]) -> None:
    assert_apart(preforked(uwsgi(*options), "psycopg"), requests=200)


@pytest.mark.soak
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pymysql", "MySQLdb"])
@pytest.mark.parametrize(
    "options",
    [(), (FORK_HOOKS,), ("--enable-threads",), ("--threads=4",), ("--threads=4", FORK_HOOKS)],
    ids=lambda options: " ".join(options) or "plain",
)
def test_workers_on_any_driver_are_apart_from_their_master(
    preforked: Callable[..., Preforked], options: tuple[str, ...], driver: str
) -> None:
    assert_apart(preforked(uwsgi(*options), driver), requests=1200)
