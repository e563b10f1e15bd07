"""An ELU-SqueezeNet that spends its time where it helps: residual fires, a light decoder.

Made from Treml et al. 2016, "Speeding up Semantic Segmentation for Autonomous Driving" (fire
modules with ELUs, parallel dilated convolutions, refinement with bypasses), with what its authors
left open (residual fire modules, dilation), with batch norm, and by where a profile of it shows the
time on a CPU:

* Two thirds of the paper network's multiply-adds are in its decoder, most of them at half size:
  here the decoder ends at a quarter, and bypasses are 1x1 convolutions that are added.
* Transposed convolutions over all classes at full size become one bilinear resize.
* Few channels are left at half and at a quarter of the size; the fires work at an eighth, with
  rising dilation, and at a sixteenth.
* What padding added is cut away before the last resize, not after it.
* An ELU behind a max-pool in place of before it: the same values, a quarter of the exponentials.
"""

from functools import partial
from typing import List, Sequence, Type

import torch
from torch import nn
from torch.nn import functional

from segmentation_node.networks.elu_squeezenet import Fire
from segmentation_node.networks.folding import fold_into_summed
from segmentation_node.networks.padding import crop_to, pad_to_stride


class FastEluSqueezeNet(nn.Module):
    """Logits (N, classes, H, W) from a normalised image (N, 3, H, W) of any size.

    0.885 M parameters at 11 classes; 1.58 GMAC at 640x360.

    Args:
        classes: number of output classes.
        widths: channels at strides 2, 4, 8 and 16.
        dilations_at_8: one fire each at stride 8, of that rate.
        fires_at_16: number of fires at stride 16.
        context_width: channels that the parallel dilated convolutions see.
        context_dilations: their rates; their outputs are summed.
        decoder_widths: channels of the decoder at strides 8 and 4.
        squeeze: a fire squeezes to its width divided by this.
        residual: add a fire's input to its output where both have as many channels.

    With widths (64, 128, 256, 384), two fires at each stride, ``squeeze`` 8 and no ``residual`` its
    trunk is the one of SqueezeNet 1.1 but for that one's last two fires.
    """

    stride = 16
    activation_type: Type[nn.Module] = nn.ELU

    def __init__(
        self,
        classes: int,
        widths: Sequence[int] = (32, 64, 128, 256),
        dilations_at_8: Sequence[int] = (1, 1, 2, 4),
        fires_at_16: int = 4,
        context_width: int = 128,
        context_dilations: Sequence[int] = (1, 2, 4, 8),
        decoder_widths: Sequence[int] = (64, 32),
        squeeze: int = 4,
        residual: bool = True,
    ) -> None:
        super().__init__()
        activation = self.activation_type
        fires = partial(_fires, squeeze=squeeze, residual=residual, activation=activation)
        at_2, at_4, at_8, at_16 = widths
        decoded_at_8, decoded_at_4 = decoder_widths
        self.activation = activation()
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.stem = _conv(3, at_2, 3, stride=2)
        self.fires_at_4 = fires(at_2, at_4, (1, 1))
        self.fires_at_8 = fires(at_4, at_8, dilations_at_8)
        self.fires_at_16 = fires(at_8, at_16, (1,) * fires_at_16)
        self.squeeze = _conv(at_16, context_width, 1)
        self.context = nn.ModuleList(
            nn.Conv2d(context_width, decoded_at_8, 3, padding=rate, dilation=rate, bias=False)
            for rate in context_dilations
        )
        self.context_norm: nn.Module = nn.BatchNorm2d(decoded_at_8)
        self.refine_at_8 = Refinement(at_8, decoded_at_8, activation)
        self.narrow = _conv(decoded_at_8, decoded_at_4, 1)
        self.refine_at_4 = Refinement(at_4, decoded_at_4, activation)
        self.classifier = nn.Conv2d(decoded_at_4, classes, 1)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        padded = pad_to_stride(image_nchw, self.stride)
        # An ELU rises, so it may follow the maximum: a quarter as many exponentials.
        at_4 = self.fires_at_4(self.activation(self.pool(self.stem(padded))))
        at_8 = self.fires_at_8(self.pool(at_4))
        squeezed = self.activation(self.squeeze(self.fires_at_16(self.pool(at_8))))
        context = torch.stack([branch(squeezed) for branch in self.context]).sum(dim=0)
        stream = self.activation(self.context_norm(context))
        stream = self.refine_at_8(at_8, _enlarged(stream, 2))
        stream = self.refine_at_4(at_4, _enlarged(self.narrow(stream), 2))
        logits = _cut(self.classifier(stream), image_nchw, 4)
        return crop_to(_enlarged(logits, 4), image_nchw)

    def fold_batch_norms(self) -> None:
        """Called by ``folding``."""
        self.context_norm = fold_into_summed(self.context, self.context_norm)


class Refinement(nn.Module):
    """Add a 1x1-convolved bypass (N, C, H, W) to the stream (N, S, H, W), then convolve 3x3."""

    def __init__(
        self, bypass_channels: int, stream_channels: int, activation: Type[nn.Module]
    ) -> None:
        super().__init__()
        self.bypass = _conv(bypass_channels, stream_channels, 1)
        self.merge = _conv(stream_channels, stream_channels, 3)
        self.activation = activation()

    def forward(self, bypass: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        return self.activation(self.merge(self.activation(stream + self.bypass(bypass))))


def _fires(
    in_channels: int,
    width: int,
    dilations: Sequence[int],
    squeeze: int,
    residual: bool,
    activation: Type[nn.Module],
) -> nn.Sequential:
    fires: List[Fire] = []
    for rate in dilations:
        half = width // 2
        widths = (in_channels, width // squeeze, half, half)
        fires.append(
            Fire(*widths, rate, residual, batch_norm=True, bias=False, activation=activation)
        )
        in_channels = width
    return nn.Sequential(*fires)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _cut(logits_nchw: torch.Tensor, image_nchw: torch.Tensor, stride: int) -> torch.Tensor:
    """Leave out what only padding rows and columns of the image would show."""
    rows = -(-int(image_nchw.shape[2]) // stride)
    columns = -(-int(image_nchw.shape[3]) // stride)
    return logits_nchw[:, :, :rows, :columns]


def _enlarged(features: torch.Tensor, factor: int) -> torch.Tensor:
    return functional.interpolate(
        features, scale_factor=factor, mode="bilinear", align_corners=False
    )
