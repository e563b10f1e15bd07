"""ELU-SqueezeNet: SqueezeNet 1.1 trunk with ELUs, dilated convolutions, refinement decoder.

Source: Treml et al. 2016, "Speeding up Semantic Segmentation for Autonomous Driving"; the trunk
is SqueezeNet 1.1 (Iandola et al. 2016); the refinement follows SharpMask (Pinheiro et al. 2016).
Dilation rates and channel counts are not in the paper's text; the ones here give its published
size and times (1.25 M parameters at 19 classes, 3.06 GMAC at 480x320).
"""

from typing import Sequence, Tuple

import torch
from torch import nn

from segmentation_node.networks.padding import crop_to, pad_to_stride

# (squeeze, expand 1x1, expand 3x3) of SqueezeNet 1.1, grouped by the pool that ends each group.
FIRES_AT_4 = ((16, 64, 64), (16, 64, 64))
FIRES_AT_8 = ((32, 128, 128), (32, 128, 128))
FIRES_AT_16 = ((48, 192, 192), (48, 192, 192), (64, 256, 256), (64, 256, 256))


class Fire(nn.Module):
    """Squeeze 1x1, then expand 1x1 beside 3x3: (N, in, H, W) -> (N, expand1 + expand3, H, W)."""

    def __init__(self, in_channels: int, squeeze: int, expand1: int, expand3: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1)
        self.expand1 = nn.Conv2d(squeeze, expand1, 1)
        self.expand3 = nn.Conv2d(squeeze, expand3, 3, padding=1)
        self.activation = nn.ELU()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        squeezed = self.activation(self.squeeze(features))
        expanded = torch.cat((self.expand1(squeezed), self.expand3(squeezed)), dim=1)
        return self.activation(expanded)


class Refinement(nn.Module):
    """Join a bypass with the upsampled class stream at the bypass's resolution.

    Bypass (N, C, H, W) and stream (N, classes, H, W) -> (N, classes, H, W).
    """

    def __init__(self, bypass_channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.bypass = nn.Conv2d(bypass_channels, width, 3, padding=1)
        self.merge = nn.Conv2d(width + classes, classes, 3, padding=1)
        self.activation = nn.ELU()

    def forward(self, bypass: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        detail = self.activation(self.bypass(bypass))
        return self.activation(self.merge(torch.cat((detail, stream), dim=1)))


class EluSqueezeNet(nn.Module):
    """Logits (N, classes, H, W) from a normalised image (N, 3, H, W) of any size.

    1.25 M parameters at 19 classes; 3.06 / 4.61 / 18.4 GMAC at 480x320 / 640x360 / 1280x720.

    Args:
        classes: number of output classes.
        dilations: rates of the parallel 3x3 convolutions whose outputs are summed.
        bypass_width: channels of each bypass convolution.
    """

    stride = 16

    def __init__(
        self,
        classes: int,
        dilations: Sequence[int] = (1, 2, 4, 8),
        bypass_width: int = 32,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), nn.ELU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fires_at_4, channels_at_4 = _fires(64, FIRES_AT_4)
        self.fires_at_8, channels_at_8 = _fires(channels_at_4, FIRES_AT_8)
        self.fires_at_16, channels_at_16 = _fires(channels_at_8, FIRES_AT_16)
        # One bias for the sum: a bias in each summand would be the same parameter four times.
        self.context = nn.ModuleList(
            nn.Conv2d(channels_at_16, classes, 3, padding=rate, dilation=rate, bias=index == 0)
            for index, rate in enumerate(dilations)
        )
        self.activation = nn.ELU()
        self.up_to_8, self.refine_at_8 = (
            _up(classes),
            Refinement(channels_at_8, classes, bypass_width),
        )
        self.up_to_4, self.refine_at_4 = (
            _up(classes),
            Refinement(channels_at_4, classes, bypass_width),
        )
        self.up_to_2, self.refine_at_2 = _up(classes), Refinement(64, classes, bypass_width)
        self.up_to_1 = _up(classes)
        self._initialise()

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        padded = pad_to_stride(image_nchw, self.stride)
        at_2 = self.stem(padded)
        at_4 = self.fires_at_4(self.pool(at_2))
        at_8 = self.fires_at_8(self.pool(at_4))
        at_16 = self.fires_at_16(self.pool(at_8))
        stream = self.activation(_summed(self.context, at_16))
        stream = self.refine_at_8(at_8, self.up_to_8(stream))
        stream = self.refine_at_4(at_4, self.up_to_4(stream))
        stream = self.refine_at_2(at_2, self.up_to_2(stream))
        return crop_to(self.up_to_1(stream), image_nchw)

    def _initialise(self) -> None:
        """MSRA initialisation as in the paper; bilinear transposed convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                _initialise_bilinear(module.weight)
        for branch in self.context:
            branch.weight.data /= len(self.context) ** 0.5


def _fires(in_channels: int, plan: Sequence[Tuple[int, int, int]]) -> Tuple[nn.Sequential, int]:
    fires = []
    for squeeze, expand1, expand3 in plan:
        fires.append(Fire(in_channels, squeeze, expand1, expand3))
        in_channels = expand1 + expand3
    return nn.Sequential(*fires), in_channels


def _up(classes: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(classes, classes, 4, stride=2, padding=1, bias=False)


def _summed(branches: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    total = branches[0](features)
    for branch in list(branches)[1:]:
        total = total + branch(features)
    return total


def _initialise_bilinear(weight: torch.Tensor) -> None:
    """Make a (C, C, 4, 4) stride-2 transposed convolution start as bilinear upsampling."""
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        weight.zero_()
        for channel in range(weight.shape[0]):
            weight[channel, channel] = taps[:, None] * taps[None, :]
