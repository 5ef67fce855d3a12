"""Ctrl-C while training: it waits until a step is done, and the state and its number agree."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Gives a function that raises KeyboardInterrupt if there has been a Ctrl-C. A second one does
    not wait. Where the program has a handler of its own, and in other threads, it does nothing."""
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if arrived:
            raise KeyboardInterrupt
        arrived.append(number)

    def stop() -> None:
        if arrived:
            raise KeyboardInterrupt

    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stop
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield stop
        stop()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
