"""Decorated calls: each one a run, told from a recursive one, with results and exceptions as they are without us."""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
import types
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

from tracker.session.live import LiveRun, status_of

Start = Callable[[str], LiveRun]

# Decorated functions at work in this thread or task: (function, owner), so that recursion is one run.
_at_work: ContextVar[frozenset[tuple[int, int]]] = ContextVar("tracker_calls", default=frozenset())


def decorated(function: Any, name: str | None, start: Start) -> Any:
    """The function with each of its calls a run, from its first step to its end.

    Args:
        function: a function, coroutine function, generator function or async generator function, or what is called
            like one.
        name: of the runs; None: the function's own.
        start: starts one.

    Raises:
        TypeError: it is nothing that can be called, or a class.
    """
    if isinstance(function, (staticmethod, classmethod)):
        return type(function)(decorated(function.__func__, name, start))
    if isinstance(function, type):
        raise TypeError(
            f"track decorates functions and methods, not classes; put it on a method of {function.__name__}"
        )
    if isinstance(function, property):
        raise TypeError("track decorates functions, not property; put it below @property")
    if not callable(function):
        raise TypeError(f"track decorates functions, not {type(function).__name__}")
    call = _Function(function, name or _name_of(function), start)
    if _is(inspect.isasyncgenfunction, function):
        wrapper = _around_async_generator(call)
    elif _is(inspect.iscoroutinefunction, function):
        wrapper = _around_coroutine(call)
    elif _is(inspect.isgeneratorfunction, function):
        wrapper = _around_generator(call)
        if getattr(getattr(function, "__code__", None), "co_flags", 0) & inspect.CO_ITERABLE_COROUTINE:
            wrapper = types.coroutine(wrapper)
    else:
        wrapper = _around_function(call)
    return functools.wraps(function)(wrapper)


def _is(what: Callable[[Any], bool], function: Any) -> bool:
    """Whether a function, or the __call__ of an object that is called like one, is of this kind."""
    return what(function) or (not inspect.isroutine(function) and what(type(function).__call__))


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__qualname__", None) or type(function).__name__


class _Function:
    """A decorated function."""

    def __init__(self, function: Callable[..., Any], name: str, start: Start) -> None:
        self.function = function
        self._name = name
        self._start = start

    def run(self) -> LiveRun | None:
        """A run for a call that begins now; None: it is a part of the run of a call that it recurses from."""
        return None if (id(self.function), _owner()) in _at_work.get() else self._start(self._name)

    def step(self) -> _AtWork:
        """While in it, calls of the function are recursive ones."""
        return _AtWork((id(self.function), _owner()))


class _AtWork:
    def __init__(self, key: tuple[int, int]) -> None:
        self._key = key
        self._token: Token[frozenset[tuple[int, int]]] | None = None

    def __enter__(self) -> None:
        self._token = _at_work.set(_at_work.get() | {self._key})

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            # Left in another context than entered, as a coroutine that the garbage collector closes: nothing to undo.
            with contextlib.suppress(ValueError):
                _at_work.reset(self._token)


class _Ending:
    """Ends a run as its block ends."""

    def __init__(self, live: LiveRun | None) -> None:
        self._live = live

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live._finish(status_of(exc))


def _around_function(call: _Function) -> Any:
    def tracked(*args: Any, **kwargs: Any) -> Any:
        with _Ending(call.run()), call.step():
            return call.function(*args, **kwargs)

    return tracked


def _around_coroutine(call: _Function) -> Any:
    async def tracked(*args: Any, **kwargs: Any) -> Any:
        with _Ending(call.run()), call.step():
            return await call.function(*args, **kwargs)

    return tracked


def _around_generator(call: _Function) -> Any:
    # Not `yield from`: between two steps the caller's code runs, in which a call of the function is no recursive one.
    def tracked(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        inner = call.function(*args, **kwargs)
        sent, thrown = None, None
        with _Ending(call.run()):
            try:
                while True:
                    try:
                        with call.step():
                            item = inner.send(sent) if thrown is None else inner.throw(thrown)
                    except StopIteration as stop:
                        return stop.value
                    thrown = None
                    try:
                        sent = yield item
                    except BaseException as exc:  # noqa: BLE001 (thrown into the user's generator, out of this handler)
                        sent, thrown = None, exc
            finally:
                thrown = None  # its traceback holds this frame

    return tracked


def _around_async_generator(call: _Function) -> Any:
    async def tracked(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        inner = call.function(*args, **kwargs)
        sent, thrown = None, None
        with _Ending(call.run()):
            try:
                while True:
                    try:
                        with call.step():
                            item = await (inner.asend(sent) if thrown is None else inner.athrow(thrown))
                    except StopAsyncIteration:
                        return
                    thrown = None
                    try:
                        sent = yield item
                    except BaseException as exc:  # noqa: BLE001 (as above)
                        sent, thrown = None, exc
            finally:
                thrown = None

    return tracked


def _owner() -> int:
    """Identity of the task that runs now, else of the thread. asyncio is only asked where it is loaded."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        try:
            task = asyncio.current_task()
        except (RuntimeError, AttributeError):  # no loop runs in this thread, or it is being imported
            task = None
        if task is not None:
            return id(task)
    return threading.get_ident()
