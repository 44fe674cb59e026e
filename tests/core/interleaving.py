"""Threads and coroutines whose every step a test chooses: the pool's code runs one statement at a time, repeatably.

Each thread is an `Actor`, a greenlet; between any two statements of the pool's modules it can be made to pause, so that
others go on meanwhile. Nothing takes real time: locks, events, watchdogs and asyncio's event loop go by the `Stage`'s
clock. The modules are copies, loaded with pauses written into them; the real ones stay as they are.
"""

from __future__ import annotations

import ast
import asyncio
import functools
import importlib
import math
import selectors
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from greenlet import GreenletExit, greenlet

# What is loaded anew, each after those that it imports.
MODULES = ("lease", "waiting", "holdings", "ledger", "checkout", "resetting", "connector", "pool")
# Statements after which an actor that has not waited yet must be in an endless loop.
_ENDLESS = 5_000


class Interrupted(BaseException):
    """What a thread may meet wherever it waits: gevent's ``Timeout`` is one, ``KeyboardInterrupt`` another."""


class Actor:
    """One thread of the simulation."""

    def __init__(self, stage: Stage, name: str, work: Callable[[], object]) -> None:
        self.stage = stage
        self.name = name
        self.done = False
        #: What it waits for, and until when.
        self.ready: Callable[[], bool] | None = None
        self.deadline = math.inf
        #: Whether it stands where a thread can be interrupted: in a network call, or asleep.
        self.interruptible = False
        self.watchdogs: list[Watchdog] = []
        self._running_loop: asyncio.AbstractEventLoop | None = None
        #: How many statements it has run since it last waited.
        self.unbroken = 0
        self._points = 0.0
        self._stops_at_io = False
        self._work = work
        self._greenlet = greenlet(self._run, parent=stage.greenlet)

    def __repr__(self) -> str:
        state = "done" if self.done else "waiting" if self.ready is not None else "on its way"
        return f"<{self.name}, {state}>"

    def _run(self) -> None:
        try:
            self._work()
        except (Interrupted, GreenletExit):
            pass
        except BaseException as error:
            self.stage.faults.append(error)
        finally:
            self.done = True

    @property
    def can_go_on(self) -> bool:
        return not self.done and (self.ready is None or self.ready() or self.stage.now >= self.deadline)

    def go_on(self, points: float = math.inf, *, to_io: bool = False) -> None:
        """Run until it has to wait, or for so many statements, or until its next network call."""
        if self.can_go_on:
            self._points, self._stops_at_io = points, to_io
            self._switch_to()

    def interrupt(self) -> None:
        assert self.interruptible
        self._points, self._stops_at_io = math.inf, False
        self._switch_to(Interrupted())

    def end(self) -> None:
        """Let it unwind without a trace, as its process is gone."""
        if not self.done and self._greenlet:
            with suppress(BaseException):
                self._greenlet.throw(GreenletExit)
        self.done = True

    def _switch_to(self, error: BaseException | None = None) -> None:
        before, self.stage.playing = self.stage.playing, self
        self.interruptible = False
        asyncio._set_running_loop(self._running_loop)  # which is a matter of threads
        try:
            self._greenlet.switch() if error is None else self._greenlet.throw(error)
        finally:
            self._running_loop = asyncio._get_running_loop()
            asyncio._set_running_loop(None)
            self.stage.playing = before


class Stage:
    """The threads of one process and their clock."""

    #: The one whose threads run now: there is one interpreter, and its modules' copies are loaded once.
    current: Stage

    def __init__(self) -> None:
        self.greenlet = greenlet.getcurrent()
        self.now = 1000.0
        self.pid = 1
        self.actors: list[Actor] = []
        self.playing: Actor | None = None
        #: What went wrong inside an actor, where the pool may swallow an exception.
        self.faults: list[BaseException] = []
        self.over = False
        self.loop: Loop | None = None
        self._ghosts: list[Actor] = []
        Stage.current = self

    def clock(self) -> float:
        """Monotonic seconds. No two readings are the same, so they tell what came first."""
        self.now += 1e-9
        return self.now

    def spawn(self, name: str, work: Callable[[], object]) -> Actor:
        self.actors = [actor for actor in self.actors if not actor.done]
        self.actors.append(Actor(self, name, work))
        return self.actors[-1]

    def point(self, *, io: bool = False) -> None:
        """A place where others may go on instead."""
        if self.over and greenlet.getcurrent() is not self.greenlet:
            raise GreenletExit
        actor = self.playing
        if actor is None:
            return
        actor._points -= 1
        actor.unbroken += 1
        if actor.unbroken > _ENDLESS:
            self.faults.append(AssertionError(f"{actor} goes on for ever"))
            self.over = True
            raise GreenletExit
        if actor._points < 0 or (io and actor._stops_at_io):
            actor.interruptible = io
            self.greenlet.switch()

    def wait(self, ready: Callable[[], bool], deadline: float = math.inf, *, interruptible: bool = False) -> bool:
        """Have the actor wait until *ready*, or until the *deadline*. Returns whether *ready*."""
        actor = self.playing
        while not (ready() or self.now >= deadline):
            if self.over:
                raise GreenletExit
            assert actor is not None, "the test itself must not wait"
            actor.unbroken = 0
            actor.ready, actor.deadline, actor.interruptible = ready, deadline, interruptible
            try:
                self.greenlet.switch()
            finally:
                actor.ready, actor.deadline = None, math.inf
        return ready()

    def settle(self) -> None:
        """Run everybody until all wait, or are done."""
        for _ in range(100):
            ready = [actor for actor in self.actors if actor.can_go_on]
            if not ready:
                return
            for actor in ready:
                actor.go_on()
        raise AssertionError(f"they go on for ever: {ready}")

    @property
    def is_settled(self) -> bool:
        return not any(actor.can_go_on for actor in self.actors)

    @property
    def has_ended(self) -> bool:
        """Whether nobody has anything left to do."""
        return all(actor.done or actor.name == "event loop" for actor in self.actors) and not (
            self.loop is not None and asyncio.all_tasks(self.loop)
        )

    def fork(self) -> None:
        """Be the child from now on: of all threads none is here but the test's."""
        self.pid += 1
        self._ghosts += self.actors
        self.actors = []
        self._leave_loop()

    def end(self) -> None:
        self.over = True
        for actor in (*self._ghosts, *self.actors):
            actor.end()
        self._leave_loop()

    def _leave_loop(self) -> None:
        if self.loop is not None:
            self.loop.abandon()
            self.loop = None

    def submit(self, make: Callable[[], Any]) -> Callable[[], None]:
        """Begin a coroutine on the event loop, which is a thread like the others. Returns what cancels it."""
        if self.loop is None:
            self.loop = Loop(self)
            self.spawn("event loop", self.loop.run_forever)
        tasks: list[asyncio.Task[Any]] = []
        loop = self.loop
        loop.call_soon_threadsafe(lambda: tasks.append(loop.create_task(make())))
        return lambda: loop.call_soon_threadsafe(lambda: tasks[0].cancel())


class Lock:
    """``threading.Lock``."""

    def __init__(self, released: Callable[[], None] = lambda: None) -> None:
        self.owner: Actor | None = None
        self.held = False
        self._released = released

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        stage = Stage.current
        deadline = math.inf if timeout < 0 else stage.now + timeout
        if not stage.over and not stage.wait(lambda: not self.held, deadline, interruptible=timeout >= 0):
            return False
        self.owner, self.held = stage.playing, True
        return True

    def release(self) -> None:
        if not self.held:
            raise RuntimeError("release unlocked lock")
        self.owner, self.held = None, False
        if not Stage.current.over:
            self._released()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()


class Event:
    """``threading.Event``."""

    def __init__(self) -> None:
        self._set = False

    def is_set(self) -> bool:
        return self._set

    def set(self) -> None:
        self._set = True

    def clear(self) -> None:
        self._set = False

    def wait(self, timeout: float | None = None) -> bool:
        stage = Stage.current
        deadline = math.inf if timeout is None else stage.now + timeout
        return stage.wait(self.is_set, deadline, interruptible=True)


class Mark:
    """``fork.mark()``."""

    def __init__(self) -> None:
        self[0] = 1

    def __getitem__(self, index: int) -> int:
        return Stage.current.pid == self._pid

    def __setitem__(self, index: int, value: int) -> None:
        self._pid = Stage.current.pid


class Watchdog:
    """Bounds the network calls of its block in the stage's time: they look at it while they wait."""

    def __init__(self, fileno: int | None, seconds: float) -> None:
        self.fired = False
        self.deadline = Stage.current.now + max(0.0, seconds)

    def __enter__(self) -> Watchdog:
        if Stage.current.playing is not None:
            Stage.current.playing.watchdogs.append(self)
        return self

    def __exit__(self, *exc: object) -> None:
        if Stage.current.playing is not None:
            Stage.current.playing.watchdogs.remove(self)


class _Selector(selectors.BaseSelector):
    """Finds no file ready ever; an event loop that has nothing to do waits in it."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.woken = False
        self.idle = False

    def select(self, timeout: float | None = None) -> list[Any]:
        stage = self._stage
        if timeout is not None and timeout <= 0:
            stage.point()
        else:
            self.idle = True
            stage.wait(lambda: self.woken, math.inf if timeout is None else stage.now + timeout)
            self.idle = False
        self.woken = False
        return []

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return selectors.SelectorKey(fileobj, 0, 0, None)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return {}

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        raise KeyError(fileobj)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's own, in the stage's time."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._chooser = _Selector(stage)
        super().__init__(self._chooser)

    @property
    def stands_still(self) -> bool:
        """Whether a coroutine blocks the thread, so that no other can go on."""
        return not self._chooser.idle

    def time(self) -> float:
        return self._stage.now

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> asyncio.Handle:
        handle = super().call_soon_threadsafe(callback, *args, context=context)
        self._chooser.woken = True
        return handle

    def abandon(self) -> None:
        """Close it as it stands: what runs in it is not to run any further."""
        self.set_exception_handler(lambda loop, context: None)
        self._thread_id = None
        for task in asyncio.all_tasks(self):
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            with suppress(BaseException):
                task.get_coro().close()  # type: ignore[union-attr]
        self.close()


def load(
    released: Callable[[Any], None], disown: Callable[[Any], None], *mutations: tuple[str, str, str]
) -> types.ModuleType:
    """The module ``pool`` with a pause between any two statements.

    *disown* stands for what a child does to a connection that is its parent's. *released* is called with a ledger
    whenever its lock has been let go. Each of *mutations* is a module, a piece of its source and what to put in its
    place.
    """

    def leave_to_parent(idle: list[Any], leases: list[Any], close: object) -> None:
        for inherited in (*idle, *leases):
            disown(inherited.connection)

    stand_ins = {
        "threading": types.SimpleNamespace(Lock=Lock, Event=Event, TIMEOUT_MAX=1e9, Thread=None),
        "Watchdog": Watchdog,
        "fork": types.SimpleNamespace(
            lock=Lock(),
            mark=Mark,
            tell_children=lambda pool: None,
            leave_to_parent=leave_to_parent,
            close_inherited=lambda: None,
        ),
    }
    package = importlib.import_module("peewee_web.core")
    real = {name: importlib.import_module(f"peewee_web.core.{name}") for name in MODULES}
    try:
        for name in MODULES:
            module = types.ModuleType(f"peewee_web.core.{name}")
            module.__package__ = package.__name__
            module.__file__ = real[name].__file__
            module.__dict__["__pause__"] = lambda: Stage.current.point()
            sys.modules[module.__name__] = module
            exec(_compiled(str(real[name].__file__), tuple(m[1:] for m in mutations if m[0] == name)), module.__dict__)
            module.__dict__.update({key: value for key, value in stand_ins.items() if key in module.__dict__})
            if name == "ledger":
                _observe(module, released)
    finally:
        for name in MODULES:
            sys.modules[f"peewee_web.core.{name}"] = real[name]
    return module


def _observe(module: types.ModuleType, released: Callable[[Any], None]) -> None:
    begin = module.Ledger.__init__

    def __init__(ledger: Any, options: Any) -> None:
        begin(ledger, options)
        ledger.first = set()  # who came back from a dead connection
        ledger._lock = Lock(lambda: released(ledger))

    enqueue = module.Ledger.enqueue

    def noted(ledger: Any, waiter: Any, *args: Any, first: bool, **more: Any) -> Any:
        if first:
            ledger.first.add(waiter)
        return enqueue(ledger, waiter, *args, first=first, **more)

    module.Ledger.__init__ = __init__  # type: ignore[misc]
    module.Ledger.enqueue = noted


def mutated(path: Path, mutations: tuple[tuple[str, str], ...]) -> str:
    """The source at *path* with each first text of *mutations* replaced. LookupError unless it stands there once."""
    source = path.read_text()
    for old, new in mutations:
        if source.count(old) != 1:
            raise LookupError(f"{path.name} has {source.count(old)} of {old!r}")
        source = source.replace(old, new)
    return source


@functools.cache
def _compiled(path: str, mutations: tuple[tuple[str, str], ...]) -> types.CodeType:
    tree = ast.parse(mutated(Path(path), mutations))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = {id(node): node for function in functions for node in ast.walk(function)}
    for node in inside.values():
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if isinstance(statements, list):
                setattr(node, field, [each for statement in statements for each in (_pause(statement), statement)])
    return compile(ast.fix_missing_locations(tree), path, "exec")


def _pause(before: ast.stmt) -> ast.stmt:
    call = ast.Expr(ast.Call(ast.Name("__pause__", ast.Load()), [], []))
    return ast.copy_location(call, before)
