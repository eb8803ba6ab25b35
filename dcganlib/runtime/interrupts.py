"""Ctrl-C during a training step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hold_interrupts() -> Iterator[list[int]]:
    """Record the first Ctrl-C instead of raising it; a second one is raised at once.

    Outside the main thread, and where the caller has installed a handler of its own, nothing changes.

    Yields:
        A list, to which the signal's number is added when Ctrl-C is pressed.
    """
    held: list[int] = []
    default = signal.default_int_handler
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGINT) != default:
        yield held
        return

    def hold(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, default)
        held.append(number)

    signal.signal(signal.SIGINT, hold)
    try:
        yield held
    finally:
        signal.signal(signal.SIGINT, default)
