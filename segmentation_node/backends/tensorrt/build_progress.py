"""What a build that takes minutes is doing, on the terminal."""

import sys
import threading
import time
from typing import Any, Optional, TextIO

REFRESH_S = 1.0
LINE_S = 10.0


class BuildProgress:
    """Shows time and current step: one line rewritten on a terminal, a line now and then elsewhere.

    A thread writes it, because TensorRT may be silent for minutes; it lets other threads run.
    """

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._step = ""
        self._width = 0
        self._started_s = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build progress", daemon=True)

    def __enter__(self) -> "BuildProgress":
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self._write()
        if self._is_terminal:
            self._stream.write("\n")

    def report(self, step: str) -> None:
        """What is being done now; from any thread."""
        self._step = step

    def _run(self) -> None:
        while not self._done.wait(REFRESH_S if self._is_terminal else LINE_S):
            self._write()

    def _write(self) -> None:
        line = "%4.0f s  %s" % (time.monotonic() - self._started_s, self._step)
        if self._is_terminal:
            line = line[:100]
            self._stream.write("\r" + line.ljust(self._width))
            self._width = len(line)
        else:
            self._stream.write(line + "\n")
        self._stream.flush()
