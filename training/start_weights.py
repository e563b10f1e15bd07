"""Start from the weights of another run or of a model: as they are, widened, or narrowed."""

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from torch import nn

from segmentation_node.model_card import CARD_FILE, read_card
from segmentation_node.networks import build_network
from training.pretrained import check_shape, read_tensors, shortened
from training.recipe import RECIPE_FILE, Recipe
from training.widen import widened

SAME_NETWORK = (
    "; network and network_options must be those that the file was trained with, as in the "
    "recipe.yaml or model.yaml beside it"
)


def load_start(network: nn.Module, recipe: Recipe, resized: Collection[str]) -> str:
    """Copy a recipe's ``start_weights`` into its network, all or nothing; a line that says so.

    ``resized`` names the tensors whose shape follows the number of classes: those stay as they
    are where the file's were made for another number. Raises ValueError, one line, where the file
    is of another network.
    """
    path = Path(recipe.start_weights)
    tensors, own = read_tensors(path), network.state_dict()
    _check_names(path, tensors, own)
    wide = _network_of(path, tensors, resized) if recipe.narrow_start else None
    try:
        if recipe.widen_start:
            others = [name for name in resized if own[name].shape[:1] != tensors[name].shape[:1]]
            tensors = widened(network, tensors, others)
        if wide is not None:
            from training.narrow import narrowed

            tensors = narrowed(network, wide)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    fresh = [name for name in own if name in resized and tensors[name].shape != own[name].shape]
    matched = [name for name in own if name not in fresh]
    _check_shapes(path, tensors, own, matched)
    with torch.no_grad():
        for name in matched:
            own[name].copy_(tensors[name])
    return f"{path}: {len(matched)} tensors loaded, {len(fresh)} fresh ({shortened(fresh)})"


def _network_of(
    path: Path, tensors: Mapping[str, torch.Tensor], resized: Collection[str]
) -> nn.Module:
    """The network that a file of weights is of, with them; the recipe or card beside it says which.

    Raises ValueError where neither is there, or it says another.
    """
    if (path.parent / RECIPE_FILE).is_file():
        found = Recipe.read(path.parent / RECIPE_FILE)
        name, options = found.network, found.network_options
    elif (path.parent / CARD_FILE).is_file():
        described = read_card(str(path.parent)).network
        name, options = described.name, described.options
    else:
        raise ValueError(
            f"{path}: neither {RECIPE_FILE} nor {CARD_FILE} beside it says how wide it is"
        )
    network = build_network(name, tensors[next(iter(resized))].shape[0], options)
    own = network.state_dict()
    _check_names(path, tensors, own)
    _check_shapes(path, tensors, own, own)
    network.load_state_dict(tensors)
    return network


def _check_names(
    path: Path, tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> None:
    strangers = sorted(set(tensors) ^ set(own))
    if strangers:
        raise ValueError(
            f"{path}: weights of another network, which does not share {shortened(strangers)}"
            + SAME_NETWORK
        )


def _check_shapes(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    names: Collection[str],
) -> None:
    for name in names:
        shapes = tuple(tensors[name].shape), tuple(own[name].shape)
        check_shape(path, name, shapes[0], name, shapes[1], SAME_NETWORK)
