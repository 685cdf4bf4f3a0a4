"""Signals that ask a job to stop, recorded until it has finished and saved its step."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Interrupted", "deferred_signals", "hang_up_as_terminate"]

# Seconds in which a second Ctrl-C counts as the first.
DOUBLE_SIGNAL_WINDOW = 1.0


class Interrupted(BaseException):
    """A job that ended because a signal asked it to; the message says how to resume it.

    It derives from BaseException so that handlers that turn exceptions into "damaged checkpoint"
    errors do not catch it.
    """

    def __init__(self, received: signal.Signals, message: str = ""):
        super().__init__(message or f"stopped by {received.name}")
        self.signal = received
        self.has_resume_hint = bool(message)


@contextlib.contextmanager
def deferred_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Record SIGINT, SIGTERM and SIGHUP within this context instead of acting on them.

    The function that it gives returns the first signal received, or None. SIGHUP, which a terminal
    sends when it closes, is left alone where it is ignored, as by nohup. Schedulers and shells may
    send a signal twice. A second Ctrl-C a second or more after the first restores the default
    handler and interrupts at once. Python lets only the main thread receive signals; in another
    thread nothing is recorded.

    >>> with deferred_signals() as received:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     received().name
    'SIGTERM'
    """
    noted: list[signal.Signals] = []
    first = 0.0
    before: dict[signal.Signals, Any] = {}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        nonlocal first
        first = first or time.monotonic()
        if noted and number == signal.SIGINT and time.monotonic() - first > DOUBLE_SIGNAL_WINDOW:
            restore()
            signal.raise_signal(number)
        noted.append(signal.Signals(number))

    if _in_main_thread():
        numbers = [signal.SIGINT, signal.SIGTERM, *_hang_up()]
        before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: noted[0] if noted else None
    finally:
        restore()


@contextlib.contextmanager
def hang_up_as_terminate() -> Iterator[None]:
    """Pass SIGHUP on as SIGTERM within this context, to what handles only that."""
    numbers = _hang_up() if _in_main_thread() else []
    before = {n: signal.signal(n, lambda *_: os.kill(os.getpid(), signal.SIGTERM)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _hang_up() -> list[signal.Signals]:
    """Return SIGHUP, unless it is ignored, as by nohup."""
    return [] if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else [signal.SIGHUP]
