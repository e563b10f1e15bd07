"""``python -m benchmarks.roofline``: an ESTIMATE of the least time on a Jetson TX1.

Each operation takes at least its multiply-adds at the peak rate, and at least its bytes at the
memory's rate; the larger of the two counts, and operations follow one another. What TensorRT fuses
into a convolution (activations, batch norm, sums) costs nothing; argmax and copies are not counted.
Nothing was run on a TX1: the published times stand beside the estimate to show how far above it a
good implementation lies.
"""

from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks import SIZES, end_with, shown
from benchmarks.measured_models import shipped_options
from benchmarks.options import Size, parser_of, size_text
from benchmarks.record import Record
from benchmarks.shown import Row
from segmentation_node.networks import NETWORKS
from training.summary import count_macs, meta_network

CLASSES = 19
BYTES_PER_S = 25.6e9
PAPER = "elu_squeezenet"
TX1_MS = {(PAPER, "480x320"): 60.0, (PAPER, "640x360"): 86.0, (PAPER, "1280x720"): 389.0}
"""Latency in ms that was measured on a Jetson TX1 by network and image: Treml et al. 2016, Table 3.
"""
TX1_SOURCE = "Treml et al. 2016"


class Precision(NamedTuple):
    """What a TX1 does with one kind of number: peak rate and size."""

    flops_per_s: float
    bytes: int


PRECISIONS = {"fp32": Precision(512e9, 4), "fp16": Precision(1024e9, 2)}
FUSED = ("elu", "relu", "prelu", "batch_norm", "add", "sum", "stack", "dropout")
"""Parts of names of operations that ride on the convolution before them."""
FREE = ("view", "expand", "permute", "detach", "empty", "slice", "unsqueeze", "getitem", "alias")
"""Parts of names of operations that move nothing."""


class Counter(TorchDispatchMode):
    """Collects the operations that cost time, on shapes alone: multiply-adds, values moved."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[int, int]] = []

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = call(*args, **(kwargs or {}))
        name = str(call).split(".")[1]
        if not any(part in name for part in (*FUSED, *FREE)):
            count = flop_registry.get(call.overloadpacket)
            macs = count(*args, out_val=output) // 2 if count else 0
            tensors = [it for it in tree_leaves([args, output]) if isinstance(it, torch.Tensor)]
            self.operations.append((macs, sum(tensor.numel() for tensor in tensors)))
        return output


def least_ms(operations: list[tuple[int, int]], precision: Precision) -> tuple[float, float]:
    """Least time in ms, and the share of it in which the memory is what limits."""
    total_s = memory_bound_s = 0.0
    for macs, values in operations:
        compute_s = 2 * macs / precision.flops_per_s
        memory_s = values * precision.bytes / BYTES_PER_S
        total_s += max(compute_s, memory_s)
        memory_bound_s += memory_s if memory_s > compute_s else 0.0
    return total_s * 1e3, memory_bound_s / total_s


def estimate(name: str, size: Size) -> Row:
    """The row of a network at a size."""
    network, image = meta_network(name, CLASSES, shipped_options(name)), size_text(size)
    with torch.no_grad(), Counter() as counter:
        network(torch.empty((1, 3, *size), device="meta"))
    estimates = {key: least_ms(counter.operations, item) for key, item in PRECISIONS.items()}
    return {
        "network": name,
        "image": image,
        "gmac": count_macs(network, size) / 1e9,
        "least_ms": {key: value for key, (value, _) in estimates.items()},
        "memory_bound_share": {key: share for key, (_, share) in estimates.items()},
        "published_ms": TX1_MS.get((name, image)),  # measured on a TX1 by the network's authors
    }


def main(arguments: list[str] | None = None) -> None:
    """Estimate for every network, size and precision; write and print it."""
    options = parser_of("roofline", __doc__).parse_args(arguments)
    settings = {
        "kind": "estimate; nothing was run on a TX1",
        "bytes_per_s": BYTES_PER_S,
        "flops_per_s": {name: item.flops_per_s for name, item in PRECISIONS.items()},
        "classes": CLASSES,
    }
    record = Record("roofline", settings, arguments)
    results = [estimate(name, size) for name in sorted(NETWORKS) for size in SIZES]
    record.finish(results, options.output, SHOWN)


SHOWN = shown.one_table(
    "roofline",
    {
        "Network": "`{network}`",
        "Image": "{image}",
        "GMAC": "{gmac:.2f}",
        "At least, fp32": "{least_ms[fp32]:.1f} ms",
        "At least, fp16": "{least_ms[fp16]:.1f} ms",
        "Bound by memory": "{memory_bound_share[fp16]:.0%}",
        "Published": "{published_ms:.0f} ms",
    },
)


if __name__ == "__main__":
    end_with(main)
