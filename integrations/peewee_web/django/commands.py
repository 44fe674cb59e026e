"""A base class for management commands that query."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from ..core.scope import current_scope
from .databases import databases


class PeeweeCommand(BaseCommand):
    """``class Command(PeeweeCommand)``: runs in a scope, so its connection is given back however it ends.

    Called by ``call_command`` inside a scope (a request, another command, a test) it takes part in that one. From the
    command line it closes the pool's connections at the end, as Django does with its own.
    """

    def run_from_argv(self, argv: list[str]) -> None:
        try:
            super().run_from_argv(argv)
        finally:
            databases.close()

    def execute(self, *args: Any, **options: Any) -> Any:
        scope = current_scope()
        if scope is not None and not scope.ended:
            return super().execute(*args, **options)
        with databases.scope(lazy=True, atomic=False):
            return super().execute(*args, **options)
