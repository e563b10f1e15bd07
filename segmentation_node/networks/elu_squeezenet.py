"""ELU-SqueezeNet: SqueezeNet 1.1 trunk with ELUs, dilated convolutions, refinement decoder.

Source: Treml et al. 2016, "Speeding up Semantic Segmentation for Autonomous Driving"; the trunk
is SqueezeNet 1.1 (Iandola et al. 2016); the refinement follows SharpMask (Pinheiro et al. 2016).
Dilation rates and channel counts are not in the paper's text. The bypasses' 32 channels, kernels,
and the bilinear start of the transposed convolutions are those of its first author's later code
(mtreml/squeezenet); the rest was chosen so that the multiply-adds fit the paper's times. Ideas that
the authors left open, and batch norm, are options, all off by default.
"""

from functools import partial
from typing import Dict, Sequence, Tuple, Type

import torch
from torch import nn

from segmentation_node.networks.folding import fold_into_joined, fold_into_summed
from segmentation_node.networks.padding import crop_to, pad_to_stride

# (squeeze, expand 1x1, expand 3x3) of SqueezeNet 1.1, grouped by the pool that ends each group.
FIRES_AT_4 = ((16, 64, 64), (16, 64, 64))
FIRES_AT_8 = ((32, 128, 128), (32, 128, 128))
FIRES_AT_16 = ((48, 192, 192), (48, 192, 192), (64, 256, 256), (64, 256, 256))


class Fire(nn.Module):
    """Squeeze 1x1, then expand 1x1 beside 3x3: (N, in, H, W) -> (N, expand1 + expand3, H, W).

    ``residual`` adds the input before the last activation where it has as many channels.
    """

    def __init__(
        self,
        in_channels: int,
        squeeze: int,
        expand1: int,
        expand3: int,
        dilation: int = 1,
        residual: bool = False,
        batch_norm: bool = False,
        bias: bool = True,
        activation: Type[nn.Module] = nn.ELU,
    ) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeeze, 1, bias=bias)
        self.expand1 = nn.Conv2d(squeeze, expand1, 1, bias=bias)
        self.expand3 = nn.Conv2d(squeeze, expand3, 3, 1, dilation, dilation, bias=bias)
        self.squeeze_norm = _norm(squeeze, batch_norm)
        self.expand_norm = _norm(expand1 + expand3, batch_norm)
        self.is_residual = residual and in_channels == expand1 + expand3
        self.activation = activation()

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        squeezed = self.activation(self.squeeze_norm(self.squeeze(features)))
        expanded = torch.cat((self.expand1(squeezed), self.expand3(squeezed)), dim=1)
        expanded = self.expand_norm(expanded)
        if self.is_residual:
            expanded = expanded + features
        return self.activation(expanded)

    def fold_batch_norms(self) -> None:
        """Called by ``folding``."""
        self.squeeze_norm = fold_into_joined([self.squeeze], self.squeeze_norm)
        self.expand_norm = fold_into_joined([self.expand1, self.expand3], self.expand_norm)


class Refinement(nn.Module):
    """Join a bypass with the upsampled stream at the bypass's resolution.

    Bypass (N, C, H, W) and stream (N, S, H, W) -> (N, S, H, W); S is the number of classes unless
    the decoder is wider.
    """

    def __init__(
        self, bypass_channels: int, stream_channels: int, width: int, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.bypass = nn.Conv2d(bypass_channels, width, 3, padding=1)
        self.merge = nn.Conv2d(width + stream_channels, stream_channels, 3, padding=1)
        self.bypass_norm = _norm(width, batch_norm)
        self.merge_norm = _norm(stream_channels, batch_norm)
        self.activation = nn.ELU()

    def forward(self, bypass: torch.Tensor, stream: torch.Tensor) -> torch.Tensor:
        detail = self.activation(self.bypass_norm(self.bypass(bypass)))
        merged = self.merge(torch.cat((detail, stream), dim=1))
        return self.activation(self.merge_norm(merged))

    def fold_batch_norms(self) -> None:
        """Called by ``folding``."""
        self.bypass_norm = fold_into_joined([self.bypass], self.bypass_norm)
        self.merge_norm = fold_into_joined([self.merge], self.merge_norm)


class EluSqueezeNet(nn.Module):
    """Logits (N, classes, H, W) from a normalised image (N, 3, H, W) of any size.

    1.25 M parameters at 19 classes; 3.06 / 4.69 / 18.4 GMAC at 480x320 / 640x360 / 1280x720.

    Args:
        classes: number of output classes.
        dilations: rates of the parallel 3x3 convolutions whose outputs are summed.
        bypass_width: channels of each bypass convolution.
        residual: add a fire module's input to its output where both have as many channels.
        decoder_widths: channels of the stream and of the bypasses at strides 16, 8, 4 and 2, in
            place of the classes and ``bypass_width``. (128, 64, 32, 16): 3.55 M parameters,
            4.3 / 6.6 / 25.9 GMAC.
        batch_norm: batch norm before every ELU.
        dilate_last: dilation 2 in place of the last pool. The trunk ends at stride 8, the rates of
            ``dilations`` double, and ``decoder_widths`` has three values, for 8, 4 and 2.
        decoder_batch_norm: batch norm before the decoder's ELUs alone: it brings what a pre-trained
            trunk gives to the decoder's scale and leaves the trunk as it came.
    """

    def __init__(
        self,
        classes: int,
        dilations: Sequence[int] = (1, 2, 4, 8),
        bypass_width: int = 32,
        residual: bool = False,
        decoder_widths: Sequence[int] = (),
        batch_norm: bool = False,
        dilate_last: bool = False,
        decoder_batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.stride = 8 if dilate_last else 16
        widths = _stream_widths(classes, decoder_widths, 3 if dilate_last else 4)
        last_rate = 2 if dilate_last else 1
        fires = partial(_fires, residual=residual, batch_norm=batch_norm)
        norms = [_norm(64, batch_norm)] if batch_norm else []
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, stride=2, padding=1), *norms, nn.ELU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.fires_at_4, channels_at_4 = fires(64, FIRES_AT_4)
        self.fires_at_8, channels_at_8 = fires(channels_at_4, FIRES_AT_8)
        self.fires_at_16, channels_at_16 = fires(channels_at_8, FIRES_AT_16, dilation=last_rate)
        # One bias for the sum: a bias in each summand would be the same parameter four times.
        self.context = nn.ModuleList(
            _dilated(channels_at_16, widths[0], rate * last_rate, bias=index == 0)
            for index, rate in enumerate(dilations)
        )
        normalise_decoder = batch_norm or decoder_batch_norm
        self.context_norm = _norm(widths[0], normalise_decoder)
        self.activation = nn.ELU()

        def refinement(bypass_channels: int, stream_channels: int) -> Refinement:
            width = stream_channels if decoder_widths else bypass_width
            return Refinement(bypass_channels, stream_channels, width, normalise_decoder)

        if not dilate_last:
            self.up_to_8 = _up(widths[-4], widths[-3])
            self.refine_at_8 = refinement(channels_at_8, widths[-3])
        self.up_to_4 = _up(widths[-3], widths[-2])
        self.refine_at_4 = refinement(channels_at_4, widths[-2])
        self.up_to_2 = _up(widths[-2], widths[-1])
        self.refine_at_2 = refinement(64, widths[-1])
        self.up_to_1 = _up(widths[-1], classes)
        self._initialise()

    @property
    def stage_channels(self) -> Dict[int, int]:
        """Channels of the encoder's stages, by stride."""
        last = FIRES_AT_16[-1][1] + FIRES_AT_16[-1][2]
        at_8 = FIRES_AT_8[-1][1] + FIRES_AT_8[-1][2]
        at_4 = FIRES_AT_4[-1][1] + FIRES_AT_4[-1][2]
        return {4: at_4, 8: last} if self.stride == 8 else {4: at_4, 8: at_8, 16: last}

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        return self.with_stages(image_nchw)[0]

    def with_stages(self, image_nchw: torch.Tensor) -> Tuple[torch.Tensor, Dict[int, torch.Tensor]]:
        """Logits, and the encoder's stages (N, C, H / stride, W / stride), of the padded image."""
        padded = pad_to_stride(image_nchw, self.stride)
        at_2 = self.stem(padded)
        at_4 = self.fires_at_4(self.pool(at_2))
        at_8 = self.fires_at_8(self.pool(at_4))
        last = self.fires_at_16(at_8 if self.stride == 8 else self.pool(at_8))
        stream = self.activation(self.context_norm(_summed(self.context, last)))
        if self.stride == 16:
            stream = self.refine_at_8(at_8, self.up_to_8(stream))
        stream = self.refine_at_4(at_4, self.up_to_4(stream))
        stream = self.refine_at_2(at_2, self.up_to_2(stream))
        stages = {4: at_4, 8: at_8, self.stride: last}
        return crop_to(self.up_to_1(stream), image_nchw), stages

    def fold_batch_norms(self) -> None:
        """Called by ``folding``."""
        self.context_norm = fold_into_summed(self.context, self.context_norm)

    def _initialise(self) -> None:
        """MSRA initialisation as in the paper; bilinear transposed convolutions."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.ConvTranspose2d):
                _initialise_up(module.weight)
        for branch in self.context:
            branch.weight.data /= len(self.context) ** 0.5


def _fires(
    in_channels: int,
    plan: Sequence[Tuple[int, int, int]],
    residual: bool,
    batch_norm: bool,
    dilation: int = 1,
) -> Tuple[nn.Sequential, int]:
    fires = []
    for squeeze, expand1, expand3 in plan:
        fires.append(Fire(in_channels, squeeze, expand1, expand3, dilation, residual, batch_norm))
        in_channels = expand1 + expand3
    return nn.Sequential(*fires), in_channels


def _stream_widths(classes: int, decoder_widths: Sequence[int], stages: int) -> Sequence[int]:
    """Channels of the stream at each stride, the coarsest first."""
    if not decoder_widths:
        return (classes,) * stages
    if len(decoder_widths) != stages:
        raise ValueError(
            "decoder_widths has %d values; expected %d" % (len(decoder_widths), stages)
        )
    return decoder_widths


def _dilated(in_channels: int, out_channels: int, rate: int, bias: bool) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=rate, dilation=rate, bias=bias)


def _norm(channels: int, batch_norm: bool) -> nn.Module:
    return nn.BatchNorm2d(channels) if batch_norm else nn.Identity()


def _up(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 4, stride=2, padding=1, bias=False)


def _summed(branches: nn.ModuleList, features: torch.Tensor) -> torch.Tensor:
    total = branches[0](features)
    for branch in list(branches)[1:]:
        total = total + branch(features)
    return total


def _initialise_up(weight: torch.Tensor) -> None:
    """Make a (C, D, 4, 4) stride-2 transposed convolution start as bilinear upsampling.

    Where C and D differ there is nothing to upsample as it is: MSRA then; 4 taps of each input
    channel reach an output.
    """
    taps = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        if weight.shape[0] != weight.shape[1]:
            weight.normal_(0.0, (2.0 / (4 * weight.shape[0])) ** 0.5)
            return
        weight.zero_()
        for channel in range(weight.shape[0]):
            weight[channel, channel] = taps[:, None] * taps[None, :]
