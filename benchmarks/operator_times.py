"""Where a network's time goes on ONNX Runtime: by kind of operator, from its own profiler.

``ReorderInput`` and ``ReorderOutput`` are ONNX Runtime's: its convolutions work on blocks of
channels, and every operator that has no such form (those of ELUs and PReLUs among them) gets plain
layout.

What it shows on two cores with AVX-512, at 640x360: 3x3 convolutions of 32 channels and more run
near the peak, 1x1 convolutions of fewer channels at about two thirds of their rate, and 3x3 ones of
11 classes (``elu_squeezenet``'s decoder) at half of it or less. Activations, sums,
concatenations and reorders are memory-bound: they move as many bytes a second as a copy does.
Bilinear resizes, ArgMax, unpooling and transposed convolutions are neither: their kernels are slow.
"""

import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx

from benchmarks.conv_peak import peak_share
from segmentation_node.backends.onnx_file import spell_out_activations
from segmentation_node.backends.onnxruntime import import_onnxruntime

UNCOUNTED_RUNS = 3
EVENT = "_kernel_time"
CHANNEL_LIMITS = (32, 128)


class Node(NamedTuple):
    """One operator of the optimised graph: its median time, and what it reads and writes."""

    kind: str
    time_ms: float
    bytes: int
    macs: int
    group: str  # of convolutions: kernel and channels


def profile(model_path: str, image_nhwc: np.ndarray, threads: int, runs: int) -> list[Node]:
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
    weights = _transposed_weights(model)
    return [_node(found[UNCOUNTED_RUNS:], weights) for found in by_name.values()]


def breakdown(nodes: list[Node], gmac: float, peak: dict[str, Any]) -> dict[str, Any]:
    """The JSON's figures: by kind of operator, and of convolutions by kernel and channels.

    ``gb_per_s`` is what an operator read and wrote over its time: near the rate of a copy it waits
    for memory, far below it computes (or does so badly). ``conv_peak_share`` is the network's
    multiply-adds over the time of its convolutions alone.
    """
    total_ms = sum(node.time_ms for node in nodes)
    kinds = _grouped((node.kind, node) for node in nodes)
    groups = _grouped((node.group, node) for node in nodes if node.group)
    conv_ms = sum(node.time_ms for node in nodes if node.group)
    return {
        "total_ms": total_ms,
        "conv_peak_share": peak_share(gmac, conv_ms, peak) if conv_ms else None,
        "operators": {
            kind: {**_sums(found, total_ms), "gb_per_s": _gb_per_s(found)}
            for kind, found in kinds.items()
        },
        "convolutions": {
            group: {**_sums(found, total_ms), **_conv_rates(found, peak)}
            for group, found in groups.items()
        },
    }


def _transposed_weights(model: bytes) -> dict[str, list[int]]:
    """Shapes by node name: ONNX Runtime packs these weights, and its profile is silent of them."""
    graph = onnx.load_from_string(model).graph
    shapes = {item.name: list(item.dims) for item in graph.initializer}
    return {
        node.name: shapes[node.input[1]] for node in graph.node if node.op_type == "ConvTranspose"
    }


def _node(events: list[dict[str, Any]], weights: dict[str, list[int]]) -> Node:
    arguments = events[0]["args"]
    moved = sum(int(arguments[f"{part}_size"]) for part in ("activation", "parameter", "output"))
    time_ms = float(np.median([event["dur"] for event in events])) / 1e3
    macs, group = 0, ""
    if arguments["op_name"] in ("Conv", "ConvTranspose"):
        weight = weights.get(events[0]["name"].removesuffix(EVENT))
        macs, group = _convolution(arguments, weight)
    return Node(arguments["op_name"], time_ms, moved, macs, group)


def _convolution(arguments: dict[str, Any], weight: list[int] | None) -> tuple[int, str]:
    """Multiply-adds, and kernel and channels in words."""
    shapes = [next(iter(item.values())) for item in arguments["input_type_shape"]]
    output = next(iter(arguments["output_type_shape"][0].values()))
    is_transposed = arguments["op_name"] == "ConvTranspose"
    places = shapes[0] if is_transposed else output
    weight = weight or shapes[1]
    kernel = f"{weight[2]}x{weight[3]}" + (" transposed" if is_transposed else "")
    return math.prod(weight) * math.prod(places[2:]), f"{kernel}, {_channels(min(weight[:2]))}"


def _channels(least: int) -> str:
    """In words: the smaller number of channels of the two sides."""
    few, many = CHANNEL_LIMITS
    if least < few:
        return f"under {few} channels"
    return f"{few} to {many - 1} channels" if least < many else f"{many} channels or more"


def _grouped(items: Iterable[tuple[str, Node]]) -> dict[str, list[Node]]:
    """Nodes by key, the key with the most time first."""
    groups: dict[str, list[Node]] = defaultdict(list)
    for key, node in items:
        groups[key].append(node)
    return dict(sorted(groups.items(), key=lambda item: -sum(node.time_ms for node in item[1])))


def _sums(nodes: list[Node], total_ms: float) -> dict[str, Any]:
    time_ms = sum(node.time_ms for node in nodes)
    return {"nodes": len(nodes), "median_ms": time_ms, "share": time_ms / total_ms}


def _gb_per_s(nodes: list[Node]) -> float:
    # What reshapes alone takes less than the profiler's microsecond.
    time_ms = max(sum(node.time_ms for node in nodes), 1e-3)
    return sum(node.bytes for node in nodes) / time_ms / 1e6


def _conv_rates(nodes: list[Node], peak: dict[str, Any]) -> dict[str, float]:
    gmac = sum(node.macs for node in nodes) / 1e9
    return {"gmac": gmac, "peak_share": peak_share(gmac, sum(node.time_ms for node in nodes), peak)}
