"""A wide network that starts as a narrow one's function: most of the training is the narrow one's.

Source: Chen, Goodfellow and Shlens 2016, "Net2Net: Accelerating Learning via Knowledge Transfer"
(Net2WiderNet): channels are repeated, and what reads them shares its weights out among the copies.
The paper breaks the copies' symmetry with noise; here unequal shares do, which changes no output.
"""

from collections.abc import Collection, Mapping

import torch
from torch import nn

SHARE_SPREAD = 0.5
"""How far a copy's share may lie from the equal one, as a part of it."""
WIDENED = (nn.Conv2d, nn.BatchNorm2d)


def widened(
    network: nn.Module, tensors: Mapping[str, torch.Tensor], left: Collection[str] = ()
) -> dict[str, torch.Tensor]:
    """Weights for ``network`` that give the outputs of the narrower one that ``tensors`` are of.

    Every channel is repeated side by side, so pooling indices and concatenations keep their
    meaning. Tensors of ``left`` stay as they are. Random shares come from torch's generator. Raises
    ValueError, one line, where a layer is not a whole factor wider, or of a kind that this is not
    written for.
    """
    wide = dict(tensors)
    for name, module in network.named_modules():
        for kind, own in _own_tensors(module).items():
            key = f"{name}.{kind}".lstrip(".")
            if own.shape != tensors[key].shape and key not in left:
                _check(key, module, own, tensors[key])
                wide[key] = _repeated(tensors[key], own.shape)
    return wide


def _own_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        **dict(module.named_parameters(recurse=False)),
        **dict(module.named_buffers(recurse=False)),
    }


def _repeated(narrow: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Outputs (dimension 0) repeated, inputs (dimension 1 of a convolution's weight) shared out."""
    outputs = narrow.repeat_interleave(shape[0] // narrow.shape[0], dim=0)
    if narrow.dim() == 1:
        return outputs
    copies = shape[1] // narrow.shape[1]
    share = 1 + SHARE_SPREAD * (2 * torch.rand(*outputs.shape[:2], copies, 1, 1) - 1)
    share /= share.sum(dim=2, keepdim=True)
    return (outputs.unsqueeze(2) * share).reshape(shape)


def _check(key: str, module: nn.Module, own: torch.Tensor, narrow: torch.Tensor) -> None:
    expected, found = tuple(own.shape), tuple(narrow.shape)
    if not isinstance(module, WIDENED) or getattr(module, "groups", 1) != 1:
        raise ValueError(
            f"{key} is {found} for {expected}, and a {type(module).__name__} is not widened; "
            "ungrouped convolutions and batch norms are"
        )
    same_rank = len(expected) == len(found)
    if not same_rank or expected[2:] != found[2:] or any(a % b for a, b in zip(expected, found)):
        raise ValueError(f"{key} is {found}, which no whole factor widens to {expected}")
