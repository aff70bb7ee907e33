"""What signals of the program's do to code of ours, and ours to them."""

from __future__ import annotations

import contextlib
import functools
import signal
import threading
from types import CodeType
from typing import Any, Final

_OF_A_FAULT: Final = ("SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGSEGV", "SIGSYS", "SIGTRAP")


class Bell:
    """Wakes one thread that waits for it; rung before, the wait ends at once.

    A condition's wait makes a lock, keeps a list and takes its own lock back, which is a fifth of what a thread that
    wakes ten times a second costs (measured). This one is also safe where a signal handler rings.
    """

    def __init__(self) -> None:
        self._silence = threading.Lock()
        self._silence.acquire()

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self._silence.release()

    def wait(self, timeout_s: float) -> None:
        """Until it is rung, or that many seconds."""
        self._silence.acquire(timeout=timeout_s)


def start_without_signals(thread: threading.Thread) -> None:
    """Start a thread that takes no signal of the process's.

    The kernel gives a signal to any thread that does not block it. One of ours would take it from a program that has
    blocked it to wait for it with sigwait, and end the program by the signal's default action; or from a call of the
    program's that the signal is to interrupt.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        thread.start()
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _of_the_program())
        thread.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@functools.cache
def _of_the_program() -> frozenset[int]:
    """All but those that faulthandler may wait for. Kept, as Python makes an enum's member of each anew: 0.5 ms."""
    return frozenset(signal.valid_signals()) - {getattr(signal, name, 0) for name in _OF_A_FAULT}


def is_raised_by_handler(exc: BaseException) -> bool:
    """Whether an exception that came out of code of ours was raised by a signal handler of the program's.

    A handler runs between any two steps of the main thread. What it raises is for the program: a time limit by SIGALRM,
    say.
    """
    handlers = {_code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    step = exc.__traceback__
    while step is not None:
        if step.tb_frame.f_code in handlers:
            return True
        step = step.tb_next
    return False


def _code_of(handler: Any) -> CodeType | None:
    """What a handler runs, if it is written in Python."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if not callable(handler):
        return None
    function = getattr(handler, "__func__", handler)
    code = getattr(function, "__code__", None) or getattr(type(handler).__call__, "__code__", None)
    return code if isinstance(code, CodeType) else None
