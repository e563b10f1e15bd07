"""Ctrl-C where a KeyboardInterrupt must not come: among imports, and amid what has to be whole."""

import os
import signal
import threading
from contextlib import contextmanager
from typing import Any, Iterator, List


@contextmanager
def ending_at_once(exit_code: int) -> Iterator[None]:
    """Within the block Ctrl-C ends the process with this exit code and one word.

    For imports, which take seconds: a KeyboardInterrupt would come out of any of a thousand files
    as a traceback, or be taken for a missing package. There is nothing to clean up yet.
    """

    def leave(number: int, frame: Any) -> None:
        os.write(2, b"interrupted\n")
        os._exit(exit_code)

    before = signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let SIGINT and SIGTERM wait for the end of the block; KeyboardInterrupt comes after it.

    Signals reach the main thread alone: on another one the block just runs.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: List[int] = []
    signals = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda found, _: waiting.append(found)) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)
    if waiting:
        raise KeyboardInterrupt
