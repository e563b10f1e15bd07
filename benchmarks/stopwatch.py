"""Times of work on a device: the host's clock on a CPU, CUDA events on a GPU."""

import time
from typing import Any

import torch


class Stopwatch:
    """Marks go in between pieces of work; the times between them come out at the end.

    On a GPU a mark is an event of the current stream, so that nothing waits until the end.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []

    def mark(self) -> None:
        """What was asked for before belongs to the last lap, what comes after to the next."""
        if self._device.type != "cuda":
            self._marks.append(time.perf_counter())
            return
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        self._marks.append(event)

    def laps_ms(self) -> list[float]:
        """Times between the marks so far, which are then forgotten. Waits for the device."""
        marks, self._marks = self._marks, []
        pairs = list(zip(marks[:-1], marks[1:], strict=True))
        if self._device.type != "cuda":
            return [(end - start) * 1e3 for start, end in pairs]
        torch.cuda.synchronize(self._device)
        return [start.elapsed_time(end) for start, end in pairs]
