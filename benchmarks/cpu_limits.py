"""What the machine reaches at best, and where a network's time goes on ONNX Runtime.

The best are fp32 convolutions of oneDNN and copies within the caches. The convolutions are large,
their channels many, and they run in each of the layouts that oneDNN has a fast path for; the best
of them is the peak that networks are held against.

Times by kind of operator come from ONNX Runtime's own profiler. ``ReorderInput`` and
``ReorderOutput`` are its own: its convolutions work on blocks of channels, and every operator that
has no such form (those of ELUs and PReLUs among them) gets plain layout. On two cores with AVX-512,
at 640x360, activations, sums, concatenations and reorders are memory-bound: they move as many bytes
a second as a copy does. Bilinear resizes, ArgMax, unpooling and transposed convolutions are
neither: their kernels are slow.
"""

import itertools
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils import mkldnn

from benchmarks.timing import UNCOUNTED_RUNS, spread, take_timed_turns
from segmentation_node.backends.onnx_edits import spell_out_activations
from segmentation_node.backends.onnxruntime import import_onnxruntime
from segmentation_node.backends.torch import thread_count

BLOCK_S = 0.15
COPIED_VALUES = 4 * 2**20
"""16 MiB: the largest activation of the networks at 640x360 is about that."""
EVENT = "_kernel_time"


class Convolution(NamedTuple):
    """(1, channels, size, size) -> the same shape, by kernel x kernel."""

    channels: int
    kernel: int
    size: int

    def __str__(self) -> str:
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
            pair: _run(*pair) for pair in itertools.product(convolutions, LAYOUTS)
        }
        source, target = torch.ones(COPIED_VALUES), torch.empty(COPIED_VALUES)
        runs["copy"] = lambda: target.copy_(source)
        times_ms = take_timed_turns(runs, rounds, BLOCK_S)
    copy_ms = min(times_ms.pop("copy"))
    tried = []
    for (convolution, layout), found in times_ms.items():
        macs = (convolution.channels * convolution.kernel * convolution.size) ** 2
        rate = {"gflops": 2 * macs / min(found) / 1e6, **spread(found)}
        tried.append({"convolution": str(convolution), "layout": layout, **rate})
    best = max(tried, key=lambda item: item["gflops"])
    return {
        **{key: best[key] for key in ("gflops", "convolution", "layout")},
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


class Operator(NamedTuple):
    """One node of the optimised graph: its median time, and how much it reads and writes."""

    kind: str
    time_ms: float
    bytes: int


def profile(model_path: str, image_nhwc: np.ndarray, threads: int, runs: int) -> list[Operator]:
    """The nodes of an ONNX file, in the order in which they run; medians over ``runs`` runs."""
    onnxruntime = import_onnxruntime()
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        # As the backend gives it to ONNX Runtime.
        model = spell_out_activations(Path(model_path).read_bytes())
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for _ in range(UNCOUNTED_RUNS + runs):
            session.run(["class_map"], {"image": image_nhwc})
        events = json.loads(Path(session.end_profiling()).read_text())
    by_name: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(EVENT):
            by_name[event["name"] + event["args"]["node_index"]].append(event)
    return [_operator(found[UNCOUNTED_RUNS:]) for found in by_name.values()]


def _operator(events: list[dict[str, Any]]) -> Operator:
    facts = events[0]["args"]
    moved = sum(int(facts[f"{part}_size"]) for part in ("activation", "parameter", "output"))
    time_ms = float(np.median([event["dur"] for event in events])) / 1e3
    return Operator(facts["op_name"], time_ms, moved)


def breakdown(operators: list[Operator]) -> dict[str, Any]:
    """The JSON's figures by kind of operator, the one with the most time first.

    ``gb_per_s`` is what an operator read and wrote over its time: near the rate of a copy it waits
    for memory, far below it computes (or does so badly).
    """
    total_ms = sum(item.time_ms for item in operators)
    kinds = {}
    for kind in {item.kind for item in operators}:
        found = [item for item in operators if item.kind == kind]
        time_ms = sum(item.time_ms for item in found)
        kinds[kind] = {
            "nodes": len(found),
            "median_ms": time_ms,
            "share": time_ms / total_ms,
            # What reshapes alone takes less than the profiler's microsecond.
            "gb_per_s": sum(item.bytes for item in found) / max(time_ms, 1e-3) / 1e6,
        }
    ordered = sorted(kinds.items(), key=lambda item: -item[1]["median_ms"])
    return {"total_ms": total_ms, "operators": dict(ordered)}
