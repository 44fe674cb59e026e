"""The scope of a request whose framework calls hooks beside its code, not around it, and may leave out the last one.

Falcon calls no hook any more when a ``BaseException`` (gevent.Timeout, SystemExit, CancelledError) leaves a responder,
or when an error handler fails, were it by ``raise error``. What shows then: the request object goes, if nothing keeps
it; the call of the app is over when the next one begins on its thread; and the task of an ASGI request ends.
"""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..core.registry import Databases
from ..core.scope import Activation, Scope, current_scope

_ATTRIBUTE = "peewee_web_held"


class RequestScope(Scope):
    """A scope that is current from `enter` to `leave`, or until the request object is gone."""

    def __init__(self, databases: Databases, **options: Any) -> None:
        super().__init__(databases, **options)
        self._entered: Activation | None = None
        self._dropped = False
        self._call: tuple[int, int] | None = None
        self._end_with: tuple[asyncio.Task[Any], Callable[[Any], object]] | None = None

    @property
    def entered(self) -> bool:
        return self._entered is not None

    def enter(self, request: Any) -> None:
        """Become the current scope, for as long as *request* exists at the most."""
        setattr(request, _ATTRIBUTE, _Held(self))
        self._entered = self.activate()
        self._entered.__enter__()

    def leave(self) -> None:
        """Make current again what was before."""
        entered, self._entered = self._entered, None
        if entered is not None:
            entered.__exit__()

    def drop(self) -> None:
        """The request object is gone. Called by its finalizer, so it takes no lock."""
        if self._entered is None:
            return
        self.abandon(by_mistake=False)
        self._dropped = True
        if current_scope() is self:  # else it was collected elsewhere, and `end_left_over` finds it
            self.leave()

    def end_with_call(self, frame: FrameType) -> None:
        """The request is over when *frame* is no longer under way on this thread."""
        self._call = threading.get_ident(), id(frame)  # and not the frame itself, which would keep all of its locals

    def is_over(self) -> bool:
        """Whether the app was left although the scope was not."""
        if self._dropped or self._call is None or self._call[0] != threading.get_ident():
            return self._dropped
        frame: FrameType | None = sys._getframe()
        while frame is not None and id(frame) != self._call[1]:
            frame = frame.f_back
        return frame is None

    def end_with_task(self, done: Callable[[Any], object] | None = None) -> None:
        """End when the running task does, or let *done* see to it then. The last call counts."""
        self._forget_task()
        task = asyncio.current_task()
        if task is not None:
            self._end_with = task, done or self._task_is_done
            task.add_done_callback(self._end_with[1])

    def _task_is_done(self, task: asyncio.Task[Any]) -> None:
        self.end()
        take_back_orphans(self.databases)  # the request object may have gone just before

    def _forget_task(self) -> None:
        if self._end_with is not None:
            task, done = self._end_with
            self._end_with = None
            task.remove_done_callback(done)

    def end(self) -> None:
        super().end()
        self._forget_task()


class _Held:
    """What a request object holds of its scope. Nothing else refers to it."""

    __slots__ = ("scope",)

    def __init__(self, scope: RequestScope) -> None:
        self.scope = scope

    def __del__(self) -> None:
        self.scope.drop()


def has_scope(request: Any) -> bool:
    """Whether a scope was begun for *request*, be it over or not."""
    return hasattr(request, _ATTRIBUTE)


def scope_of(request: Any) -> RequestScope | None:
    """The scope of *request* while that is current, else ``None``."""
    held: _Held | None = getattr(request, _ATTRIBUTE, None)
    return held.scope if held is not None and held.scope.entered else None


def end_left_over() -> None:
    """End what an earlier request left current on this thread."""
    while isinstance(scope := current_scope(), RequestScope) and scope.entered and scope.is_over():
        scope.leave()
        scope.end()


def end_until(outer: Scope | None) -> None:
    """End what was begun since *outer* was current."""
    while (scope := current_scope()) is not outer and isinstance(scope, RequestScope) and scope.entered:
        scope.leave()
        scope.end()


def take_back_orphans(databases: Databases | None) -> None:
    """Give back what requests that were dropped had, not only when somebody needs a connection."""
    for database in () if databases is None else databases.pools:
        if database.orphans:
            database.take_back_orphans()
