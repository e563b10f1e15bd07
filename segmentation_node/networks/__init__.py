"""Network definitions in torch: one file a network, one entry in ``NETWORKS`` each."""

from typing import Any, Callable, Dict

from torch import nn

from segmentation_node.errors import NetworkError, reason, shown
from segmentation_node.networks.elu_squeezenet import EluSqueezeNet
from segmentation_node.networks.enet import ENet
from segmentation_node.networks.fast_elu_squeezenet import FastEluSqueezeNet
from segmentation_node.networks.fast_relu_squeezenet import FastReluSqueezeNet
from segmentation_node.networks.segnet import SegNet
from segmentation_node.networks.segnet_basic import SegNetBasic

NETWORKS: Dict[str, Callable[..., nn.Module]] = {
    "elu_squeezenet": EluSqueezeNet,
    "enet": ENet,
    "fast_elu_squeezenet": FastEluSqueezeNet,
    "fast_relu_squeezenet": FastReluSqueezeNet,
    "segnet": SegNet,
    "segnet_basic": SegNetBasic,
}


def build_network(name: str, classes: int, options: Dict[str, Any]) -> nn.Module:
    """Build a network with fresh weights.

    Raises NetworkError that lists the known names, or that names an option it does not have.
    """
    if name not in NETWORKS:
        raise NetworkError(
            "unknown network %s; known: %s" % (shown(name), ", ".join(sorted(NETWORKS)))
        )
    try:
        return NETWORKS[name](classes, **options)
    except (
        ArithmeticError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise NetworkError(
            "network %r does not take the options %s: %s" % (name, shown(options), reason(error))
        ) from error
