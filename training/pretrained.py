"""Pre-trained trunks in a local file; nothing is downloaded.

They come in torchvision's naming: SegNet takes VGG-16 (``vgg16`` or ``vgg16_bn``), ELU-SqueezeNet
takes SqueezeNet 1.1, and the improved variant as many of that one's fires as it has. Those weights
expect images normalised by ImageNet's mean and standard deviation, the recipes' default.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import nn

from segmentation_node.errors import reason
from segmentation_node.networks import NETWORKS

# Index in torchvision's `features` of the convolutions, by SegNet's encoder stage and layer. In
# vgg16_bn each is followed by its batch norm.
VGG16 = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
VGG16_BN = ((0, 3), (7, 10), (14, 17, 20), (24, 27, 30), (34, 37, 40))
# Index in `features` of the fire modules, by ELU-SqueezeNet's group of them.
SQUEEZENET_FIRES = {"fires_at_4": (3, 4), "fires_at_8": (6, 7), "fires_at_16": (9, 10, 11, 12)}
FIRE_PARTS = {"squeeze": "squeeze", "expand1": "expand1x1", "expand3": "expand3x3"}
CONVOLUTION = ("weight", "bias")
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")
WEIGHTS_FORMATS = "a file of safetensors, or what torch.save made of a state dict"


@dataclass(frozen=True, kw_only=True)
class TrunkReport:
    """What a file gave to a network; names as in the file and as in the network."""

    trunk: str
    """Torchvision's name of the network in the file."""
    matched: dict[str, str]
    """The network's tensor -> the file's tensor that it got."""
    unused: list[str]
    """Tensors of the file that the network has no place for."""
    fresh: list[str]
    """Tensors of the network that stay as they were."""
    norms: list[str]
    """Batch norms that stand where the file's network has none: in eval mode they add a bias and
    nothing else, and training needs ``scoring.measure_batch_norm`` first."""

    def __str__(self) -> str:
        return (
            f"{self.trunk}: {len(self.matched)} tensors loaded, {len(self.unused)} of the file "
            f"unused ({shortened(self.unused)}), {len(self.fresh)} of the network fresh "
            f"({shortened(self.fresh)})"
        )


def load_trunk(network: nn.Module, path: Path | str) -> TrunkReport:
    """Copy a trunk's weights into a network, all or nothing.

    Raises ValueError, one line, on a network without a trunk, a file that is no flat state dict, a
    missing tensor, or a shape that differs.
    """
    candidates = trunks_of(network)
    tensors = read_tensors(Path(path))
    name = next((name for name in candidates if _is_in(candidates[name], tensors)), None)
    if name is None:
        raise ValueError(_what_is_missing(path, candidates, tensors))
    trunk, own = candidates[name], network.state_dict()
    for target, source in trunk.copied.items():
        check_shape(path, source, tuple(tensors[source].shape), target, tuple(own[target].shape))
    biases = {
        norm: torch.cat([tensors[source] for source in sources])
        for norm, sources in trunk.biases.items()
    }
    for norm, bias in biases.items():
        target, source = f"{norm}.bias", " + ".join(trunk.biases[norm])
        check_shape(path, source, tuple(bias.shape), target, tuple(own[target].shape))
    with torch.no_grad():
        for target, source in trunk.copied.items():
            own[target].copy_(tensors[source])
        for norm, bias in biases.items():
            _add_only(network.get_submodule(norm), bias)
    matched = dict(trunk.copied)
    for norm, sources in trunk.biases.items():
        matched.update({f"{norm}.{kind}": " + ".join(sources) for kind in BATCH_NORM})
    return TrunkReport(
        trunk=name,
        matched=matched,
        unused=sorted(set(tensors) - set(trunk.sources)),
        fresh=[target for target in own if target not in matched],
        norms=list(trunk.biases),
    )


def _add_only(norm: nn.Module, bias: torch.Tensor) -> None:
    """Have a batch norm add the bias, in eval mode."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.running_mean.zero_()
    norm.running_var.fill_(1.0)
    norm.weight.fill_((1.0 + norm.eps) ** 0.5)
    norm.bias.copy_(bias)


@dataclass(frozen=True)
class Trunk:
    """Where a network takes what from a file of torchvision."""

    copied: dict[str, str]
    """The network's tensor -> the file's of the same shape."""
    biases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """The network's batch norm -> the file's biases, joined, of the convolutions before it."""

    @property
    def sources(self) -> list[str]:
        """All that is taken from the file."""
        return [*self.copied.values(), *chain.from_iterable(self.biases.values())]


def trunks_of(network: nn.Module) -> dict[str, Trunk]:
    """Trunks that fit a network, by torchvision's name. Raises ValueError where there is none."""
    if isinstance(network, NETWORKS["segnet"]):  # type: ignore[arg-type]
        return {
            "vgg16_bn": Trunk(vgg16_mapping(VGG16_BN, True)),
            "vgg16": Trunk(vgg16_mapping(VGG16, False)),
        }
    if isinstance(network, NETWORKS["elu_squeezenet"]):  # type: ignore[arg-type]
        return {"squeezenet1_1": Trunk(squeezenet_mapping("stem.0"))}
    if isinstance(network, NETWORKS["fast_elu_squeezenet"]):  # type: ignore[arg-type]
        return {"squeezenet1_1": normalised_squeezenet(network)}
    raise ValueError(
        f"{type(network).__name__} has no pre-trained trunk; SegNet takes vgg16 or vgg16_bn, "
        "EluSqueezeNet, FastEluSqueezeNet and FastReluSqueezeNet take squeezenet1_1"
    )


def vgg16_mapping(features: tuple[tuple[int, ...], ...], batch_norm: bool) -> dict[str, str]:
    """SegNet's tensor -> torchvision's, for the indices of a VGG-16's convolutions."""
    mapping = {}
    for stage, indices in enumerate(features):
        for layer, index in enumerate(indices):
            own = f"encoder.{stage}.{layer}"
            mapping.update(_tensors(f"{own}.conv", f"features.{index}", CONVOLUTION))
            if batch_norm:
                mapping.update(_tensors(f"{own}.norm", f"features.{index + 1}", BATCH_NORM))
    return mapping


def squeezenet_mapping(stem: str) -> dict[str, str]:
    """ELU-SqueezeNet's tensor -> torchvision's in SqueezeNet 1.1."""
    mapping = _tensors(stem, "features.0", CONVOLUTION)
    for group, indices in SQUEEZENET_FIRES.items():
        for position, index in enumerate(indices):
            for part, source in FIRE_PARTS.items():
                own = f"{group}.{position}.{part}"
                mapping.update(_tensors(own, f"features.{index}.{source}", CONVOLUTION))
    return mapping


def normalised_squeezenet(network: nn.Module) -> Trunk:
    """The fires of SqueezeNet 1.1 that the improved variant has, with batch norms behind them."""
    copied = {"stem.0.weight": "features.0.weight"}
    biases: dict[str, tuple[str, ...]] = {"stem.1": ("features.0.bias",)}
    for group, indices in SQUEEZENET_FIRES.items():
        fires = len(network.get_submodule(group))  # type: ignore[arg-type]
        for position, index in enumerate(indices[:fires]):
            own, source = f"{group}.{position}", f"features.{index}"
            for part, name in FIRE_PARTS.items():
                copied[f"{own}.{part}.weight"] = f"{source}.{name}.weight"
            biases[f"{own}.squeeze_norm"] = (f"{source}.squeeze.bias",)
            biases[f"{own}.expand_norm"] = (
                f"{source}.expand1x1.bias",
                f"{source}.expand3x3.bias",
            )
    return Trunk(copied, biases)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """A flat state dict from safetensors, or from torch's own format with weights_only=True.

    Raises ValueError where it is neither.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; expected {WEIGHTS_FORMATS}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are something else make torch raise nearly anything
        # What torch says of a pickle advises to run whatever code is in it.
        why = "" if isinstance(error, UnpicklingError) else f" ({reason(error)[:200]})"
        raise ValueError(
            f"{path}: not a state dict of tensors alone{why}; expected {WEIGHTS_FORMATS}"
        ) from error
    if not isinstance(tensors, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in tensors.items()
    ):
        raise ValueError(f"{path}: expected a flat state dict {{name: tensor}}")
    return dict(tensors)


def _tensors(own: str, source: str, kinds: tuple[str, ...]) -> dict[str, str]:
    return {f"{own}.{kind}": f"{source}.{kind}" for kind in kinds}


def _is_in(trunk: Trunk, tensors: Mapping[str, torch.Tensor]) -> bool:
    return set(trunk.sources) <= set(tensors)


def _what_is_missing(
    path: Path | str, candidates: dict[str, Trunk], tensors: Mapping[str, torch.Tensor]
) -> str:
    """Of each candidate the first tensor that the file lacks."""
    lacks = [
        f"{name} ({next(s for s in trunk.sources if s not in tensors)} is missing)"
        for name, trunk in candidates.items()
    ]
    return f"{path}: {len(tensors)} tensors, but not those of {' or '.join(lacks)}"


def check_shape(
    path: Path | str,
    source: str,
    found: tuple[int, ...],
    name: str,
    expected: tuple[int, ...],
    advice: str = "",
) -> None:
    if found != expected:
        raise ValueError(
            f"{path}: {source} is {found}, but the network's {name} is {expected}; "
            f"nothing was loaded{advice}"
        )


def shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") or "none"
