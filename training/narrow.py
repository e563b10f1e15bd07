"""A narrow network that starts as what is left of a wide one without its channels that weigh least.

Source: Li et al. 2017, "Pruning Filters for Efficient ConvNets"; what has to go with a channel in
other layers is found and weighed by torch_pruning (Fang et al. 2023, "DepGraph: Towards Any
Structural Pruning").
"""

import torch
from torch import nn
from torch_pruning import DependencyGraph, prune_conv_out_channels
from torch_pruning.pruner.importance import GroupMagnitudeImportance

TRACED_SIZE = (64, 96)
"""Height and width of the image that shows which layers belong together."""


def narrowed(network: nn.Module, wide: nn.Module) -> dict[str, torch.Tensor]:
    """Weights for ``network`` of those channels of ``wide`` that weigh most; ``wide`` is changed.

    A channel weighs the sum of its squared weights and of those that belong to it in batch norms
    and in the convolutions that read it. Layers that are narrower in ``wide`` stay as they are.
    Raises ValueError, one line, where the network unpools: a trace does not show whose indices.
    """
    weigh = GroupMagnitudeImportance(p=2)
    image_nchw = torch.zeros(1, 3, *TRACED_SIZE)
    graph = DependencyGraph().build_dependency(wide.eval(), example_inputs=image_nchw)
    if any("Unpool" in str(operation) for operation in graph.module2node):
        raise ValueError(
            f"{type(wide).__name__} unpools by its encoder's indices, and is not narrowed; train "
            "the narrow one first, and the wide one from it with widen_start"
        )
    expected = dict(network.named_modules())
    for name, layer in wide.named_modules():
        own = expected[name]
        if not isinstance(layer, nn.Conv2d) or not isinstance(own, nn.Conv2d):
            continue
        surplus = layer.out_channels - own.out_channels
        if surplus > 0:
            channels = list(range(layer.out_channels))
            weights = weigh(graph.get_pruning_group(layer, prune_conv_out_channels, channels))
            lightest = weights.argsort()[:surplus].tolist()
            graph.get_pruning_group(layer, prune_conv_out_channels, lightest).prune()
    return {name: tensor.detach() for name, tensor in wide.state_dict().items()}
