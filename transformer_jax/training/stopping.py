"""Signals that ask a job to stop, noted until it has finished and saved its step."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Stopped", "stop_signals"]


class Stopped(BaseException):
    """A job that ended because a signal asked it to; the message says how it goes on.

    No Exception: what catches those, to word them as damage, must let it through.
    """

    def __init__(self, received: signal.Signals, message: str):
        super().__init__(message)
        self.signal = received


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], signal.Signals | None]]:
    """Within, SIGINT and SIGTERM are noted; the function tells which one came, or None.

    A second signal acts as it did before. Python lets only the main thread take signals; in
    another one nothing is noted.

    >>> with stop_signals() as received:
    ...     signal.raise_signal(signal.SIGTERM)
    ...     received().name
    'SIGTERM'
    """
    noted: list[signal.Signals] = []
    before: dict[signal.Signals, Any] = {}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number, frame):
        noted.append(signal.Signals(number))
        restore()

    if threading.current_thread() is threading.main_thread():
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: noted[0] if noted else None
    finally:
        restore()
