"""Django's test runner, for projects whose Peewee databases are those of Django's ``DATABASES``."""

from __future__ import annotations

from typing import Any

from django.test.runner import DiscoverRunner

from .databases import databases


class PeeweeTestRunner(DiscoverRunner):
    """``TEST_RUNNER = "peewee_web.django.test.PeeweeTestRunner"``.

    PostgreSQL drops no database that somebody is connected to; so the pool lets go of the test databases first.
    """

    def teardown_databases(self, old_config: Any, **kwargs: Any) -> None:
        databases.close()
        super().teardown_databases(old_config, **kwargs)
