"""Batch norms put into the convolutions before them: less to compute, and safe in half precision.

A batch norm's statistics need not fit half precision; the folded weights do.
"""

from typing import Any, Dict, Iterable, Iterator, List, Sequence, Tuple

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module) -> nn.Module:
    """Put batch norms into the convolutions whose outputs they take, in place.

    Found by itself where one follows a convolution in a Sequential; a module in which that is not
    so says it in a method ``fold_batch_norms``. The network has to be in evaluation mode; what it
    computes stays the same but for rounding.
    """
    for module in list(network.modules()):
        if isinstance(module, nn.Sequential):
            _fold_sequence(module)
            continue
        own_way: Any = getattr(module, "fold_batch_norms", None)
        if own_way is not None:
            own_way()
    return network


def load_folded_or_not(network: nn.Module, weights: Dict[str, torch.Tensor]) -> None:
    """Give a network, in evaluation mode, its weights, in place.

    Where their batch norms were folded, so are the network's first. Raises RuntimeError where they
    are another network's.
    """
    variances = [name for name in network.state_dict() if name.endswith("running_var")]
    if not all(name in weights for name in variances):
        fold_batch_norms(network)
    network.load_state_dict(weights)


def fold_into_joined(convolutions: Sequence[nn.Conv2d], norm: nn.Module) -> nn.Module:
    """Put a norm into the convolutions whose outputs are concatenated; gives what replaces it.

    A norm that is no batch norm is left as it is.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    scale, shift = _scale_and_shift(norm)
    widths = [convolution.out_channels for convolution in convolutions]
    for convolution, factor, rest in zip(convolutions, scale.split(widths), shift.split(widths)):
        _rescale(convolution, factor, rest)
    return nn.Identity()


def fold_into_summed(convolutions: Iterable[Any], norm: nn.Module) -> nn.Module:
    """The same for convolutions whose outputs are added: the first one takes the shift."""
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    scale, shift = _scale_and_shift(norm)
    for convolution in convolutions:
        _rescale(convolution, scale, shift)
        shift = torch.zeros_like(shift)
    return nn.Identity()


def _scale_and_shift(norm: nn.BatchNorm2d) -> Tuple[torch.Tensor, torch.Tensor]:
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    scale = norm.weight.detach() / (variance + norm.eps).sqrt()
    return scale, norm.bias.detach() - mean * scale


def _rescale(convolution: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    """Make a convolution give ``scale`` times what it gave, plus ``shift``: (out,) each."""
    weight = convolution.weight.detach() * scale.view(-1, 1, 1, 1)
    bias = shift if convolution.bias is None else convolution.bias.detach() * scale + shift
    convolution.weight = nn.Parameter(weight)
    convolution.bias = nn.Parameter(bias.clone())


def _fold_sequence(sequence: nn.Sequential) -> None:
    leaves: List[Tuple[nn.Module, str, nn.Module]] = list(_leaves(sequence))
    for (owner, name, conv), (norm_owner, norm_name, norm) in zip(leaves, leaves[1:]):
        is_transposed = isinstance(conv, nn.ConvTranspose2d)
        if isinstance(norm, nn.BatchNorm2d) and isinstance(conv, (nn.Conv2d, nn.ConvTranspose2d)):
            setattr(owner, name, fuse_conv_bn_eval(conv, norm, is_transposed))
            setattr(norm_owner, norm_name, nn.Identity())


def _leaves(sequential: nn.Sequential) -> Iterator[Tuple[nn.Module, str, nn.Module]]:
    """Owner, name and module of everything that runs in it, in order."""
    for name, child in sequential.named_children():
        if isinstance(child, nn.Sequential):
            yield from _leaves(child)
        else:
            yield sequential, name, child
