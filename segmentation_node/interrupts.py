"""Ctrl-C while the modules of a command are still being imported."""

import os
import signal
from contextlib import contextmanager
from typing import Any, Iterator


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
