"""SegNet-Basic: four 7x7 convolutions down, four up, unpooling by max-pool indices.

Source: Badrinarayanan, Kendall and Cipolla 2017; layers as in the authors'
segnet_basic_train.prototxt.
"""

import torch
from torch import nn

from segmentation_node.networks.segnet import conv_norm, down_and_up, initialise_msra, narrowed

WIDTH = 64
STAGES = 4
# Caffe's LRN(local_size=5, alpha=1e-4, beta=0.75): alpha is divided by the local size.
LRN_SCALE = (1e-4 / 5) ** 0.5
LRN_POWER = -0.75


class SegNetBasic(nn.Module):
    """Logits (N, classes, H, W) from an image (N, 3, H, W) of any size.

    1.417 M parameters at 11 classes; 59.2 GMAC at 480x360. Odd sizes as in SegNet.

    The prototxt feeds raw pixels (0-255; mean 0 and std 1 in a recipe) to the local response
    normalisation, where it evens out brightness; on a normalised image it changes next to nothing.

    Args:
        classes: number of output classes.
        narrow: as SegNet's.
    """

    def __init__(self, classes: int, narrow: int = 1) -> None:
        super().__init__()
        width = narrowed(WIDTH, narrow)
        self.encoder = nn.ModuleList(
            conv_norm(width if stage else 3, width, 7) for stage in range(STAGES)
        )
        self.decoder = nn.ModuleList(conv_norm(width, width, 7, relu=False) for _ in range(STAGES))
        self.classifier = nn.Conv2d(width, classes, 1)
        initialise_msra(self)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        normalised = local_response_norm(image_nchw)
        return self.classifier(down_and_up(normalised, self.encoder, self.decoder))


def local_response_norm(image_nchw: torch.Tensor) -> torch.Tensor:
    """LRN over 5 channels of an image that has 3, so that every window holds all of them."""
    # Scaled before it is squared: 255 * 255 is as large as half precision gets.
    energy = (image_nchw * LRN_SCALE).pow(2).sum(dim=1, keepdim=True)
    return image_nchw * (1.0 + energy).pow(LRN_POWER)
