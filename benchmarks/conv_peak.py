"""What the machine reaches at best: fp32 convolutions of oneDNN, and copies within its caches.

The convolutions are large, their channels many, and they run in each of the layouts that oneDNN
has a fast path for; the best of them is the peak that networks are held against.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.utils import mkldnn

from benchmarks.timing import spread, take_timed_turns
from segmentation_node.backends.torch import thread_count

BLOCK_S = 0.15
COPIED_VALUES = 4 * 2**20
"""16 MiB: the largest activation of the networks at 640x360 is about that."""


class Convolution(NamedTuple):
    """(1, channels, size, size) -> the same shape, by kernel x kernel."""

    channels: int
    kernel: int
    size: int

    @property
    def macs(self) -> int:
        """Multiply-adds of one run."""
        return (self.channels * self.kernel * self.size) ** 2

    def label(self) -> str:
        """As in the JSON."""
        return f"{self.kernel}x{self.kernel}, {self.channels} channels, {self.size}x{self.size}"


CONVOLUTIONS = (
    Convolution(256, 3, 56),
    Convolution(512, 3, 28),
    Convolution(128, 3, 112),
    Convolution(512, 1, 56),
    Convolution(1024, 1, 28),
)
LAYOUTS = ("blocked", "channels_last")


def measure_peak(
    threads: int, rounds: int, convolutions: tuple[Convolution, ...] = CONVOLUTIONS
) -> dict[str, Any]:
    """The best rate of all in GFLOP/s and the rate of a copy in GB/s, both by the least time.

    A multiply-add is two operations; a copied value is read once and written once.
    """
    with torch.inference_mode(), thread_count(threads):
        runs: dict[Any, Callable[[], object]] = {
            (convolution, layout): _run(convolution, layout)
            for convolution in convolutions
            for layout in LAYOUTS
        }
        source, target = torch.ones(COPIED_VALUES), torch.empty(COPIED_VALUES)
        runs["copy"] = lambda: target.copy_(source)
        times_ms = take_timed_turns(runs, rounds, BLOCK_S)
    copy_ms = spread(times_ms.pop("copy"))["least_ms"]
    tried = [_rate(*key, found) for key, found in times_ms.items()]
    best = max(tried, key=lambda item: item["gflops"])
    return {
        "gflops": best["gflops"],
        "convolution": best["convolution"],
        "layout": best["layout"],
        "copy_gb_per_s": 2 * 4 * COPIED_VALUES / copy_ms / 1e6,
        "tried": tried,
    }


def peak_share(gmac: float, time_ms: float, peak: dict[str, Any]) -> float:
    """Which part of the peak rate so many 1e9 multiply-adds in this time are."""
    return 2e3 * gmac / time_ms / peak["gflops"]


def _run(convolution: Convolution, layout: str) -> Callable[[], object]:
    channels, kernel, size = convolution
    module = torch.nn.Conv2d(channels, channels, kernel, padding=kernel // 2).eval()
    image = torch.ones(1, channels, size, size)
    if layout == "blocked":
        # Weights and image stay in oneDNN's own layout: nothing is reordered in a run.
        module, image = mkldnn.to_mkldnn(module), image.to_mkldnn()
    else:
        module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        image = image.to(memory_format=torch.channels_last)
    return lambda: module(image)


def _rate(convolution: Convolution, layout: str, times_ms: list[float]) -> dict[str, Any]:
    found = spread(times_ms)
    return {
        "convolution": convolution.label(),
        "layout": layout,
        "gflops": 2 * convolution.macs / found["least_ms"] / 1e6,
        **found,
    }
