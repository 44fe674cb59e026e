"""Per-view choice of a transaction, the same decorators under every framework."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from .errors import ScopeError
from .scope import current_scope

F = TypeVar("F", bound=Callable[..., Any])


def atomic_requests(view: F) -> F:
    """Run the request of *view* in a transaction although the app's requests are not.

    It begins before the view (earlier hooks are not part of it) and commits or rolls back with the response, as with
    the ``atomic`` option. For functions, methods and coroutine functions.
    """
    return _decided(view, atomic=True)


def non_atomic_requests(view: F) -> F:
    """Run *view* in autocommit although the app's requests are atomic. What earlier hooks wrote is committed first."""
    return _decided(view, atomic=False)


def _decided(view: F, atomic: bool) -> F:
    def decide() -> None:
        scope = current_scope()
        if scope is None:
            name = "atomic_requests" if atomic else "non_atomic_requests"
            raise ScopeError(
                f"{name}: {getattr(view, '__qualname__', view)} was called outside a request; "
                "check that its route is not excluded"
            )
        scope.set_atomic(atomic)

    if inspect.iscoroutinefunction(view):

        @functools.wraps(view)
        async def decided_async(*args: Any, **kwargs: Any) -> Any:
            decide()
            return await view(*args, **kwargs)

        return decided_async  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express

    @functools.wraps(view)
    def decided(*args: Any, **kwargs: Any) -> Any:
        decide()
        return view(*args, **kwargs)

    return decided  # type: ignore[return-value]  # wraps() keeps the shape, which F can't express
