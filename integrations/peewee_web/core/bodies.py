"""Work that goes on in steps after its function has returned: response bodies and generators.

Each step runs with the scope current, and between steps whatever was current before is current again; so a body may
be advanced from any thread or task. The scope ends with the last step, however that comes about: exhausted, failed,
closed half-way, or never begun.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from .scope import Scope

T = TypeVar("T")


class ScopedBody(Generic[T]):
    """An iterable response body that keeps *scope* until it ends (PEP 3333: the server calls ``close()``).

    A body that is exhausted or failed gives its connection back at once; the scope itself ends with ``close()``,
    because what a framework runs there (``Response.call_on_close``) may still query.
    """

    def __init__(self, body: Iterable[T], scope: Scope) -> None:
        self._body = body
        self._scope = scope
        self._step = scope.activate()
        self._iterator: Iterator[T] | None = None

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            with self._step:
                if self._iterator is None:
                    self._iterator = iter(self._body)
                return next(self._iterator)
        except StopIteration:
            self._last_step(force=False)
            raise
        except BaseException:
            self._last_step(force=True)
            raise

    def _last_step(self, force: bool) -> None:
        if hasattr(self._body, "close"):
            self._scope.release(force)
        else:
            self._scope.end()

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                with self._step:
                    close()
        finally:
            self._scope.end()


class ScopedAsyncBody(Generic[T]):
    """The same for an asynchronous body: closed with ``aclose()``."""

    def __init__(self, body: AsyncIterable[T], scope: Scope) -> None:
        self._body = body
        self._scope = scope
        self._step = scope.activate()
        self._iterator: AsyncIterator[T] | None = None

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            with self._step:
                if self._iterator is None:
                    self._iterator = self._body.__aiter__()
                return await self._iterator.__anext__()
        except StopAsyncIteration:
            self._last_step(force=False)
            raise
        except BaseException:
            self._last_step(force=True)
            raise

    def _last_step(self, force: bool) -> None:
        if hasattr(self._body, "aclose"):
            self._scope.release(force)
        else:
            self._scope.end()

    async def aclose(self) -> None:
        try:
            aclose = getattr(self._body, "aclose", None)
            if aclose is not None:
                with self._step:
                    await aclose()
        finally:
            self._scope.end()


class ScopedGenerator(Generator[T, Any, Any]):
    """A generator whose every step runs in *scope*; what ``@scope()`` makes of a generator function."""

    def __init__(self, generator: Generator[T, Any, Any], scope: Scope) -> None:
        self._generator = generator
        self._scope = scope
        self._begun = False

    def __del__(self) -> None:
        # Dropped half-way, as by `break`: its `finally` blocks run here, as Python has it, and in their scope.
        if not self._scope.ended:
            try:
                with self._scope.activate():
                    self._generator.close()
            finally:
                self._scope.abandon(by_mistake=False)

    def send(self, value: Any) -> T:
        if not (self._begun or self._scope.lazy):
            self._connect()
        self._begun = True
        return self._step(self._generator.send, value)

    def _connect(self) -> None:
        try:
            self._scope.connect()
        except BaseException:
            self._scope.end()
            raise

    def throw(self, *exception: Any) -> T:
        return self._step(self._generator.throw, *exception)

    def _step(self, advance: Any, *arguments: Any) -> T:
        scope = self._scope
        try:
            with scope.activate():
                result: T = advance(*arguments)
        except StopIteration:
            self._complete()
            raise
        except BaseException:
            scope.end()
            raise
        return result

    def _complete(self) -> None:
        try:
            self._scope.complete(commit=True)
        finally:
            self._scope.end()


class ScopedAsyncGenerator(AsyncGenerator[T, Any]):
    """The same for an asynchronous generator function."""

    def __init__(self, generator: AsyncGenerator[T, Any], scope: Scope) -> None:
        self._generator = generator
        self._scope = scope
        self._begun = False

    async def asend(self, value: Any) -> T:
        if not (self._begun or self._scope.lazy):
            await self._connect()
        self._begun = True
        return await self._step(self._generator.asend, value)

    async def _connect(self) -> None:
        try:
            await self._scope.connect_async()
        except BaseException:
            self._scope.end()
            raise

    async def athrow(self, *exception: Any) -> T:
        return await self._step(self._generator.athrow, *exception)

    async def _step(self, advance: Any, *arguments: Any) -> T:
        scope = self._scope
        try:
            with scope.activate():
                result: T = await advance(*arguments)
        except StopAsyncIteration:
            try:
                scope.complete(commit=True)
            finally:
                scope.end()
            raise
        except BaseException:
            scope.end()
            raise
        return result
