"""Layers, parameters and MACs: ``python -m training.summary segnet --classes 11 --size 360x480``.

Computed from shapes alone, on torch's meta device: it takes no time and no memory, whatever the
size. MACs are the multiply-adds of convolutions and transposed convolutions, as torch counts them
(torchinfo counts a strided transposed convolution at its output's size, four times too much).
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segmentation_node.command_line import CommandParser
from segmentation_node.errors import exit_code, reason
from segmentation_node.evaluation.report.text import table
from segmentation_node.importing.settings import image_size
from segmentation_node.networks import NETWORKS, build_network
from training.arguments import MAX_BATCH, MAX_CLASSES, network_options, whole
from training.errors import TrainingError


@dataclass(frozen=True)
class LayerSummary:
    """One layer that computes: output (N, C, H, W), parameters, MACs for each size."""

    name: str
    kind: str
    output: tuple[int, ...]
    parameters: int
    macs: tuple[int, ...]


def meta_network(name: str, classes: int, options: dict[str, Any]) -> nn.Module:
    """A network of shapes without values, for counting."""
    with torch.device("meta"):
        return build_network(name, classes, options).eval()


def count_parameters(network: nn.Module) -> int:
    """Trainable values; a batch norm's statistics are none."""
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, size: tuple[int, int], batch: int = 1) -> int:
    """Multiply-adds for images of this height and width; the network is on the meta device."""
    return sum(_macs_by_layer(network, size, batch).values())


def summarise(
    network: nn.Module, sizes: Sequence[tuple[int, int]], batch: int = 1
) -> list[LayerSummary]:
    """The layers in the order in which they run; output shapes are for the first size."""
    outputs = _outputs_by_layer(network, sizes[0], batch)
    macs = [_macs_by_layer(network, size, batch) for size in sizes]
    modules = dict(network.named_modules())
    return [
        LayerSummary(
            name,
            type(modules[name]).__name__,
            output,
            sum(parameter.numel() for parameter in modules[name].parameters()),
            tuple(counts.get(name, 0) for counts in macs),
        )
        for name, output in outputs.items()
    ]


def layer_table(layers: Sequence[LayerSummary], sizes: Sequence[tuple[int, int]]) -> str:
    """The summary as text, sums in the last line."""
    rows = []
    for layer in layers:
        shape = "x".join(map(str, layer.output))
        macs = [f"{count / 1e6:.1f}" for count in layer.macs]
        rows.append([layer.name, layer.kind, shape, f"{layer.parameters:,}", *macs])
    totals = [sum(counts) / 1e6 for counts in zip(*(layer.macs for layer in layers), strict=True)]
    parameters = sum(layer.parameters for layer in layers)
    rows.append(["total", "", "", f"{parameters:,}", *(f"{total:.1f}" for total in totals)])
    header = ["layer", "kind", "output", "parameters", *(f"MMAC {h}x{w}" for h, w in sizes)]
    return table(header, rows)


def _macs_by_layer(network: nn.Module, size: tuple[int, int], batch: int) -> dict[str, int]:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty((batch, 3, *size), device="meta"))
    prefix = type(network).__name__ + "."
    leaves = {name for name, module in network.named_modules() if not list(module.children())}
    counts = {}
    for name, by_operator in counter.get_flop_counts().items():
        layer = name.removeprefix(prefix)
        if layer in leaves:
            counts[layer] = sum(by_operator.values()) // 2
    return counts


def _outputs_by_layer(
    network: nn.Module, size: tuple[int, int], batch: int
) -> dict[str, tuple[int, ...]]:
    """Output shape of every module without children, in the order in which they ran."""
    outputs: dict[str, tuple[int, ...]] = {}
    hooks = []
    for name, module in network.named_modules():
        if not list(module.children()):
            hooks.append(module.register_forward_hook(_noting(outputs, name)))
    try:
        with torch.no_grad():
            network(torch.empty((batch, 3, *size), device="meta"))
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


def _noting(outputs: dict[str, tuple[int, ...]], name: str) -> Any:
    def note(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        outputs[name] = tuple(output.shape)

    return note


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and print the table; a known error is one line and exit code 1."""
    parser = CommandParser(
        prog="python3 -m training.summary",
        description="""
Layers, parameters and multiply-adds (MAC) of a network, from shapes alone: it takes no time and no
memory, whatever the size. Counted are convolutions, also transposed ones.""",
        examples="""
%(prog)s segnet --classes 11 --size 360x480
%(prog)s elu_squeezenet --size 360x640 720x1280 --options '{residual: true}'
""",
    )
    parser.add_argument(
        "network",
        choices=sorted(NETWORKS),
        metavar="NETWORK",
        help="one of " + ", ".join(sorted(NETWORKS)),
    )
    parser.add_argument(
        "--classes",
        type=whole(1, MAX_CLASSES),
        default=11,
        metavar="N",
        help="how many it tells apart",
    )
    parser.add_argument(
        "--size",
        type=image_size,
        nargs="+",
        default=[(360, 480)],
        metavar="HxW",
        help="height x width of the image in pixels; default: 360x480",
    )
    parser.add_argument(
        "--batch", type=whole(1, MAX_BATCH), default=1, metavar="N", help="images in a run"
    )
    parser.add_argument(
        "--options",
        type=network_options,
        default={},
        metavar="YAML",
        help="of the network, as in a recipe: '{residual: true}'; default: the network's own",
    )
    parsed = parser.parse_args(arguments)
    return exit_code(
        lambda: _print(parsed.network, parsed.classes, parsed.size, parsed.batch, parsed.options)
    )


def _print(
    name: str, classes: int, sizes: Sequence[tuple[int, int]], batch: int, options: dict[str, Any]
) -> int:
    network = meta_network(name, classes, options)
    try:
        layers = summarise(network, sizes, batch)
    except (LookupError, RuntimeError, TypeError, ValueError) as error:
        raise TrainingError(f"{name} does not compute with {options}: {reason(error)}") from error
    print(layer_table(layers, sizes))
    parameters = count_parameters(network)
    print(f"\n{name}, {classes} classes: {parameters / 1e6:.3f} M parameters")
    for size in sizes:
        macs = count_macs(network, size, batch)
        print(f"{size[0]}x{size[1]}, batch {batch}: {macs / 1e9:.3f} GMAC")
    return 0


if __name__ == "__main__":
    sys.exit(main())
