"""ENet: bottlenecks at an eighth of the size, a small decoder, unpooling by max-pool indices.

Source: Paszke et al. 2016, "ENet: A Deep Neural Network Architecture for Real-Time Semantic
Segmentation"; layers, dropout and batch norm as in the authors' Lua code (e-lab/ENet-training),
whose encoder has PReLUs and whose decoder has ReLUs.
"""

from typing import Callable, List, Tuple

import torch
from torch import nn
from torch.nn import functional

from segmentation_node.networks.padding import crop_to, pad_to_stride
from segmentation_node.networks.unpool import Unpool, max_pool

Activation = Callable[[int], nn.Module]
NORM_EPSILON = 1e-3
# Dropout of whole channels: little in the first five bottlenecks.
EARLY_DROPOUT, LATE_DROPOUT = 0.01, 0.1


class Initial(nn.Module):
    """13 convolved channels beside the 3 pooled ones: (N, 3, H, W) -> (N, 16, H / 2, W / 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 13, 3, stride=2, padding=1)
        self.norm = _norm(16)
        self.activation = nn.PReLU(16)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        pooled = functional.max_pool2d(image_nchw, 2)
        return self.activation(self.norm(torch.cat((self.conv(image_nchw), pooled), dim=1)))


class Bottleneck(nn.Module):
    """1x1 to a quarter, ``middle``, 1x1 back, added to the input: (N, C, H, W), unchanged."""

    def __init__(
        self, channels: int, middle: nn.Module, activation: Activation, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.branch = _branch(
            nn.Conv2d(channels, channels // 4, 1, bias=False), middle, channels, activation, dropout
        )
        self.activation = activation(channels)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.activation(features + self.branch(features))


class Down(nn.Module):
    """Halves the size beside a max-pooling, and says how to undo that.

    (N, in, H, W) -> (N, out, H / 2, W / 2) and the unpooling.
    """

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        inner = out_channels // 4
        reduce = nn.Conv2d(in_channels, inner, 2, stride=2, bias=False)
        self.branch = _branch(reduce, _regular(inner), out_channels, nn.PReLU, dropout)
        self.activation = nn.PReLU(out_channels)

    def forward(self, features: torch.Tensor) -> Tuple[torch.Tensor, Unpool]:
        pooled, unpool = max_pool(features)
        branch = self.branch(features)
        # The pooled channels count as zero where the branch has more: those pass as they are.
        shared = int(pooled.shape[1])
        total = torch.cat((pooled + branch[:, :shared], branch[:, shared:]), dim=1)
        return self.activation(total), unpool


class Up(nn.Module):
    """Doubles the size: transposed convolution beside an unpooling.

    (N, in, H, W) -> (N, out, 2 H, 2 W).
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = out_channels // 4
        widen = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, output_padding=1)
        reduce = nn.Conv2d(in_channels, inner, 1, bias=False)
        self.branch = _branch(reduce, widen, out_channels, _relu, 0.0)
        self.shortcut = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, bias=False), _norm(out_channels)
        )
        self.activation = nn.ReLU()

    def forward(self, features: torch.Tensor, unpool: Unpool) -> torch.Tensor:
        return self.activation(unpool(self.shortcut(features)) + self.branch(features))


class ENet(nn.Module):
    """Logits (N, classes, H, W) from a normalised image (N, 3, H, W) of any size.

    0.364 M parameters; 1.72 GMAC at 640x360, 1.29 at 480x360 (19 classes).

    Args:
        classes: number of output classes.
    """

    stride = 8

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.initial = Initial()
        self.down_to_4 = Down(16, 64, EARLY_DROPOUT)
        self.at_4 = nn.Sequential(
            *(Bottleneck(64, _regular(16), nn.PReLU, EARLY_DROPOUT) for _ in range(4))
        )
        self.down_to_8 = Down(64, 128, LATE_DROPOUT)
        self.at_8 = nn.Sequential(
            *(Bottleneck(128, middle, nn.PReLU, LATE_DROPOUT) for middle in _middles(32))
        )
        self.up_to_4 = Up(128, 64)
        self.decode_at_4 = nn.Sequential(*(Bottleneck(64, _regular(16), _relu) for _ in range(2)))
        self.up_to_2 = Up(64, 16)
        self.decode_at_2 = Bottleneck(16, _regular(4), _relu)
        self.classifier = nn.ConvTranspose2d(16, classes, 2, stride=2)

    def forward(self, image_nchw: torch.Tensor) -> torch.Tensor:
        at_2 = self.initial(pad_to_stride(image_nchw, self.stride))
        at_4, unpool_to_2 = self.down_to_4(at_2)
        at_8, unpool_to_4 = self.down_to_8(self.at_4(at_4))
        decoded_at_4 = self.decode_at_4(self.up_to_4(self.at_8(at_8), unpool_to_4))
        decoded_at_2 = self.decode_at_2(self.up_to_2(decoded_at_4, unpool_to_2))
        return crop_to(self.classifier(decoded_at_2), image_nchw)


def _branch(
    reduce: nn.Module, middle: nn.Module, channels: int, activation: Activation, dropout: float
) -> nn.Sequential:
    inner = channels // 4
    layers = [reduce, _norm(inner), activation(inner), middle, _norm(inner), activation(inner)]
    layers += [nn.Conv2d(inner, channels, 1, bias=False), _norm(channels)]
    if dropout:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


def _middles(inner: int) -> List[nn.Module]:
    """The middles of the bottlenecks at an eighth: the same eight, twice."""
    middles: List[nn.Module] = []
    for _ in range(2):
        middles += [_regular(inner), _regular(inner, 2), _asymmetric(inner), _regular(inner, 4)]
        middles += [_regular(inner), _regular(inner, 8), _asymmetric(inner), _regular(inner, 16)]
    return middles


def _regular(channels: int, dilation: int = 1) -> nn.Module:
    return nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)


def _asymmetric(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, (1, 5), padding=(0, 2), bias=False),
        nn.Conv2d(channels, channels, (5, 1), padding=(2, 0)),
    )


def _norm(channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels, eps=NORM_EPSILON)


def _relu(channels: int) -> nn.Module:
    return nn.ReLU()
