"""SegNet: VGG-16's convolutions down, their mirror image up, unpooling by max-pool indices.

Source: Badrinarayanan, Kendall and Cipolla 2017, "SegNet: A Deep Convolutional Encoder-Decoder
Architecture for Image Segmentation"; layers as in the authors' segnet_train.prototxt.
"""

from collections import OrderedDict
from typing import Sequence, Tuple

import torch
from torch import nn

from segmentation_node.networks.unpool import max_pool

# Channels of the 3x3 convolutions, one group for each pooling.
ENCODER = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
DECODER = ((512, 512, 512), (512, 512, 256), (256, 256, 128), (128, 64), (64,))


class SegNet(nn.Module):
    """Logits (N, classes, H, W) from a normalised image (N, 3, H, W) of any size.

    29.45 M parameters at 11 classes; 106.7 / 80.8 / 20.2 GMAC at 480x360 / 512x256 / 256x128.

    Nothing is padded at the image's edge: each pooling takes odd sizes in ceil mode and its
    unpooling restores them (45 -> 23 -> 45 at 480x360), which is the published network at that
    size and works at every other.

    Args:
        classes: number of output classes.
        narrow: every width but the classes' is divided by this: 2, 4, 8, ... 64. Not published: a
            start that trains in a tenth of the time and is widened (``widen_start`` in a recipe).
    """

    def __init__(self, classes: int, narrow: int = 1) -> None:
        super().__init__()
        self.encoder, channels = _stages(3, ENCODER, narrow)
        self.decoder, channels = _stages(channels, DECODER, narrow)
        self.classifier = nn.Conv2d(channels, classes, 3, padding=1)
        initialise_msra(self)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        return self.classifier(down_and_up(image_nchw, self.encoder, self.decoder))


def down_and_up(
    features: torch.Tensor, encoder: nn.ModuleList, decoder: nn.ModuleList
) -> torch.Tensor:
    """Encoder stages, a pooling after each; decoder stages, the matching unpooling before each."""
    unpools = []
    for stage in encoder:
        features, unpool = max_pool(stage(features))
        unpools.append(unpool)
    for stage in decoder:
        features = stage(unpools.pop()(features))
    return features


def conv_norm(
    in_channels: int, out_channels: int, kernel_size: int, relu: bool = True
) -> nn.Sequential:
    """Convolution that keeps the size, batch norm, and ReLU if wanted."""
    layers: "OrderedDict[str, nn.Module]" = OrderedDict()
    layers["conv"] = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    layers["norm"] = nn.BatchNorm2d(out_channels)
    if relu:
        layers["relu"] = nn.ReLU(inplace=True)
    return nn.Sequential(layers)


def narrowed(width: int, narrow: int) -> int:
    """Channels of a layer whose width is divided. Raises ValueError where that leaves a rest."""
    if narrow < 1 or width % narrow:
        raise ValueError("narrow is %r; expected a divisor of %d" % (narrow, width))
    return width // narrow


def initialise_msra(network: nn.Module) -> None:
    """He's normal initialisation of every convolution, as in the prototxts."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _stages(
    in_channels: int, plan: Sequence[Sequence[int]], narrow: int
) -> Tuple[nn.ModuleList, int]:
    stages = []
    for widths in plan:
        layers = []
        for width in widths:
            layers.append(conv_norm(in_channels, narrowed(width, narrow), 3))
            in_channels = narrowed(width, narrow)
        stages.append(nn.Sequential(*layers))
    return nn.ModuleList(stages), in_channels
